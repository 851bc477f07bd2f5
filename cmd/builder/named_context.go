// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"builder/archive"
	"builder/build"
	"builder/buildcontext"
	"builder/dockerfile"
	"builder/image"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// namedContexts are the named contexts of one build.
type namedContexts struct {
	b      *buildSession
	opener *contextOpener
	byName map[string]build.NamedContext

	mu    sync.Mutex
	trees []*buildcontext.Tree // to be closed
}

// namedContexts reads --build-context flags, NAME=SOURCE. Sources are opened
// when the build asks for them.
func (b *buildSession) namedContexts(opener *contextOpener, words []string, pull bool) (*namedContexts, error) {
	n := &namedContexts{b: b, opener: opener, byName: map[string]build.NamedContext{}}
	for _, w := range words {
		name, source, err := splitContext(w)
		if err == nil {
			n.byName[name], err = n.source(name, source, pull)
		}
		if err != nil {
			return nil, &usageError{msg: fmt.Sprintf("build: --build-context %q: %v", w, err),
				hint: "such as --build-context lib=../lib, --build-context alpine=docker-image://debian:12, --build-context base=oci-layout://path/to/layout:tag"}
		}
	}
	return n, nil
}

func splitContext(w string) (name, source string, err error) {
	name, source, ok := strings.Cut(w, "=")
	if !ok || name == "" || source == "" {
		return "", "", errors.New("want NAME=SOURCE")
	}
	name, err = build.ContextName(name)
	return name, source, err
}

// close closes what was opened.
func (n *namedContexts) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, t := range n.trees {
		errs = append(errs, t.Close())
	}
	n.trees = nil
	return errors.Join(errs...)
}

// source is how a source is opened.
func (n *namedContexts) source(name, source string, pull bool) (build.NamedContext, error) {
	if ref, ok := strings.CutPrefix(source, "docker-image://"); ok {
		return n.imageOpener(ref, pull)
	}
	if layout, ok := strings.CutPrefix(source, "oci-layout://"); ok {
		return n.layoutOpener(layout)
	}
	if isDir(source) {
		return n.treeOpener("", func(context.Context) (*buildcontext.Tree, error) { return n.openDir(source) }), nil
	}
	vertex := "[context " + name + "] " + source
	git, err := dockerfile.ParseGitRef(source)
	switch {
	case err != nil:
		return nil, err
	case git != nil:
		return n.treeOpener(source, func(ctx context.Context) (*buildcontext.Tree, error) {
			dir, opts, err := n.opener.openGit(ctx, vertex, *git)
			if err != nil {
				return nil, err
			}
			return buildcontext.Open(dir, opts)
		}), nil
	case isHTTP(source):
		// Not unpacked, as in BuildKit: a tree with the file "context".
		return n.treeOpener(source, func(ctx context.Context) (*buildcontext.Tree, error) {
			dir, err := n.opener.fetchFile(ctx, vertex, source)
			if err != nil {
				return nil, err
			}
			return buildcontext.Open(dir, buildcontext.Options{})
		}), nil
	}
	if scheme, _, ok := strings.Cut(source, "://"); ok {
		return nil, fmt.Errorf("sources of the kind %s:// are not known", scheme)
	}
	if _, err := os.Stat(source); err != nil {
		return nil, fmt.Errorf("%q: %w", source, errors.Unwrap(err))
	}
	return nil, fmt.Errorf("%q is not a directory", source)
}

// treeOpener opens a tree at most once; an error is tried again.
func (n *namedContexts) treeOpener(url string, open func(context.Context) (*buildcontext.Tree, error)) build.NamedContext {
	var mu sync.Mutex
	var tree *buildcontext.Tree
	return func(ctx context.Context, _ image.Platform) (build.ContextSource, error) {
		mu.Lock()
		defer mu.Unlock()
		if tree == nil {
			t, err := open(ctx)
			if err != nil {
				return build.ContextSource{}, err
			}
			tree = t
			n.mu.Lock()
			n.trees = append(n.trees, t)
			n.mu.Unlock()
		}
		return build.ContextSource{Tree: tree, URL: url}, nil
	}
}

