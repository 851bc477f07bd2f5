// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"builder/archive"
	"builder/build"
	"builder/image"
	"builder/internal/atomicfile"
	"builder/layer"
	"builder/progress"
	"builder/registry"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/term"
)

// deliver names the image, writes the outputs, and then, when nothing else can
// fail, pushes.
func (b *buildSession) deliver(ctx context.Context, req *buildRequest, res *build.Result) error {
	for _, w := range req.warnings {
		fmt.Fprintf(b.e.stderr, "builder: warning: %s\n", w)
	}
	for _, out := range req.outputs {
		done := func(error) {}
		if out.dest != "" {
			name := fmt.Sprintf("writing %s to %s", out.kind, out.dest)
			done = b.vertex(name, name)
		}
		err := b.output(ctx, out, res, req.nameless)
		done(err)
		if err != nil {
			return fmt.Errorf("output type=%s: %w", out.kind, err)
		}
	}
	for _, out := range req.outputs {
		if !out.push {
			continue
		}
		if err := b.push(ctx, out, res.Images[out.number].Desc); err != nil {
			return fmt.Errorf("output type=%s: %w", out.kind, err)
		}
	}
	if err := b.writeCaches(ctx, req, res); err != nil {
		return err
	}
	return req.report(res)
}

// output delivers one output. Of a build that is nameless only what has a name
// is kept.
func (b *buildSession) output(ctx context.Context, o *output, res *build.Result, nameless bool) error {
	switch {
	case o.kind == "cacheonly":
		return nil
	case o.kind == "local":
		return b.writeLocal(ctx, o, res.Files)
	case o.kind == "tar":
		return b.e.writeFile(o.dest, func(w io.Writer) error { return b.writeTar(ctx, w, o, res.Files) })
	}
	img := res.Images[o.number]
	if o.rewrite != nil && *o.rewrite && img.Epoch == nil {
		fmt.Fprintln(b.e.stderr, "builder: warning: rewrite-timestamp=true does nothing without SOURCE_DATE_EPOCH")
	}
	if o.kind == "image" || o.dest == "" {
		return b.keep(ctx, o, img, nameless)
	}
	save := archive.SaveOCI
	images := []archive.Image{{Desc: img.Desc}}
	for _, n := range o.names {
		images[0].Names = append(images[0].Names, n.ref.String())
	}
	if o.dir {
		images[0].Tag = "latest"
		return archive.SaveOCIDir(ctx, b.env.Store, o.dest, images)
	}
	if o.kind == "docker" {
		save = archive.SaveDocker
	}
	return b.e.writeFile(o.dest, func(w io.Writer) error { return save(ctx, b.env.Store, w, images) })
}

// keep puts an image in the name table.
func (b *buildSession) keep(ctx context.Context, o *output, img build.ImageResult, nameless bool) error {
	if o.stores() && !(nameless && len(o.names) == 0 && o.dangling == "") {
		var refs []string
		for _, ref := range o.refs(img.Desc) {
			refs = append(refs, ref.String())
		}
		if err := b.tag(img.Desc, refs); err != nil {
			return fmt.Errorf("name image: %w", err)
		}
	}
	if !o.unpack {
		return nil
	}
	host := slices.IndexFunc(img.Platforms, func(p build.PlatformImage) bool { return image.SamePlatform(p.Platform, image.HostPlatform()) })
	if host < 0 {
		return nil // there is nothing that this machine would run
	}
	one, err := b.env.Store.Image(img.Platforms[host].Desc, image.Platform{})
	if err == nil {
		_, err = b.env.RootFS.Unpack(ctx, one, b.env.Sink, "unpack image")
	}
	return err
}

// refs are the names that an image gets, and is pushed under. One that is
// pushed by its digest has no tag.
func (o *output) refs(desc ocispec.Descriptor) []image.Ref {
	var refs []image.Ref
	for _, n := range o.names {
		ref := n.ref
		if o.byDigest {
			ref.Tag, ref.Digest = "", desc.Digest
		}
		refs = append(refs, ref)
		if o.canonical && !o.byDigest {
			ref.Digest = desc.Digest
			refs = append(refs, ref)
		}
	}
	if o.dangling != "" && (!o.danglingOnly || len(o.names) == 0) {
		if name, err := parseName(o.dangling); err == nil { // as it was when it was read
			name.ref.Tag, name.ref.Digest = "", desc.Digest
			refs = append(refs, name.ref)
		}
	}
	return refs
}

// tag names the image, as a vertex for each name.
func (b *buildSession) tag(desc ocispec.Descriptor, refs []string) error {
	var dones []func(error)
	for _, ref := range refs {
		dones = append(dones, b.vertex("name "+ref, "naming to "+ref))
	}
	err := b.env.Store.Tag(desc, refs...)
	if err == nil && len(refs) > 0 {
		noteImage(b.env.Store, "tag", desc, refs...)
	}
	for _, done := range dones {
		done(err)
	}
	return err
}

// vertex begins a vertex that done ends.
func (b *buildSession) vertex(id, name string) (done func(error)) {
	b.env.Sink.Event(progress.Event{Vertex: id, Time: time.Now(), Start: &progress.Start{Name: name}})
	return func(err error) {
		b.env.Sink.Event(progress.Event{Vertex: id, Time: time.Now(), Done: &progress.Done{Err: err}})
	}
}

