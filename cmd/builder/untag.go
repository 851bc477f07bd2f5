// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"fmt"
	"slices"

	"builder/image"
)

// runUntag takes away the names given, or else all names of the image. The
// image itself stays.
func runUntag(_ context.Context, e *env, args []string) error {
	fs := flags("untag")
	words, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	entry, err := s.Resolve(words[0])
	if err != nil {
		return err
	}
	img, err := removal{e: e, s: s}.sameImage(entry)
	if err != nil {
		return err
	}
	names := img.names
	if len(words) > 1 {
		names = nil
	}
	for _, w := range words[1:] {
		ref, err := image.ParseRef(w)
		if err != nil {
			return err
		}
		if !slices.Contains(img.names, ref.String()) {
			return fmt.Errorf("untag %s: image %s has no such name; it has %s", ref.Familiar(), formatID(img.id, false), nameList(img.names))
		}
		if !slices.Contains(names, ref.String()) {
			names = append(names, ref.String())
		}
	}
	if err := s.Unname(names...); err != nil {
		return err
	}
	noteImageID(s, "untag", img.id, img.labels, names...)
	return nil
}

// nameList is familiar, with a word where there is no name.
func nameList(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return familiar(names)
}
