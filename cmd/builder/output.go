// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"builder/archive"
	"builder/build"
	"builder/image"
	"builder/internal/atomicfile"
	"builder/layer"
	"builder/progress"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// outputFlags say what becomes of the result.
type outputFlags struct {
	tags    []string
	outputs []string
	iidfile string
}

func (f *outputFlags) addFlags(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&f.tags, "tag", "t", nil, "name the image `NAME[:TAG]`; may be repeated")
	fs.StringArrayVarP(&f.outputs, "output", "o", nil, "where the result goes, `type=oci|docker|tar|local,dest=PATH` (default the image store)")
	fs.StringVar(&f.iidfile, "iidfile", "", "write the image's ID to a `FILE`")
}

// resolve reads the flags into a request.
func (f *outputFlags) resolve(req *buildRequest) (err error) {
	if req.outputs, err = parseOutputs(f.outputs); err != nil {
		return err
	}
	for _, t := range f.tags {
		ref, err := image.ParseRef(t)
		if err == nil && ref.Digest != "" {
			err = fmt.Errorf("%q has a digest, which an image gets from its content", t)
		}
		if err != nil {
			return &usageError{msg: fmt.Sprintf("build: --tag: %v", err), hint: "builder build --help"}
		}
		req.names = append(req.names, ref)
	}
	form := build.ImageOptions{}
	for _, out := range req.outputs {
		req.opts.Files = req.opts.Files || out.files()
		form.Layer = out.layerOptions(form.Layer)
	}
	if len(req.names) > 0 || len(req.outputs) == 0 || anyArchive(req.outputs) {
		req.opts.Images = []build.ImageOptions{form}
	}
	return nil
}

// deliver names the image and writes the outputs.
func (b *buildSession) deliver(ctx context.Context, req *buildRequest, res *build.Result) error {
	if len(req.names) > 0 || len(req.outputs) == 0 && !req.nameless {
		refs := make([]string, len(req.names))
		for i, n := range req.names {
			refs[i] = n.String()
		}
		if err := b.tag(res.Images[0].Desc, refs); err != nil {
			return fmt.Errorf("name image: %w", err)
		}
	}
	for _, out := range req.outputs {
		if err := out.write(ctx, b, res, req.names); err != nil {
			return fmt.Errorf("output type=%s: %w", out.kind, err)
		}
	}
	if req.flags.iidfile != "" && len(res.Images) > 0 {
		return atomicfile.Write(req.flags.iidfile, []byte(imageID(res.Images[0])), 0o644)
	}
	return nil
}

// tag names the image, as a vertex for each name.
func (b *buildSession) tag(desc ocispec.Descriptor, refs []string) error {
	for _, ref := range refs {
		b.env.Sink.Event(progress.Event{Vertex: "name " + ref, Start: &progress.Start{Name: "naming to " + ref}})
	}
	err := b.env.Store.Tag(desc, refs...)
	for _, ref := range refs {
		b.env.Sink.Event(progress.Event{Vertex: "name " + ref, Done: &progress.Done{Err: err}})
	}
	return err
}

// output is one -o: where the result of a build goes.
type output struct {
	kind string // image, oci, docker, tar, local
	dest string // a path, or "-" for standard output

	compression layer.Compression
	level       int
}

// parseOutputs reads the -o flags: comma-separated NAME=VALUE fields, or a
// path alone, which is type=local, or "-", which is type=tar on standard
// output.
func parseOutputs(words []string) ([]output, error) {
	var outs []output
	for _, w := range words {
		o, err := parseOutput(w)
		if err != nil {
			return nil, &usageError{msg: fmt.Sprintf("build: --output %q: %v", w, err),
				hint: "such as -o type=oci,dest=image.tar, -o type=local,dest=DIR, -o type=tar,dest=-"}
		}
		outs = append(outs, o)
	}
	return outs, nil
}

func parseOutput(w string) (output, error) {
	if w == "-" {
		return output{kind: "tar", dest: "-"}, nil
	}
	fields, err := csv.NewReader(strings.NewReader(w)).Read()
	if err != nil {
		return output{}, err
	}
	if len(fields) == 1 && !strings.Contains(w, "=") {
		return output{kind: "local", dest: w}, nil
	}
	var o output
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return o, fmt.Errorf("%q: want NAME=VALUE", f)
		}
		switch strings.ToLower(k) {
		case "type":
			o.kind = v
		case "dest":
			o.dest = v
		case "compression":
			o.compression = layer.Compression(v)
		case "compression-level":
			if o.level, err = strconv.Atoi(v); err != nil {
				return o, fmt.Errorf("compression-level %q is no number", v)
			}
		default:
			return o, fmt.Errorf("option %q is not supported", k)
		}
	}
	return o, o.check()
}

