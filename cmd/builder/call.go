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
	"strconv"
	"strings"

	"builder/build"
	"builder/dockerfile"
	"builder/image"
	"builder/progress"
	"builder/registry"
	"builder/store"

	"github.com/spf13/pflag"
)

// callFlags ask what there is to say of a Dockerfile, instead of a build.
type callFlags struct {
	call  string
	check bool
}

func (f *callFlags) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&f.call, "call", "build", "what to do: build, check the Dockerfile, or show its outline or targets, `check|outline|targets[,format=text|json|sarif]`")
	fs.BoolVar(&f.check, "check", false, "short for --call=check")
}

// call is a question about a Dockerfile.
type call struct {
	name         string // "check", "outline" or "targets"
	format       string // "text", "json" or "sarif"
	ignoreStatus bool   // warnings don't make the command fail
}

// resolve reads the flags; nil means to build.
func (f *callFlags) resolve() (*call, error) {
	c := &call{format: "text"}
	text := f.call
	if f.check && text == "build" {
		text = "check"
	}
	for _, word := range strings.Split(text, ",") {
		key, value, ok := strings.Cut(word, "=")
		var err error
		switch {
		case !ok && c.name == "":
			c.name = word
		case !ok:
			return nil, fmt.Errorf("%q names two things to do, %s and %s", f.call, c.name, word)
		case key == "format":
			c.format = value
		case key == "ignorestatus":
			if c.ignoreStatus, err = strconv.ParseBool(value); err != nil {
				return nil, fmt.Errorf("ignorestatus=%q: want true or false", value)
			}
		default:
			return nil, fmt.Errorf("%q has no option %q: there are format and ignorestatus", f.call, key)
		}
	}
	if c.name == "lint" {
		c.name = "check" // its former name
	}
	if f.check && c.name != "check" {
		return nil, fmt.Errorf("%q is something else than --check", f.call)
	}
	if c.name == "build" {
		return nil, nil
	}
	if !slices.Contains([]string{"check", "outline", "targets"}, c.name) {
		return nil, fmt.Errorf("%q is not known: there are build, check, outline and targets", c.name)
	}
	if formats := c.formats(); !slices.Contains(formats, c.format) {
		return nil, fmt.Errorf("%s has no format %q: there are %s", c.name, c.format, strings.Join(formats, ", "))
	}
	return c, nil
}

func (c *call) formats() []string {
	if c.name == "check" {
		return []string{"text", "json", "sarif"}
	}
	return []string{"text", "json"}
}

// runCall answers a call. Nothing is built, and of base images that are not in
// the store only the configs are fetched.
func (e *env) runCall(ctx context.Context, req *buildRequest) (err error) {
	done, err := e.openCallStore()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	b, err := e.openBuild(req.flags)
	if err != nil {
		return err
	}
	b.env.Images = &configSource{imageSource: newImageSource(e, b.env.Store, b.display), e: e}
	var answer func() error
	err = b.withSources(ctx, req, func(benv build.Env, opts build.Options) error {
		if opts.Dockerfile.Note != "" {
			fmt.Fprintf(e.stderr, "builder: %s\n", opts.Dockerfile.Note)
		}
		answer, err = e.answer(ctx, req.call, benv, opts)
		return err
	})
	var placed *dockerfile.Error
	if req.call.name == "check" && answer == nil && errors.As(err, &placed) {
		// It can't be parsed; what the checks found till then is told too.
		f, parseErr := dockerfile.ParseArgs(placed.Name, placed.Source, req.opts.Args)
		answer = func() error { return e.printCheck(req.call, checked{f.Name, f.Source, build.Findings(f), parseErr}) }
		err = nil
	}
	if closeErr := b.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return answer()
}

// answer works a call out. What it returns prints it.
func (e *env) answer(ctx context.Context, c *call, benv build.Env, opts build.Options) (func() error, error) {
	f := opts.Dockerfile
	switch c.name {
	case "targets":
		return func() error { return e.printTargets(c, f) }, nil
	case "outline":
		o, err := build.NewOutline(ctx, benv, opts)
		return func() error { return e.printOutline(c, f, o) }, err
	}
	findings, err := build.Check(ctx, benv, opts)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return func() error { return e.printCheck(c, checked{f.Name, f.Source, findings, err}) }, nil
}

// openCallStore opens the state directory for a call, if there is one that can
// be used, else one that is removed by done.
func (e *env) openCallStore() (done func() error, err error) {
	none := func() error { return nil }
	if e.opened != nil {
		return none, nil
	}
	if _, err := os.Stat(filepath.Join(e.stateDir(), "version")); err == nil {
		if _, err = e.store(); err == nil {
			return none, nil
		}
		e.logger().Debug("state directory is not used", "error", err)
	}
	dir, err := os.MkdirTemp("", "builder-call-")
	if err != nil {
		return nil, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	s, err := store.Open(dir)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	e.opened = s
	return func() error {
		e.opened = nil
		return errors.Join(s.Close(), remove())
	}, nil
}

// configSource finds the configs of images: in the store, whether or not their
// layers are there, or else in their registries, from which nothing is kept.
type configSource struct {
	*imageSource
	e *env
}

// Image implements build.ImageSource. Where no registry answers the image has
// an empty config, and the user is told.
func (c *configSource) Image(ctx context.Context, ref image.Ref, platform image.Platform, pull bool) (image.Image, error) {
	if !pull {
		if entry, err := c.store.Resolve(ref.String()); err == nil {
			if img, err := c.store.Image(entry.Desc, platform); err == nil {
				return img, nil
			}
		}
	}
	client, err := c.open()
	if err != nil {
		return image.Image{}, err
	}
	img, err := client.Config(ctx, ref, platform)
	if errors.Is(err, registry.ErrUnreachable) {
		fmt.Fprintf(c.e.stderr, "builder: base image %s is not known here, what depends on it is left out: %v\n", ref.Familiar(), err)
		img.Config.Platform = platform
		return img, nil
	}
	return img, err
}

// checked is what a check came to.
type checked struct {
	name     string // of the Dockerfile
	source   []byte
	findings []progress.Finding
	err      error
}

// place is where the error is, zeros if nowhere, and its text without that.
func (c checked) place() (start, end int, message string) {
	var placed *dockerfile.Error
	if errors.As(c.err, &placed) {
		return placed.Start, placed.End, placed.Err.Error()
	}
	return 0, 0, c.err.Error()
}