// openDir opens a directory less what its own .dockerignore excludes.
func (n *namedContexts) openDir(dir string) (*buildcontext.Tree, error) {
	var opts buildcontext.Options
	ignore, err := buildcontext.ReadIgnore(os.Open, filepath.Join(dir, ".dockerignore"))
	if err != nil {
		return nil, err
	}
	opts.SetIgnore(ignore)
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if opts.Index, err = n.b.env.Cache.ContextIndex(abs); err != nil {
		return nil, err
	}
	return n.b.trees.Open(dir, opts)
}

func (n *namedContexts) imageOpener(name string, pull bool) (build.NamedContext, error) {
	if name == "scratch" {
		return func(context.Context, image.Platform) (build.ContextSource, error) { return build.ContextSource{}, nil }, nil
	}
	ref, err := image.ParseRef(name)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, platform image.Platform) (build.ContextSource, error) {
		img, err := n.b.env.Images.Image(ctx, ref, platform, pull)
		return build.ContextSource{Image: &img}, err
	}, nil
}

// layoutOpener reads DIR[:TAG][@DIGEST]: an image of an OCI image layout, whose
// blobs are copied to the store.
func (n *namedContexts) layoutOpener(source string) (build.NamedContext, error) {
	dir, want, hasDigest := strings.Cut(source, "@")
	tag := "latest"
	if i := strings.LastIndexByte(dir, ':'); i >= 0 && !strings.Contains(dir[i:], "/") {
		dir, tag = dir[:i], dir[i+1:]
	}
	if hasDigest {
		if err := digest.Digest(want).Validate(); err != nil {
			return nil, fmt.Errorf("digest %q: %w", want, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err != nil {
		return nil, fmt.Errorf("%q is no OCI image layout: %w", dir, err)
	}
	find := sync.OnceValues(func() (ocispec.Descriptor, error) {
		loaded, err := archive.LoadDir(context.Background(), n.b.env.Store, dir, archive.LoadOptions{})
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if hasDigest {
			return n.findDigest(loaded, digest.Digest(want))
		}
		for _, l := range loaded {
			if hasTag(l, tag, len(loaded)) {
				return l.Desc, nil
			}
		}
		return ocispec.Descriptor{}, fmt.Errorf("%s has no image with the tag %q", dir, tag)
	})
	return func(_ context.Context, platform image.Platform) (build.ContextSource, error) {
		desc, err := find()
		if err != nil {
			return build.ContextSource{}, err
		}
		img, err := n.b.env.Store.Image(desc, platform)
		return build.ContextSource{Image: &img}, err
	}, nil
}

// findDigest finds an image by its digest: a row of the layout's index, or a
// platform of one.
func (n *namedContexts) findDigest(loaded []archive.Loaded, want digest.Digest) (ocispec.Descriptor, error) {
	for _, l := range loaded {
		if l.Desc.Digest == want {
			return l.Desc, nil
		}
		if !image.IsIndex(l.Desc.MediaType) {
			continue
		}
		data, err := n.b.env.Store.ReadBlob(l.Desc, image.MaxManifestSize)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		idx, err := image.ParseIndex(data)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		for _, m := range idx.Manifests {
			if m.Digest == want {
				return m, nil
			}
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("the layout has no image %s", want)
}

// hasTag reports whether an image of a layout has the tag; a single image
// without any name has every one.
func hasTag(l archive.Loaded, tag string, images int) bool {
	for _, name := range l.Names {
		if ref, err := image.ParseRef(name); err == nil && ref.Tag == tag {
			return true
		}
	}
	return slices.Contains(l.Tags, tag) || len(l.Names)+len(l.Tags) == 0 && images == 1
}
