// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"builder/build"
	"builder/image"
	"builder/layer"
	"builder/remotecache"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/pflag"
	"github.com/tonistiigi/go-csvvalue"
)

// cacheFlags are the flags about caches outside of the state directory.
type cacheFlags struct {
	cacheFrom, cacheTo []string

	origins []cacheOrigin
}

func (f *cacheFlags) addFlags(fs *pflag.FlagSet) {
	wordsVar(fs, &f.cacheFrom, "cache-from", "cache to take results from, `REF|type=registry,ref=REF|type=local,src=DIR`")
	wordsVar(fs, &f.cacheTo, "cache-to", "cache to write when all is done, `type=registry,ref=REF|type=local,dest=DIR|type=inline[,mode=max]`")
}

// cacheOrigin is a cache to take results from.
type cacheOrigin struct {
	ref      image.Ref // of type=registry
	insecure bool
	dir      remotecache.Dir // of type=local
	tag      string
	digest   digest.Digest
}

// cacheTarget is a cache to write.
type cacheTarget struct {
	build.CacheTarget
	ref      image.Ref // of type=registry
	insecure bool
	dir      remotecache.Dir // of type=local
	tag      string
	reset    bool
	form     remotecache.Form
	strict   bool // a failure fails the build
}

func (t *cacheTarget) String() string { return cacheName(t.ref, t.dir) }

func cacheName(ref image.Ref, dir remotecache.Dir) string {
	if dir != "" {
		return string(dir)
	}
	return ref.Familiar()
}

// resolve reads the flags; flag names the one that is wrong.
func (f *cacheFlags) resolve(_ *env, req *buildRequest) (flag string, err error) {
	for _, w := range f.cacheFrom {
		entries, err := cacheEntries(w)
		if err != nil {
			return "cache-from", err
		}
		for _, entry := range entries {
			from, err := parseCacheOrigin(entry)
			if err != nil {
				return "cache-from", fmt.Errorf("%q: %w", w, err)
			}
			f.origins = append(f.origins, from)
		}
	}
	for _, w := range f.cacheTo {
		entries, err := cacheEntries(w)
		if err != nil {
			return "cache-to", err
		}
		for _, entry := range entries {
			to, err := parseCacheTarget(entry)
			if err != nil {
				return "cache-to", fmt.Errorf("%q: %w", w, err)
			}
			req.addCache(to)
		}
	}
	if v := req.opts.Args["BUILDKIT_INLINE_CACHE"]; v != "" {
		inline, err := strconv.ParseBool(v)
		if err != nil {
			return "build-arg", fmt.Errorf("BUILDKIT_INLINE_CACHE=%q: want true or false", v)
		}
		if inline {
			req.addCache(&cacheTarget{CacheTarget: build.CacheTarget{Inline: true}})
		}
	}
	return "", nil
}

func (req *buildRequest) addCache(to *cacheTarget) {
	req.opts.CacheTo = append(req.opts.CacheTo, to.CacheTarget)
	if !to.Inline {
		req.caches = append(req.caches, to)
	}
}

// field is one NAME=VALUE of a flag.
type field struct{ name, value string }

// cacheEntry is what a flag says of one cache.
type cacheEntry struct {
	kind   string
	fields []field
}

// cacheEntries reads a flag: comma-separated NAME=VALUE fields, quoted as in
// CSV, or references of registry caches alone.
func cacheEntries(word string) ([]cacheEntry, error) {
	if word == "" {
		return nil, nil
	}
	words, err := csvvalue.Fields(word, nil)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", word, err)
	}
	if !strings.Contains(word, "=") {
		var out []cacheEntry
		for _, ref := range words {
			out = append(out, cacheEntry{"registry", []field{{"ref", ref}}})
		}
		return out, nil
	}
	var e cacheEntry
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			return nil, fmt.Errorf("%q: field %q: want NAME=VALUE", word, w)
		}
		if k = strings.ToLower(k); k == "type" {
			e.kind = v
			continue
		}
		if slices.ContainsFunc(e.fields, func(f field) bool { return f.name == k }) {
			return nil, fmt.Errorf("%q: field %q is there twice", word, k)
		}
		e.fields = append(e.fields, field{k, v})
	}
	switch e.kind {
	case "registry", "local", "inline":
		return []cacheEntry{e}, nil
	case "":
		return nil, fmt.Errorf("%q: it has no type: want type=registry, local or inline", word)
	case "gha", "s3", "azblob":
		return nil, fmt.Errorf("%q: type %q is not supported: a registry serves every CI system, type=registry", word, e.kind)
	}
	return nil, fmt.Errorf("%q: type %q is not known: want registry, local or inline", word, e.kind)
}