func (o output) check() error {
	switch o.kind {
	case "image":
		if o.dest != "" {
			return errors.New("type=image takes no dest: the image goes to the image store")
		}
	case "oci", "docker", "tar":
		if o.dest == "" {
			return fmt.Errorf("type=%s needs a dest", o.kind)
		}
	case "local":
		if o.dest == "" || o.dest == "-" {
			return errors.New("type=local needs a directory as dest")
		}
	case "":
		return errors.New("it has no type")
	default:
		return fmt.Errorf("type %q is not supported: want image, oci, docker, tar or local", o.kind)
	}
	switch o.compression {
	case "", layer.Gzip, layer.Zstd, layer.Uncompressed:
	default:
		return fmt.Errorf("compression %q is not supported: want gzip, zstd or uncompressed", o.compression)
	}
	if o.compression != "" && (o.kind == "tar" || o.kind == "local") {
		return fmt.Errorf("type=%s is never compressed", o.kind)
	}
	return nil
}

// files reports whether the output is the target's files rather than its
// image.
func (o output) files() bool { return o.kind == "tar" || o.kind == "local" }

func anyArchive(outs []output) bool {
	return slices.ContainsFunc(outs, func(o output) bool { return !o.files() })
}

// layerOptions are the options for writing layers that the output asks for.
func (o output) layerOptions(opts layer.Options) layer.Options {
	if o.compression != "" {
		opts.Compression, opts.Level = o.compression, o.level
	}
	return opts
}

// write delivers the result of a build.
func (o output) write(ctx context.Context, b *buildSession, res *build.Result, names []image.Ref) error {
	switch o.kind {
	case "image":
		if len(names) == 0 {
			return b.env.Store.Tag(res.Images[0].Desc)
		}
		return nil
	case "local":
		return o.writeLocal(ctx, b.env, res)
	}
	w, done, err := b.e.create(o.dest)
	if err != nil {
		return err
	}
	return done(o.writeTo(ctx, w, b.env, res, names))
}

func (o output) writeTo(ctx context.Context, w io.Writer, benv build.Env, res *build.Result, names []image.Ref) error {
	if o.kind == "tar" {
		root, err := benv.RootFS.Snapshots().View(ctx, res.Files[0].Snapshot)
		if err != nil {
			return err
		}
		defer root.Close()
		_, err = layer.WriteTree(ctx, w, root, layer.Options{Compression: layer.Uncompressed})
		return err
	}
	refs := make([]string, len(names))
	for i, n := range names {
		refs[i] = n.String()
	}
	images := []archive.Image{{Desc: res.Images[0].Desc, Names: refs}}
	if o.kind == "docker" {
		return archive.SaveDocker(ctx, benv.Store, w, images)
	}
	return archive.SaveOCI(ctx, benv.Store, w, images)
}

// writeLocal copies the target's files into a directory.
func (o output) writeLocal(ctx context.Context, benv build.Env, res *build.Result) error {
	root, err := benv.RootFS.Snapshots().View(ctx, res.Files[0].Snapshot)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := os.MkdirAll(o.dest, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(o.dest)
	if err != nil {
		return err
	}
	defer dir.Close()
	r, w := io.Pipe()
	go func() {
		_, err := layer.WriteTree(ctx, w, root, layer.Options{Compression: layer.Uncompressed})
		w.CloseWithError(err)
	}()
	_, err = layer.Apply(ctx, dir, r, layer.ApplyOptions{Plain: true})
	r.CloseWithError(err)
	return err
}

// create opens a result file: a temporary one that takes its name when done is
// called without an error, or standard output unless that is a terminal.
func (e *env) create(name string) (w io.Writer, done func(error) error, err error) {
	if name == "-" {
		if term.IsTerminal(int(e.stdout.Fd())) {
			return nil, nil, errors.New("refusing to write an archive to a terminal: redirect it, or name a file")
		}
		return e.stdout, func(err error) error { return err }, nil
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

// isArchive reports whether data begins a tar archive, plain or compressed.
func isArchive(data []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(data, []byte(magic)) {
			return true
		}
	}
	if len(data) > 262 && string(data[257:262]) == "ustar" {
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(data)).Next()
	return err == nil // the old format has only its checksum
}
