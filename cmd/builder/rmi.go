// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"builder/image"
	"builder/store"

	"github.com/opencontainers/go-digest"
)

// removal removes images.
type removal struct {
	e     *env
	s     *store.Store
	force bool
}

func runRmi(ctx context.Context, e *env, args []string) error {
	fs := flags("rmi")
	force := fs.BoolP("force", "f", false, "remove the image with all its names, and though ended containers came from it")
	noPrune := fs.Bool("no-prune", false, "keep layers that nothing needs any more")
	words, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	r := removal{e, s, *force}
	var errs []error
	removed := false
	for _, w := range words {
		if err := r.remove(w); err != nil {
			if !*force || !errors.Is(err, store.ErrNotFound) {
				errs = append(errs, err)
			}
			continue
		}
		removed = true
	}
	if removed && !*noPrune {
		errs = append(errs, collectGarbage(ctx, e))
	}
	return errors.Join(errs...)
}

// remove takes away one name, or all of an image that is given by its ID.
func (r removal) remove(word string) error {
	entry, err := r.s.Resolve(word)
	if err != nil {
		return err
	}
	entries, err := r.s.Entries()
	if err != nil {
		return err
	}
	var names []string
	for _, other := range entries {
		if other.Desc.Digest == entry.Desc.Digest && other.Name != "" {
			names = append(names, other.Name)
		}
	}
	id := entry.Desc.Digest
	if img, err := localImage(r.s, entry.Desc); err == nil {
		id = img.ID()
	}
	if byName(word, entry) && len(names) > 1 {
		return r.untag([]string{entry.Name}, entry.Desc.Digest, "")
	}
	if !byName(word, entry) && len(names) > 1 && !r.force {
		return fmt.Errorf("remove image %s: it has several names (%s): remove them by name, or all with --force", formatID(id, false), familiar(names))
	}
	if err := r.used(id); err != nil {
		return fmt.Errorf("remove image %s: %w", word, err)
	}
	return r.untag(names, entry.Desc.Digest, id)
}

// byName reports whether a word is the name of a row, rather than the ID or
// digest of its image.
func byName(word string, e store.Entry) bool {
	ref, err := image.ParseRef(word)
	return err == nil && ref.String() == e.Name
}

func familiar(names []string) string {
	out := ""
	for i, n := range names {
		if i > 0 {
			out += ", "
		}
		out += familiarName(n)
	}
	return out
}

func familiarName(name string) string {
	ref, err := image.ParseRef(name)
	if err != nil {
		return name
	}
	return ref.Familiar()
}

// used tells of containers that were made from the image. Those that run keep
// it whatever was said.
func (r removal) used(id digest.Digest) error {
	cs := containerStore{r.s}
	all, err := cs.list()
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.ImageID != id.String() {
			continue
		}
		if cs.running(c) {
			return fmt.Errorf("container %s (%s) runs on it: stop it first", c.Name, c.ID[:12])
		}
		if !r.force {
			return fmt.Errorf("container %s (%s) was made from it: remove it first, or use --force", c.Name, c.ID[:12])
		}
	}
	return nil
}

// untag removes rows and says what went. An image that has lost its last row
// is gone.
func (r removal) untag(names []string, manifest, id digest.Digest) error {
	var digests []digest.Digest
	if id != "" {
		digests = append(digests, manifest)
		names = nil
	}
	removed, err := r.s.Untag(names, digests...)
	if err != nil {
		return err
	}
	slices.SortFunc(removed, func(a, b store.Entry) int { return len(a.Name) - len(b.Name) })
	for _, e := range removed {
		if e.Name != "" {
			fmt.Fprintf(r.e.stdout, "Untagged: %s\n", familiarName(e.Name))
		}
	}
	if id != "" {
		fmt.Fprintf(r.e.stdout, "Deleted: %s\n", id)
	}
	return nil
}
