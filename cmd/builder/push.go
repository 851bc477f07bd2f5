// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"fmt"

	"builder/image"
	"builder/progress"
	"builder/registry"
	"builder/store"
)

func runPush(ctx context.Context, e *env, args []string) error {
	fs := flags("push")
	quiet := fs.BoolP("quiet", "q", false, "show only the image's name")
	mode := fs.String("progress", "auto", "how to show progress: auto, plain, tty or quiet")
	allTags := fs.BoolP("all-tags", "a", false, "send every tag of the repository that is in the image store")
	platform := fs.String("platform", "", "of an image for several platforms send that for `OS/ARCH[/VARIANT]` alone")
	verify := fs.Bool("tls-verify", true, tlsUsage)
	words, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	ref, err := image.ParseRef(words[0])
	if err == nil && *allTags {
		ref, err = parseRepository("push", words[0])
	}
	if err != nil {
		return err
	}
	if *quiet {
		*mode = "quiet"
	}
	client, err := e.registry(allowInsecure(!*verify, ref))
	if err != nil {
		return err
	}
	p := pushing{client: client, platform: *platform, mode: *mode, quiet: *quiet}
	if !*allTags {
		return e.push(ctx, ref, p)
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	refs, err := tagged(s, ref.Name())
	if err == nil && len(refs) == 0 {
		err = fmt.Errorf("push %s: no image in the store has a tag of it", ref.FamiliarName())
	}
	for _, ref := range refs {
		if err == nil {
			err = e.push(ctx, ref, p)
		}
	}
	return err
}

// tagged are the names in the store that are tags of a repository.
func tagged(s *store.Store, repository string) ([]image.Ref, error) {
	entries, err := s.Entries()
	var refs []image.Ref
	for _, e := range entries {
		ref, err := image.ParseRef(e.Name)
		if err == nil && ref.Name() == repository && ref.Tag != "" && ref.Digest == "" {
			refs = append(refs, ref)
		}
	}
	return refs, err
}

// pushing is how an image is pushed.
type pushing struct {
	client   *registry.Client
	platform string // "" for all
	mode     string // of the progress
	quiet    bool
}

// push sends an image to the registry that its name names. Of an index of
// which not all was pulled, it sends the platform that is here.
func (e *env) push(ctx context.Context, ref image.Ref, p pushing) error {
	s, err := e.store()
	if err != nil {
		return err
	}
	entry, err := s.Resolve(ref.String())
	if err != nil {
		return err
	}
	if p.platform != "" {
		_, img, err := imageFor(s, ref.String(), p.platform)
		if err != nil {
			return err
		}
		entry.Desc = img.Desc
	}
	desc, one, err := s.Present(entry.Desc)
	if err != nil {
		return err
	}
	vertex := "push " + ref.Familiar()
	done, sink, err := e.vertex(p.mode, vertex)
	if err != nil {
		return err
	}
	err = p.client.Push(ctx, s, ref, desc, sink, vertex)
	if err == nil {
		noteImage(s, "push", desc, ref.String())
	}
	if err = done(progress.Done{Err: err, Result: desc.Digest}); err != nil {
		return err
	}
	if desc.Digest != entry.Desc.Digest {
		fmt.Fprintf(e.stderr, "builder: warning: not every platform of the image is here: only %s was pushed\n", image.FormatPlatform(one.Config.Platform))
	}
	if !p.quiet {
		fmt.Fprintf(e.stdout, "Digest: %s\n", desc.Digest)
	}
	fmt.Fprintln(e.stdout, ref)
	return nil
}
