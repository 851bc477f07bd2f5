// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/build"
	"builder/cache"
	"builder/container"
	"builder/image"
	"builder/progress"
	"builder/rootfs"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/pflag"
)

// buildOptions are the flags of builder build, which a target of bake fills
// too.
type buildOptions struct {
	sourceFlags
	runFlags
	secretFlags
	outputFlags
	cacheFlags
	argFlags
	editFlags
	callFlags

	target        string
	platforms     []string
	noCache       bool
	noCacheFilter []string
	pull          string
	retry         int
	retryDelay    time.Duration
	progress      string
	quiet         bool
}

func (o *buildOptions) addFlags(fs *pflag.FlagSet) {
	o.sourceFlags.addFlags(fs)
	o.runFlags.addFlags(fs)
	o.secretFlags.addFlags(fs)
	o.outputFlags.addFlags(fs)
	o.cacheFlags.addFlags(fs)
	o.argFlags.addFlags(fs)
	o.editFlags.addFlags(fs)
	o.callFlags.addFlags(fs)
	fs.StringVar(&o.target, "target", "", "stage to build (default the last)")
	wordsVar(fs, &o.platforms, "platform", "platforms of the image, `OS/ARCH[,OS/ARCH]`")
	fs.BoolVar(&o.noCache, "no-cache", false, "run every step again")
	wordsVar(fs, &o.noCacheFilter, "no-cache-filter", "run the steps of these stages again, `STAGE[,STAGE]`")
	fs.StringVar(&o.pull, "pull", "missing", "when to ask the registry for base images: always (the meaning of --pull alone), missing or never")
	fs.Lookup("pull").NoOptDefVal = "always"
	fs.IntVar(&o.retry, "retry", defaultRetries, "how often a request to a registry is tried again")
	fs.DurationVar(&o.retryDelay, "retry-delay", 0, "pause before the first try again, doubled from then on (default 100ms)")
	fs.StringVar(&o.progress, "progress", "auto", "how progress is shown: auto, plain, tty, quiet or rawjson")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "show nothing but the image's ID")
	addRefused(fs, refusedByBuild)
}

// defaultRetries is how often a request to a registry is tried again.
const defaultRetries = 4

// buildRequest is one build to be done.
type buildRequest struct {
	path    string // of the context, as given
	flags   *buildOptions
	opts    build.Options
	names   []imageName
	outputs []*output
	caches  []*cacheTarget // what is written of caches that are not inline
	call    *call          // tell of the Dockerfile instead of building it; or nil

	// contexts are named contexts that no flag gives.
	contexts map[string]build.NamedContext
	// nameless says that the image is for other builds of this command alone.
	nameless bool
	warnings []string // about the flags
}

func (req *buildRequest) warn(text string) { req.warnings = append(req.warnings, text) }

func runBuild(ctx context.Context, e *env, args []string) error {
	fs := flags("build")
	var o buildOptions
	o.addFlags(fs)
	rest, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	req, err := o.request(e, rest[0])
	if err != nil {
		return err
	}
	if req.call != nil {
		return e.runCall(ctx, req)
	}
	b, err := e.openBuild(&o)
	if err != nil {
		return err
	}
	res, err := b.build(ctx, req)
	if closeErr := b.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if img := req.image(res); o.quiet && img != nil {
		fmt.Fprintln(e.stdout, imageID(*img))
	}
	e.keepBounds(ctx, b.env.Store)
	return nil
}

// imageID is what names an image to a user: the config's digest, or the
// index's of several platforms.
func imageID(img build.ImageResult) digest.Digest {
	if img.Desc.Digest == img.Platforms[0].Desc.Digest {
		return img.Platforms[0].Config.Digest
	}
	return img.Desc.Digest
}

// buildSession is what the builds of one command share.
type buildSession struct {
	e        *env
	env      build.Env
	networks *buildNetworks
	display  progress.Display
	trees    *sharedTrees // nil for a single build
}

// openBuild opens the state directory and the display for builds. The caller
// closes the display.
func (e *env) openBuild(o *buildOptions) (*buildSession, error) {
	e.attempts, e.delay = o.retry+1, o.retryDelay
	s, err := e.store()
	if err != nil {
		return nil, err
	}
	go s.Reap()
	if err := e.makeRoom(context.Background(), s); err != nil {
		return nil, err
	}
	c, err := cache.Open(s)
	if err != nil {
		return nil, err
	}
	rfs, err := rootfs.Open(s)
	if err != nil {
		return nil, err
	}
	if err := rfs.Snapshots().Usable(); err != nil {
		return nil, err
	}
	go rfs.Snapshots().SyncIfDirty()
	mode := o.progress
	if o.quiet {
		mode = "quiet"
	}
	display, err := e.display(mode)
	if err != nil {
		return nil, err
	}
	images := newImageSource(e, s, display)
	images.never = strings.EqualFold(o.pull, "never")
	networks := e.buildNetworks(s)
	return &buildSession{e: e, display: display, networks: networks, env: build.Env{
		Store: s, Cache: c, RootFS: rfs, Images: images,
		Executor: executor{}, Networks: networks, Sink: display, Log: e.logger(), Now: time.Now,
	}}, nil
}

