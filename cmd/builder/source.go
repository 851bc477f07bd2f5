// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"builder/image"
	"builder/progress"
	"builder/registry"
	"builder/store"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageSource finds images in the store and, where they aren't there, in their
// registries. It is the build's [build.ImageSource].
type imageSource struct {
	store *store.Store
	sink  progress.Sink
	open  func() (*registry.Client, error)
	never bool // --pull=never: what is not in the store is an error
}

func newImageSource(e *env, s *store.Store, sink progress.Sink) *imageSource {
	return &imageSource{store: s, sink: sink, open: sync.OnceValues(func() (*registry.Client, error) { return e.registry() })}
}

// Image implements build.ImageSource.
func (i *imageSource) Image(ctx context.Context, ref image.Ref, platform image.Platform, pull bool) (image.Image, error) {
	if !pull {
		img, err := i.local(ref, platform)
		if err == nil || !errors.Is(err, store.ErrNotFound) {
			return img, err
		}
		if i.never {
			return img, fmt.Errorf("it is not in the image store, and --pull=never forbids to fetch it: %w", err)
		}
	}
	client, err := i.open()
	if err != nil {
		return image.Image{}, err
	}
	vertex := "pull " + ref.Familiar()
	i.sink.Event(progress.Event{Vertex: vertex, Start: &progress.Start{Name: vertex}})
	desc, err := client.PullIndex(ctx, i.store, ref, platform, i.sink, vertex)
	if err == nil {
		err = i.store.Tag(desc, ref.String())
	}
	if err == nil {
		noteImage(i.store, "pull", desc, ref.String())
	}
	i.sink.Event(progress.Event{Vertex: vertex, Done: &progress.Done{Err: err, Result: desc.Digest}})
	if err != nil {
		return image.Image{}, err
	}
	return i.store.Image(desc, platform)
}

// local returns an image of which everything is in the store.
func (i *imageSource) local(ref image.Ref, platform image.Platform) (image.Image, error) {
	entry, err := i.store.Resolve(ref.String())
	if err != nil {
		return image.Image{}, err
	}
	img, err := i.store.Image(entry.Desc, platform)
	if err != nil {
		return img, err
	}
	for _, d := range append([]ocispec.Descriptor{img.Manifest.Config}, img.Manifest.Layers...) {
		if !i.store.Has(d) {
			return img, fmt.Errorf("blob %s: %w", d.Digest, store.ErrNotFound)
		}
	}
	return img, nil
}

// registry makes the client for registries, as this machine is set up, with what
// set changes.
func (e *env) registry(set ...func(*registry.Options)) (*registry.Client, error) {
	opts := registry.Options{UserAgent: "builder/" + version().Version, Log: e.logger(), Attempts: e.attempts, Delay: e.delay,
		Tell:      e.tell,
		AuthFiles: registry.AuthFiles(e.getenv), Warn: func(text string) { fmt.Fprintf(e.stderr, "builder: warning: %s\n", text) }}
	for _, f := range set {
		f(&opts)
	}
	return registry.New(opts), nil
}

// fetchImage fetches an image from its registry. Unless verify says so, certificates are
// not checked.
func (e *env) fetchImage(ctx context.Context, s *store.Store, sink progress.Sink, ref image.Ref, platform image.Platform, verify bool) (image.Image, error) {
	source := newImageSource(e, s, sink)
	source.open = func() (*registry.Client, error) { return e.registry(allowInsecure(!verify, ref)) }
	return source.Image(ctx, ref, platform, true)
}
