// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"builder/build"
	"builder/image"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// outputFlags say what becomes of the result.
type outputFlags struct {
	tags        []string
	outputs     []string
	annotations []string
	iidfile     string
	metadata    string
	load        bool
	push        bool
}

func (f *outputFlags) addFlags(fs *pflag.FlagSet) {
	wordsVarP(fs, &f.tags, "tag", "t", "name the image `NAME[:TAG]`; may be repeated")
	wordsVarP(fs, &f.outputs, "output", "o", "where the result goes, `type=image|registry|oci|docker|local|tar|cacheonly[,dest=PATH,...]`; may be repeated (default type=image, the image store)")
	wordsVar(fs, &f.annotations, "annotation", "annotation of the image, `[TYPE[PLATFORM]:]KEY=VALUE`; TYPE is manifest, index, manifest-descriptor or index-descriptor")
	fs.StringVar(&f.iidfile, "iidfile", "", "write the image's ID to a `FILE`")
	fs.StringVar(&f.metadata, "metadata-file", "", "write what was made, as JSON, to a `FILE`")
	fs.BoolVar(&f.load, "load", false, "put the image in the image store, beside other outputs")
	fs.BoolVar(&f.push, "push", false, "push the image to its registry")
}

// resolve reads the flags into a request.
func (f *outputFlags) resolve(e *env, req *buildRequest) error {
	fail := func(flag string, err error) error {
		hint := "builder build --help"
		if flag == "output" {
			hint = "such as -o type=oci,dest=image.tar, -o type=local,dest=DIR, -o type=tar,dest=-"
		}
		return &usageError{msg: fmt.Sprintf("build: --%s: %v", flag, err), hint: hint}
	}
	for _, t := range f.tags {
		name, err := parseName(t)
		if err == nil && name.ref.Digest != "" {
			err = fmt.Errorf("%q has a digest, which an image gets from its content", t)
		}
		if err != nil {
			return fail("tag", err)
		}
		req.names = append(req.names, name)
	}
	for _, w := range f.outputs {
		if w == "" {
			continue
		}
		out, err := parseOutput(w)
		if err != nil {
			return fail("output", fmt.Errorf("%q: %w", w, err))
		}
		req.outputs = append(req.outputs, out)
	}
	f.addOutputs(req)
	if err := f.annotate(req); err != nil {
		return fail("annotation", err)
	}
	for _, out := range req.outputs {
		if err := out.check(req); err != nil {
			return fail("output", err)
		}
	}
	if err := f.checkAll(e, req); err != nil {
		return fail("output", err)
	}
	req.group()
	return nil
}

// addOutputs adds those that other flags, or no flags, ask for, and gives the
// names of --tag to the images.
func (f *outputFlags) addOutputs(req *buildRequest) {
	if f.push {
		pushed := false
		for _, out := range req.outputs {
			if out.kind == "image" {
				out.push, pushed = true, true
			}
		}
		if !pushed {
			req.outputs = append(req.outputs, &output{kind: "image", push: true})
		}
	}
	stored := slices.ContainsFunc(req.outputs, (*output).stores)
	if f.load && !stored || len(req.outputs) == 0 {
		req.outputs = append(req.outputs, &output{kind: "image"})
	}
	for _, out := range req.outputs {
		out.multi = req.opts.Multi()
		if len(req.names) > 0 && out.isImage() {
			out.names = req.names
		}
	}
}

// annotate gives --annotation to every image.
func (f *outputFlags) annotate(req *buildRequest) error {
	for _, w := range f.annotations {
		list, err := parseAnnotation(w)
		if err != nil {
			return err
		}
		for _, out := range req.outputs {
			if out.isImage() {
				out.form.Annotations = append(out.form.Annotations, list...)
			}
		}
	}
	if len(f.annotations) > 0 && !slices.ContainsFunc(req.outputs, (*output).isImage) {
		return errors.New("no output is an image")
	}
	if len(req.names) > 0 && !slices.ContainsFunc(req.outputs, (*output).isImage) {
		req.warn("--tag names nothing: no output is an image")
	}
	return nil
}

// checkAll looks for what doesn't go together.
func (f *outputFlags) checkAll(e *env, req *buildRequest) error {
	seen := map[string]bool{}
	images := 0
	for _, out := range req.outputs {
		if out.isImage() {
			images++
		}
		if out.dest == "" {
			continue
		}
		if out.dest == "-" && seen["-"] {
			return errors.New("only one output can go to standard output")
		}
		if seen[out.dest] {
			return fmt.Errorf("two outputs have the same dest %q", out.dest)
		}
		seen[out.dest] = true
	}
	if f.iidfile != "" && images < len(req.outputs) {
		return errors.New("--iidfile needs outputs that are images, which type=local, tar and cacheonly are not")
	}
	if seen["-"] && req.flags.quiet {
		return errors.New("--quiet prints the image's ID to standard output, where the output goes")
	}
	if seen["-"] && term.IsTerminal(int(e.stdout.Fd())) {
		return errors.New("refusing to write an archive to a terminal: redirect it, or name a file")
	}
	if f.iidfile != "" {
		// After a build that fails it doesn't tell of an earlier one.
		if fi, err := os.Lstat(f.iidfile); err == nil && fi.Mode().IsRegular() {
			if err := os.Remove(f.iidfile); err != nil {
				return fmt.Errorf("--iidfile: %w", err)
			}
		}
	}
	return nil
}

// group finds the distinct forms in which images are wanted: each is assembled
// once.
func (req *buildRequest) group() {
	for _, out := range req.outputs {
		req.opts.Files = req.opts.Files || out.isFiles()
		if !out.isImage() {
			continue
		}
		out.number = slices.IndexFunc(req.opts.Images, func(f build.ImageOptions) bool { return reflect.DeepEqual(f, out.form) })
		if out.number < 0 {
			out.number = len(req.opts.Images)
			req.opts.Images = append(req.opts.Images, out.form)
		}
	}
}

// imageName is a name for the image, as it was given.
type imageName struct {
	ref    image.Ref
	tagged bool // the tag was given too
}

func parseName(s string) (imageName, error) {
	ref, err := image.ParseRef(s)
	last := s[strings.LastIndexByte(s, '/')+1:]
	return imageName{ref, strings.Contains(last, ":")}, err
}
