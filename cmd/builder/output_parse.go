// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"builder/build"
	"builder/image"
	"builder/layer"
)

// output is one -o: where the result of a build goes, and in which form.
type output struct {
	kind string // image, oci, docker, local, tar, cacheonly
	dest string // a path, or "-" for standard output

	// Of images.
	form         build.ImageOptions
	number       int // of the form in build.Options.Images
	names        []imageName
	unnamed      bool // don't name it in the image store
	unpack       bool
	push         bool
	byDigest     bool
	insecure     bool
	canonical    bool   // name it NAME@DIGEST too
	dangling     string // name it by this and its digest
	danglingOnly bool   // but only if it has no other name
	dir          bool   // of an archive: write a directory
	rewrite      *bool  // time stamps in layers

	// Of files.
	epoch  *build.Epoch // the time of all of them; nil: the build's
	multi  bool         // they are of several platforms
	split  *bool        // into a directory for each platform
	delete bool         // what was there before
}

// isImage reports whether the output is an image, in whatever form.
func (o *output) isImage() bool { return o.kind == "image" || o.kind == "oci" || o.kind == "docker" }

// isFiles reports whether the output is the target's files.
func (o *output) isFiles() bool { return o.kind == "local" || o.kind == "tar" }

// stores reports whether the image is put in the image store: there is no
// docker engine that type=docker could load it into.
func (o *output) stores() bool {
	return o.kind == "image" && !o.unnamed || o.kind == "docker" && o.dest == ""
}

// parseOutput reads a -o flag: comma-separated NAME=VALUE fields, quoted as in
// CSV, or a path alone, which is type=local, or "-", which is type=tar on
// standard output.
func parseOutput(w string) (*output, error) {
	if w == "-" {
		return &output{kind: "tar", dest: "-"}, nil
	}
	fields, err := csv.NewReader(strings.NewReader(w)).Read()
	if err != nil {
		return nil, err
	}
	if len(fields) == 1 && fields[0] == w && !strings.HasPrefix(w, "type=") {
		return &output{kind: "local", dest: filepath.Clean(w)}, nil
	}
	values := make([][2]string, 0, len(fields))
	kind := ""
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("%q: want NAME=VALUE", f)
		}
		if k = strings.ToLower(strings.TrimSpace(k)); k == "type" {
			kind = v
			continue
		}
		values = append(values, [2]string{k, v})
	}
	o, err := outputOfType(kind)
	if err != nil {
		return nil, err
	}
	for _, kv := range values {
		if err := o.set(kv[0], kv[1]); err != nil {
			return nil, err
		}
	}
	o.settle()
	return o, nil
}

func outputOfType(kind string) (*output, error) {
	switch kind {
	case "registry":
		return &output{kind: "image", push: true}, nil
	case "image", "oci", "docker", "local", "tar", "cacheonly":
		return &output{kind: kind}, nil
	case "":
		return nil, errors.New("it has no type")
	}
	return nil, fmt.Errorf("type %q is not supported: want image, registry, oci, docker, local, tar or cacheonly", kind)
}

// attribute is an option of an output.
type attribute struct {
	kinds string // the types that have it
	set   func(o *output, v string) error
}

// Types that options are for.
const (
	anyImage = "image oci docker"
	anyFiles = "local tar"
)

// attributes are the options by name.
func attributes() map[string]attribute {
	return map[string]attribute{
		"dest":                    {"oci docker " + anyFiles, (*output).setDest},
		"name":                    {anyImage, (*output).setNames},
		"push":                    {"image", flagAttr(func(o *output, b bool) { o.push = b })},
		"push-by-digest":          {"image", flagAttr(func(o *output, b bool) { o.byDigest = b })},
		"registry.insecure":       {"image", flagAttr(func(o *output, b bool) { o.insecure = b })},
		"unpack":                  {"image", flagAttr(func(o *output, b bool) { o.unpack = b })},
		"store":                   {"image", flagAttr(func(o *output, b bool) { o.unnamed = !b })},
		"name-canonical":          {"image", flagAttr(func(o *output, b bool) { o.canonical = b })},
		"dangling-name-prefix":    {"image", func(o *output, v string) error { o.dangling = v; return checkPrefix(v) }},
		"danging-name-empty-only": {"image", flagAttr(func(o *output, b bool) { o.danglingOnly = b })}, // BuildKit spells it so
		"tar":                     {"oci docker", flagAttr(func(o *output, b bool) { o.dir = !b })},
		"oci-mediatypes":          {anyImage, boolAttr(func(o *output, b bool) { o.form.DockerTypes = !b })},
		"compression":             {anyImage, (*output).setCompression},
		"compression-level":       {anyImage, (*output).setLevel},
		"force-compression":       {anyImage, flagAttr(func(o *output, b bool) { o.form.ForceCompression = b })},
		"prefer-nondist-layers":   {anyImage, boolAttr(func(o *output, b bool) { o.form.KeepNondistributable = b })},
		"rewrite-timestamp":       {anyImage, boolAttr(func(o *output, b bool) { o.rewrite = &b })},
		"source-date-epoch":       {anyImage + " " + anyFiles, (*output).setEpoch},
		"platform-split":          {anyFiles, boolAttr(func(o *output, b bool) { o.split = &b })},
		"mode":                    {"local", (*output).setMode},
	}
}

