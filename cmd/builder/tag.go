// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"builder/image"
)

func runTag(_ context.Context, e *env, args []string) error {
	fs := flags("tag")
	words, err := e.parse(fs, args, 2, -1)
	if err != nil {
		return err
	}
	var names []string
	for _, w := range words[1:] {
		ref, err := image.ParseRef(w)
		if err != nil {
			return err
		}
		if ref.Digest != "" {
			return fmt.Errorf("%q has a digest, which an image gets from its content", w)
		}
		names = append(names, ref.String())
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	entry, err := s.Resolve(words[0])
	if err != nil {
		return err
	}
	if err := s.Tag(entry.Desc, names...); err != nil {
		return err
	}
	noteImage(s, "tag", entry.Desc, names...)
	return nil
}
