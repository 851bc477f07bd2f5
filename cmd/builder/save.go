// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"builder/archive"
	"builder/image"
	"builder/layer"
	"builder/store"
)

// saveFormats are the values of save --format that are one file, "" the
// default.
func saveFormats() map[string]func(context.Context, *store.Store, io.Writer, []archive.Image) error {
	return map[string]func(context.Context, *store.Store, io.Writer, []archive.Image) error{
		"":               archive.SaveDocker,
		"oci-archive":    archive.SaveOCI,
		"docker-archive": archive.SaveLegacy,
	}
}

func runSave(ctx context.Context, e *env, args []string) (err error) {
	fs := flags("save")
	output := fs.StringP("output", "o", "", "write a `FILE` instead of standard output")
	format := fs.String("format", "", "`FORMAT`: oci-archive, docker-archive (as docker before 25), or oci-dir; the default is an archive of both kinds, as docker's since 25")
	platform := fs.String("platform", "", platformUsage)
	compression := fs.String("compression", string(layer.Uncompressed), "compress the archive with `gzip` or zstd; layers are as they are in any case, but those of docker-archive, which are not compressed")
	words, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	save, ok := saveFormats()[*format]
	switch {
	case *format == "oci-dir" && *output == "":
		return &usageError{msg: "save: --format oci-dir needs --output DIR"}
	case !ok && *format != "oci-dir":
		return &usageError{msg: fmt.Sprintf("save: --format %q: want oci-archive, docker-archive or oci-dir", *format)}
	case !slices.Contains([]layer.Compression{layer.Uncompressed, layer.Gzip, layer.Zstd}, layer.Compression(*compression)):
		return &usageError{msg: fmt.Sprintf("save: --compression %q: want gzip, zstd or uncompressed", *compression)}
	case *format == "oci-dir" && *compression != string(layer.Uncompressed):
		return &usageError{msg: "save: --compression: a directory is not compressed"}
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	images, err := toSave(s, words, *platform)
	if err != nil {
		return err
	}
	defer func() {
		for _, img := range images {
			if err == nil {
				noteImage(s, "save", img.Desc, img.Names...)
			}
		}
	}()
	if *format == "oci-dir" {
		return archive.SaveOCIDir(ctx, s, *output, images)
	}
	if *output == "" {
		*output = "-"
	}
	w, done, err := e.create(*output)
	if err != nil {
		return err
	}
	if *compression == string(layer.Uncompressed) {
		return done(save(ctx, s, w, images))
	}
	return done(compressed(ctx, w, layer.Compression(*compression), func(w io.Writer) error { return save(ctx, s, w, images) }))
}

// compressed compresses what write writes.
func compressed(ctx context.Context, w io.Writer, how layer.Compression, write func(io.Writer) error) error {
	r, plain := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(plain)
		plain.CloseWithError(err)
		written <- err
	}()
	_, err := layer.Compress(ctx, w, r, layer.Options{Compression: how})
	r.CloseWithError(err)
	if writeErr := <-written; err == nil {
		err = writeErr
	}
	return err
}

// wholeRepositories puts all tags of a repository that is named without one in its place,
// as docker does.
func wholeRepositories(s *store.Store, words []string) (out []string, err error) {
	entries, err := s.Entries()
	if err != nil {
		return nil, err
	}
	for _, w := range words {
		var tags []string
		if ref, err := image.ParseRef(w); err == nil && !strings.ContainsAny(path.Base(w), ":@") {
			for _, e := range entries {
				if other, err := image.ParseRef(e.Name); err == nil && other.Name() == ref.Name() && other.Digest == "" {
					tags = append(tags, e.Name)
				}
			}
		}
		if len(tags) == 0 {
			tags = []string{w}
		}
		out = append(out, tags...)
	}
	return out, nil
}

// toSave finds the images that words mean, each once, with the names it was
// given by.
func toSave(s *store.Store, words []string, platform string) ([]archive.Image, error) {
	words, err := wholeRepositories(s, words)
	if err != nil {
		return nil, err
	}
	var images []archive.Image
	for _, w := range words {
		entry, img, err := imageFor(s, w, platform)
		if err != nil {
			return nil, err
		}
		desc := entry.Desc
		if platform != "" {
			desc = img.Desc
		}
		i := slices.IndexFunc(images, func(img archive.Image) bool { return img.Desc.Digest == desc.Digest })
		if i < 0 {
			i = len(images)
			images = append(images, archive.Image{Desc: desc})
		}
		if byName(w, entry) && !slices.Contains(images[i].Names, entry.Name) {
			images[i].Names = append(images[i].Names, entry.Name)
		}
	}
	return images, nil
}
