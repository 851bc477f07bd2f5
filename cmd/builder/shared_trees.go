// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"

	"builder/buildcontext"
)

// sharedTrees opens each directory once for all builds of a command, so that
// none of its files is hashed twice. Nil opens every time.
type sharedTrees struct {
	mu   sync.Mutex
	open map[string]*buildcontext.Tree
}

// Open opens a directory. Whoever asks closes the tree.
func (s *sharedTrees) Open(dir string, opts buildcontext.Options) (*buildcontext.Tree, error) {
	if s == nil || opts.Index == "" {
		return buildcontext.Open(dir, opts)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	key := strings.Join(append([]string{abs, opts.IgnoreFile}, opts.Ignore...), "\x00")
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.open[key]
	if t == nil {
		if t, err = buildcontext.Open(dir, opts); err != nil {
			return nil, err
		}
		s.open[key] = t
	}
	return t.Share(), nil
}

// Close closes what the others have closed.
func (s *sharedTrees) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, t := range s.open {
		errs = append(errs, t.Close())
	}
	s.open = nil
	return errors.Join(errs...)
}