func parseCacheOrigin(e cacheEntry) (from cacheOrigin, err error) {
	if e.kind == "inline" {
		return from, errors.New("an inline cache is in an image: name it by type=registry,ref=IMAGE")
	}
	from.tag = "latest"
	for _, f := range e.fields {
		switch e.kind + " " + f.name {
		case "registry ref":
			from.ref, err = parseCacheRef(f.value)
		case "registry registry.insecure":
			from.insecure, err = parseBool(f.value)
		case "local src":
			from.dir = remotecache.Dir(cleanPath(f.value))
		case "local tag":
			from.tag = f.value
		case "local digest":
			from.digest, err = digest.Parse(f.value)
		default:
			err = errors.New("it is not known")
		}
		if err != nil {
			return from, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	switch {
	case e.kind == "registry" && from.ref.Repository == "":
		return from, errors.New("it has no ref: say which, ref=NAME[:TAG]")
	case e.kind == "local" && from.dir == "":
		return from, errors.New("it has no src: say which directory, src=DIR")
	}
	return from, nil
}

func parseCacheTarget(e cacheEntry) (*cacheTarget, error) {
	to := &cacheTarget{tag: "latest"}
	to.Inline = e.kind == "inline"
	indexed := false
	level := ""
	for _, f := range e.fields {
		var err error
		switch e.kind + " " + f.name {
		case "registry ref":
			to.ref, err = parseCacheRef(f.value)
		case "registry registry.insecure":
			to.insecure, err = parseBool(f.value)
		case "local dest":
			to.dir = remotecache.Dir(cleanPath(f.value))
		case "local tag":
			to.tag = f.value
		case "local reset":
			to.reset, err = parseBool(f.value)
		case "registry image-manifest", "local image-manifest":
			indexed = true
			to.form.Index, err = parseBool(f.value)
			to.form.Index = !to.form.Index
		case "registry oci-mediatypes", "local oci-mediatypes":
			to.form.DockerTypes, err = parseBool(f.value)
			to.form.DockerTypes = !to.form.DockerTypes
		case "registry compression-level", "local compression-level":
			level = f.value
		default:
			err = to.set(e.kind, f)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if level != "" {
		o := output{form: build.ImageOptions{Layer: to.Layer}}
		if err := o.setLevel(level); err != nil {
			return nil, fmt.Errorf("compression-level: %w", err)
		}
		o.settle()
		to.Layer = o.form.Layer
		if err := to.Layer.Check(); err != nil {
			return nil, fmt.Errorf("compression-level: %w", err)
		}
	}
	switch {
	case e.kind == "registry" && to.ref.Repository == "":
		return nil, errors.New("it has no ref: say where to, ref=NAME[:TAG]")
	case e.kind == "local" && to.dir == "":
		return nil, errors.New("it has no dest: say where to, dest=DIR")
	case to.tag == "":
		return nil, errors.New("tag: it is empty")
	case to.form.DockerTypes && indexed && !to.form.Index:
		return nil, errors.New("image-manifest: it needs OCI's media types: leave out oci-mediatypes=false")
	}
	to.form.Index = to.form.Index || to.form.DockerTypes
	return to, nil
}

// set sets an option that several types have.
func (t *cacheTarget) set(kind string, f field) (err error) {
	stored := kind != "inline"
	switch {
	case f.name == "mode" && (f.value == "min" || stored && f.value == "max"):
		t.Max = f.value == "max"
	case f.name == "mode" && f.value == "max":
		err = errors.New(`"max": inline the layers are the image's: want min, or another type`)
	case f.name == "mode":
		err = fmt.Errorf("%q: want min or max", f.value)
	case f.name == "ignore-error":
		t.strict, err = parseBool(f.value)
		t.strict = !t.strict
	case f.name == "compression" && stored:
		switch c := layer.Compression(f.value); c {
		case layer.Gzip, layer.Zstd, layer.Uncompressed:
			t.Layer.Compression = c
		default:
			err = fmt.Errorf("%q: want gzip, zstd or uncompressed", f.value)
		}
	case f.name == "force-compression" && stored:
		t.ForceCompression, err = parseBool(f.value)
	default:
		err = fmt.Errorf("type=%s has no such option", kind)
	}
	return err
}

func parseBool(v string) (bool, error) {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%q: want true or false", v)
	}
	return b, nil
}

func cleanPath(v string) string {
	if v == "" {
		return ""
	}
	return filepath.Clean(v)
}

// parseCacheRef reads the name of a cache in a registry.
func parseCacheRef(v string) (image.Ref, error) {
	if v == "" {
		return image.Ref{}, nil
	}
	name, err := parseName(v)
	return name.ref, err
}