// noMeaning are options that BuildKit has and that mean nothing here, with why.
func noMeaning() map[string]string {
	const attestations = "no attestations are made"
	return map[string]string{
		"attestation-inline": attestations,
		"attestation-prefix": attestations,
		"oci-artifact":       attestations,
		"context":            "there is no docker engine to load into: the image goes to the image store",
	}
}

// flagAttr is a boolean that is true if it has no value.
func flagAttr(set func(*output, bool)) func(*output, string) error {
	return func(o *output, v string) error {
		if v == "" {
			v = "true"
		}
		return boolAttr(set)(o, v)
	}
}

func boolAttr(set func(*output, bool)) func(*output, string) error {
	return func(o *output, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q: want true or false", v)
		}
		set(o, b)
		return nil
	}
}

// set sets one option.
func (o *output) set(name, value string) error {
	if a, ok, err := parseAnnotationAttr(name, value); ok {
		if err == nil && !o.isImage() {
			err = fmt.Errorf("type=%s has no annotations", o.kind)
		}
		o.form.Annotations = append(o.form.Annotations, a)
		return err
	}
	if why, ok := noMeaning()[name]; ok {
		return fmt.Errorf("option %q is not supported: %s", name, why)
	}
	a, ok := attributes()[name]
	if !ok {
		return fmt.Errorf("option %q is not known", name)
	}
	if !slices.Contains(strings.Fields(a.kinds), o.kind) {
		if name == "dest" {
			return fmt.Errorf("type=%s takes no dest: it is not a file", o.kind)
		}
		return fmt.Errorf("type=%s has no option %q, which is for type=%s", o.kind, name, strings.ReplaceAll(a.kinds, " ", ", "))
	}
	if err := a.set(o, value); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (o *output) setDest(v string) error {
	if o.dest = v; v != "" {
		o.dest = filepath.Clean(v)
	}
	return nil
}

func (o *output) setNames(v string) error {
	o.names = nil
	for n := range strings.SplitSeq(v, ",") {
		name, err := parseName(n)
		if err != nil {
			return err
		}
		o.names = append(o.names, name)
	}
	return nil
}

func checkPrefix(v string) error {
	name, err := parseName(v)
	if err == nil && (name.tagged || name.ref.Digest != "") {
		err = fmt.Errorf("%q: want a name without tag and digest", v)
	}
	return err
}

func (o *output) setCompression(v string) error {
	switch c := layer.Compression(v); c {
	case layer.Gzip, layer.Zstd, layer.EStargz, layer.Uncompressed:
		o.form.Layer.Compression = c
		return nil
	}
	return fmt.Errorf("%q: want gzip, zstd, estargz or uncompressed", v)
}

// noLevel marks a level of 0 until the compression is known.
const noLevel = -1 << 31

func (o *output) setLevel(v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return fmt.Errorf("%q: want a number from 0", v)
	}
	if n == 0 {
		n = noLevel
	}
	o.form.Layer.Level = n
	return nil
}

func (o *output) setEpoch(v string) error {
	o.epoch = &build.Epoch{}
	if v != "" {
		sec, err := strconv.ParseInt(v, 10, 64)
		if err != nil || sec < 0 {
			return fmt.Errorf("%q: want seconds since 1970", v)
		}
		t := time.Unix(sec, 0).UTC()
		o.epoch.Time = &t
	}
	return nil
}

func (o *output) setMode(v string) error {
	switch strings.ToLower(strings.TrimSpace(v)) {
	case "", "copy":
	case "delete":
		o.delete = true
	default:
		return fmt.Errorf("%q: want copy or delete", v)
	}
	return nil
}

// settle works out what depends on several options.
func (o *output) settle() {
	o.form.KeepTimes = o.rewrite != nil && !*o.rewrite
	if o.isImage() {
		o.form.Epoch = o.epoch
	}
	if o.form.Layer.Level == noLevel {
		o.form.Layer.Level = 0
		if c := o.form.Layer.Compression; c == "" || c == layer.Gzip || c == layer.EStargz {
			o.form.Layer.Level = layer.StoreOnly
		}
	}
	if (o.kind == "tar" || o.kind == "oci") && o.dest == "" && !o.dir {
		o.dest = "-"
	}
}

// check tells what of one output can't be done.
func (o *output) check(req *buildRequest) error {
	err := o.checkDest()
	switch {
	case err != nil:
	case o.isImage():
		err = o.checkImage(req)
	case o.delete && !slices.Contains(req.flags.allow, allowLocalDelete):
		err = checkDelete(o.dest)
	case o.kind == "tar" && o.split != nil && *o.split != o.multi:
		err = errors.New("platform-split: a tar has a directory for each of several platforms, and none for one")
	}
	if err != nil {
		return fmt.Errorf("type=%s: %w", o.kind, err)
	}
	return nil
}