// push sends an image to the registries of its names.
func (b *buildSession) push(ctx context.Context, o *output, desc ocispec.Descriptor) error {
	for _, ref := range o.refs(desc) {
		if ref.Tag != "" && ref.Digest != "" {
			continue // a canonical name is for the image store
		}
		client, err := b.e.registry(func(opts *registry.Options) {
			if o.insecure {
				opts.Insecure = append(opts.Insecure, ref.Registry)
			}
		})
		if err != nil {
			return err
		}
		id := "push " + ref.Familiar()
		done := b.vertex(id, "pushing "+ref.Familiar())
		err = client.Push(ctx, b.env.Store, ref, desc, b.env.Sink, id)
		done(err)
		if err != nil {
			return err
		}
	}
	return nil
}

// image returns the image that a build is known by: that of the last output
// which is one.
func (req *buildRequest) image(res *build.Result) *build.ImageResult {
	for _, out := range slices.Backward(req.outputs) {
		if out.isImage() {
			return &res.Images[out.number]
		}
	}
	return nil
}

// report writes the files that tell what was made.
func (req *buildRequest) report(res *build.Result) error {
	if img := req.image(res); req.flags.iidfile != "" && img != nil {
		if err := atomicfile.Write(req.flags.iidfile, []byte(imageID(*img)), 0o644); err != nil {
			return fmt.Errorf("write image ID: %w", err)
		}
	}
	if req.flags.metadata == "" {
		return nil
	}
	data, err := json.MarshalIndent(req.metadata(res), "", "  ")
	if err == nil {
		err = atomicfile.Write(req.flags.metadata, data, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write metadata: %w", err)
	}
	return nil
}

// metadata is what buildx writes of a build; its keys are buildx's.
func (req *buildRequest) metadata(res *build.Result) map[string]any {
	meta := map[string]any{}
	for _, out := range req.outputs {
		if !out.isImage() {
			continue
		}
		img := res.Images[out.number]
		delete(meta, "containerimage.config.digest")
		if img.Desc.Digest == img.Platforms[0].Desc.Digest {
			meta["containerimage.config.digest"] = img.Platforms[0].Config.Digest
		}
		meta["containerimage.descriptor"] = img.Desc
		meta["containerimage.digest"] = img.Desc.Digest
		var names []string
		for _, ref := range out.refs(img.Desc) {
			names = append(names, ref.String())
		}
		if len(names) > 0 {
			meta["image.name"] = strings.Join(names, ",")
		}
	}
	return meta
}

// writeTar writes the target's files: of several platforms each in a directory
// of its own.
func (b *buildSession) writeTar(ctx context.Context, w io.Writer, o *output, files []build.PlatformFiles) error {
	var trees []layer.Tree
	for _, f := range files {
		root, err := b.env.RootFS.Snapshots().View(ctx, f.Snapshot)
		if err != nil {
			return err
		}
		defer root.Close()
		tree := layer.Tree{Root: root}
		if o.multi {
			tree.Dir = platformDir(f.Platform)
		}
		trees = append(trees, tree)
	}
	_, err := layer.WriteTrees(ctx, w, trees, layer.Options{Compression: layer.Uncompressed, Time: o.timeOf(files[0])})
	return err
}

// timeOf is the time that all of a platform's files get, nil for their own.
func (o *output) timeOf(f build.PlatformFiles) *time.Time {
	if o.epoch != nil {
		return o.epoch.Time
	}
	return f.Epoch
}

// platformDir is the directory for a platform's files.
func platformDir(p image.Platform) string {
	return strings.ReplaceAll(image.FormatPlatform(p), "/", "_")
}

// writeFile has a result file written by f.
func (e *env) writeFile(name string, f func(io.Writer) error) error {
	if name != "-" {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
	}
	w, done, err := e.create(name)
	if err != nil {
		return err
	}
	return done(f(w))
}

// create opens a result file: a temporary one that takes its name when done is
// called without an error, or standard output unless that is a terminal. Where
// the name is a symbolic link's, the file behind it is meant.
func (e *env) create(name string) (w io.Writer, done func(error) error, err error) {
	if name == "-" {
		if term.IsTerminal(int(e.stdout.Fd())) {
			return nil, nil, errors.New("refusing to write an archive to a terminal: redirect it, or name a file")
		}
		return e.stdout, func(err error) error { return err }, nil
	}
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	if fi, err := os.Stat(name); err == nil && !fi.Mode().IsRegular() && !fi.IsDir() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0) // a device or a pipe
		if err != nil {
			return nil, nil, err
		}
		return f, func(err error) error { return errors.Join(err, f.Close()) }, nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return nil, nil, err
	}
	done = func(err error) error {
		if err == nil {
			err = f.Chmod(0o644)
		}
		err = errors.Join(err, f.Close())
		if err == nil {
			err = os.Rename(f.Name(), name)
		}
		if err != nil {
			os.Remove(f.Name())
		}
		return err
	}
	return f, done, nil
}
