// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"builder/store"
	"builder/supervisor"

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
	force := fs.BoolP("force", "f", false, "remove the image with all its names, and though ended containers came from it; of one on which a container runs, the name")
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
	img, err := r.sameImage(entry)
	if err != nil {
		return err
	}
	if byName(word, entry) {
		// The name goes, whatever it means by now, and no other.
		others := len(img.names) > 1
		if img.names = []string{entry.Name}; others {
			return r.untag(img)
		}
	}
	if len(img.names) > 1 && !r.force {
		return fmt.Errorf("remove image %s: it has several names (%s): remove them by name, or all with --force", formatID(img.id, false), familiar(img.names))
	}
	err = r.used(img.id)
	if runs := new(usedByRunning); r.force && byName(word, entry) && errors.As(err, &runs) {
		// The image stays, without a name, for as long as the container does.
		if err := r.s.Unname(entry.Name); err != nil {
			return err
		}
		r.tellUntagged(img, entry.Name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", word, err)
	}
	// Not more than was looked at: an image may get another name meanwhile.
	if err := r.untag(img, img.manifests...); err != nil {
		return err
	}
	if left, err := r.sameImage(entry); err != nil || len(left.manifests) > 0 {
		return err
	}
	noteImageID(r.s, "delete", img.id, img.labels)
	fmt.Fprintf(r.e.stdout, "Deleted: %s\n", img.id)
	return nil
}

// doomed is an image: what has one ID.
type doomed struct {
	id        digest.Digest
	labels    map[string]string
	names     []string
	manifests []digest.Digest // several if it came with differently compressed layers
}

// sameImage finds every row of the image that a row is of.
func (r removal) sameImage(entry store.Entry) (doomed, error) {
	entries, err := r.s.Entries()
	if err != nil {
		return doomed{}, err
	}
	d := doomed{id: entry.Desc.Digest} // if it can't be read
	if img, err := localImage(r.s, entry.Desc); err == nil {
		d.id, d.labels = img.ID(), img.Config.Config.Labels
	}
	for _, e := range entries {
		if r.imageID(e) != d.id {
			continue
		}
		if !slices.Contains(d.manifests, e.Desc.Digest) {
			d.manifests = append(d.manifests, e.Desc.Digest)
		}
		if e.Name != "" {
			d.names = append(d.names, e.Name)
		}
	}
	return d, nil
}

// imageID is the image's ID, or its manifest's digest if that can't be read.
func (r removal) imageID(e store.Entry) digest.Digest {
	if img, err := localImage(r.s, e.Desc); err == nil {
		return img.ID()
	}
	return e.Desc.Digest
}

// usedByRunning says that a container runs that was made from an image.
type usedByRunning struct{ name, id string }

func (u *usedByRunning) Error() string {
	return fmt.Sprintf("container %s (%s) runs on it: stop it first", u.name, u.id[:12])
}

// used tells of containers that were made from the image. Those that run keep
// it whatever was said.
func (r removal) used(id digest.Digest) error {
	all, err := supervisor.NewRecords(r.s).List()
	if err != nil {
		return err
	}
	mounts, err := mountsOf(r.s).list()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.ImageID == id.String() {
			return fmt.Errorf("it is mounted at %s: builder unmount %s first", m.Path, m.Image)
		}
	}
	for _, c := range all {
		if c.ImageID != id.String() {
			continue
		}
		if c.State.Alive() {
			return &usedByRunning{c.Name, c.ID}
		}
		if !r.force {
			return fmt.Errorf("container %s (%s) was made from it: remove it first, or use --force", c.Name, c.ID[:12])
		}
	}
	return nil
}

// untag removes the names of an image, and rows of manifests, and says which names went.
func (r removal) untag(img doomed, manifests ...digest.Digest) error {
	removed, err := r.s.Remove(img.names, manifests...)
	if err != nil {
		return err
	}
	for _, e := range removed {
		if e.Name != "" {
			r.tellUntagged(img, e.Name)
		}
	}
	return nil
}

func (r removal) tellUntagged(img doomed, name string) {
	noteImageID(r.s, "untag", img.id, img.labels, name)
	fmt.Fprintf(r.e.stdout, "Untagged: %s\n", familiarName(name))
}