func (o *output) checkImage(req *buildRequest) error {
	if err := o.form.Check(req.opts); err != nil {
		return err
	}
	if o.kind == "docker" && o.dest != "" && req.opts.Multi() {
		return errors.New("it holds one platform: use type=oci for several")
	}
	if !o.push {
		for name, set := range map[string]bool{"push-by-digest": o.byDigest, "registry.insecure": o.insecure} {
			if set {
				return fmt.Errorf("%s is set, but nothing is pushed", name)
			}
		}
		return nil
	}
	if len(o.names) == 0 && o.dangling == "" {
		return errors.New("an image that is pushed needs a name: give --tag or name=")
	}
	for _, n := range o.names {
		if o.byDigest && n.tagged {
			return fmt.Errorf("%s has a tag and can't be pushed by digest", n.ref.Familiar())
		}
	}
	return nil
}

// checkDest looks at what is there already.
func (o *output) checkDest() error {
	wantDir := o.kind == "local" || o.dir
	if o.dest == "" {
		if wantDir {
			return errors.New("it needs a directory as dest")
		}
		return nil
	}
	if o.dest == "-" {
		if wantDir {
			return errors.New("a directory can't go to standard output")
		}
		return nil
	}
	fi, err := os.Stat(o.dest)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("dest: %w", err)
	case wantDir && !fi.IsDir():
		return fmt.Errorf("dest %q is a file, not a directory", o.dest)
	case !wantDir && fi.IsDir():
		return fmt.Errorf("dest %q is a directory, not a file", o.dest)
	}
	return nil
}

// allowLocalDelete is the entitlement to delete what is in any directory.
const allowLocalDelete = "buildx.local.delete"

// checkDelete lets what is in a directory be deleted, without an entitlement,
// only below the working directory: a slip of the hand must not cost a home
// directory.
func checkDelete(dest string) error {
	wd, err := os.Getwd()
	if err == nil {
		wd, err = filepath.EvalSymlinks(wd)
	}
	if err != nil {
		return fmt.Errorf("mode=delete: %w", err)
	}
	path, err := filepath.Abs(dest)
	if err != nil {
		return fmt.Errorf("mode=delete: %w", err)
	}
	rest := ""
	real, err := filepath.EvalSymlinks(path)
	for errors.Is(err, os.ErrNotExist) && path != "/" {
		path, rest = filepath.Dir(path), filepath.Join(filepath.Base(path), rest)
		real, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return fmt.Errorf("mode=delete: %w", err)
	}
	rel, err := filepath.Rel(wd, filepath.Join(real, rest))
	if err != nil || rel == "." || !filepath.IsLocal(rel) {
		return fmt.Errorf("mode=delete: dest %q is not below the working directory: that needs --allow %s", dest, allowLocalDelete)
	}
	return nil
}

// Compiled on first use: most builds have no annotations.
var (
	annotationAttrRE = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)$`)
	})
	annotationTypeRE = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?$`)
	})
)

// parseAnnotationAttr reads annotation.KEY, annotation-TYPE.KEY and
// annotation-TYPE[PLATFORM].KEY. It reports false if name is none of them.
func parseAnnotationAttr(name, value string) (build.Annotation, bool, error) {
	if !strings.HasPrefix(name, "annotation") {
		return build.Annotation{}, false, nil
	}
	m := annotationAttrRE().FindStringSubmatch(name)
	if m == nil {
		return build.Annotation{}, false, nil
	}
	a, err := makeAnnotation(m[1], m[2])
	a.Key, a.Value = m[3], value
	return a, true, err
}

// parseAnnotation reads --annotation: [TYPE[PLATFORM],...:]KEY=VALUE, an
// annotation for each TYPE.
func parseAnnotation(w string) ([]build.Annotation, error) {
	k, v, ok := strings.Cut(w, "=")
	if !ok {
		return nil, fmt.Errorf("%q: want KEY=VALUE", w)
	}
	types, key, ok := strings.Cut(k, ":")
	if !ok {
		return []build.Annotation{{Key: k, Value: v}}, nil
	}
	var list []build.Annotation
	for t := range strings.SplitSeq(types, ",") {
		m := annotationTypeRE().FindStringSubmatch(t)
		if m == nil {
			return nil, fmt.Errorf("%q: want a type, and a platform in brackets if need be, before the colon", t)
		}
		a, err := makeAnnotation(m[1], m[2])
		if err != nil {
			return nil, err
		}
		a.Key, a.Value = key, v
		list = append(list, a)
	}
	return list, nil
}

func makeAnnotation(kind, platform string) (build.Annotation, error) {
	a := build.Annotation{Kind: kind}
	switch kind {
	case "", build.OnManifest, build.OnManifestDescriptor, build.OnIndex, build.OnIndexDescriptor:
	default:
		return a, fmt.Errorf("unknown annotation type %q: want manifest, index, manifest-descriptor or index-descriptor", kind)
	}
	if platform == "" {
		return a, nil
	}
	p, err := image.ParsePlatform(platform)
	a.Platform = &p
	return a, err
}