// close ends networks and display.
func (b *buildSession) close() error { return errors.Join(b.networks.close(), b.display.Close()) }

// build builds and delivers the result.
func (b *buildSession) build(ctx context.Context, req *buildRequest) (res *build.Result, err error) {
	err = b.withSources(ctx, req, func(benv build.Env, opts build.Options) error {
		if res, err = build.Build(ctx, benv, opts); err != nil {
			return err
		}
		return b.deliver(ctx, req, res)
	})
	if err != nil {
		return nil, err
	}
	b.env.Log.Debug("build done", "steps", res.Stats.Steps, "cached", res.Stats.Cached, "filesHashed", res.Stats.FilesHashed,
		"bytesHashed", res.Stats.BytesHashed, "filesStatted", res.Stats.FilesStatted, "layersWritten", res.Stats.LayersWritten,
		"imported", res.Stats.Imported, "layersFetched", res.Stats.LayersFetched, "deferred", res.Stats.Deferred)
	return res, nil
}

// withSources opens what the request is built from, calls f and closes it.
func (b *buildSession) withSources(ctx context.Context, req *buildRequest, f func(build.Env, build.Options) error) (err error) {
	opener, err := b.contextOpener(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opener.close()) }()
	source, err := opener.open(ctx, req.path, req.flags.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.close()) }()
	named, err := b.namedContexts(opener, req.flags.buildContexts, req.opts.Pull)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, named.close()) }()
	opts := req.opts
	maps.Copy(named.byName, req.contexts)
	opts.Dockerfile, opts.Context, opts.Contexts, opts.ContextURL = source.dockerfile, source.tree, named.byName, source.url
	opts.CacheFrom = b.cacheSources(req)
	benv := b.env
	benv.Remote = opener.remote
	return f(benv, opts)
}

// executor runs RUN steps as containers of this process.
type executor struct{}

func (executor) Run(ctx context.Context, spec container.Spec) error { return container.Run(ctx, spec) }

// request checks the flags and turns them into what is to be built.
func (o *buildOptions) request(e *env, path string) (*buildRequest, error) {
	req := &buildRequest{path: path, flags: o}
	opts := &req.opts
	*opts = build.Options{Target: o.target, NoCache: o.noCache}
	fail := func(flag string, err error) (*buildRequest, error) {
		return nil, &usageError{msg: fmt.Sprintf("build: --%s: %v", flag, err), hint: "builder build --help"}
	}
	var flag string
	var err error
	if opts.Args, flag, err = o.argFlags.resolve(e); err != nil {
		return fail(flag, err)
	}
	for name, value := range e.configuredProxies() {
		_, upper := opts.Args[name]
		if _, lower := opts.Args[strings.ToLower(name)]; !upper && !lower {
			opts.Args[name] = value
		}
	}
	if opts.Platforms, err = parsePlatforms(o.platforms); err != nil {
		return fail("platform", err)
	}
	if v := opts.Args["BUILDKIT_MULTI_PLATFORM"]; v != "" {
		if opts.Index, err = strconv.ParseBool(v); err != nil {
			return fail("build-arg", fmt.Errorf("BUILDKIT_MULTI_PLATFORM=%q: want true or false", v))
		}
	}
	switch strings.ToLower(o.pull) {
	case "always", "newer", "ifnewer", "true":
		opts.Pull = true
	case "missing", "ifmissing", "false", "never":
	default:
		return fail("pull", fmt.Errorf("%q: want always, missing or never", o.pull))
	}
	if o.retry < 0 {
		return fail("retry", fmt.Errorf("%d: want 0 or more", o.retry))
	}
	for _, names := range o.noCacheFilter {
		opts.NoCacheStages = append(opts.NoCacheStages, strings.Split(names, ",")...)
	}
	if flag, err = o.editFlags.resolve(opts); err != nil {
		return fail(flag, err)
	}
	if flag, err = o.cacheFlags.resolve(e, req); err != nil {
		return fail(flag, err)
	}
	if flag, err = o.runFlags.resolve(e, opts); err != nil {
		return fail(flag, err)
	}
	if flag, err = o.secretFlags.resolve(e, opts); err != nil {
		return fail(flag, err)
	}
	if req.call, err = o.callFlags.resolve(); err != nil {
		return fail("call", err)
	}
	return req, o.outputFlags.resolve(e, req)
}

// parsePlatforms reads --platform flags, each a comma-separated list. What is
// named twice counts once.
func parsePlatforms(words []string) ([]image.Platform, error) {
	var out []image.Platform
	for _, w := range words {
		for s := range strings.SplitSeq(w, ",") {
			p, err := image.ParsePlatform(s)
			if err != nil {
				return nil, err
			}
			if !slices.ContainsFunc(out, func(q image.Platform) bool { return image.SamePlatform(p, q) }) {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// keyValues reads NAME=VALUE words; of a NAME alone the value is looked up,
// and without one the word means nothing.
func keyValues(words []string, lookup func(string) (string, bool)) map[string]string {
	out := map[string]string{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			v, ok = lookup(k)
		}
		if ok {
			out[k] = v
		}
	}
	return out
}
