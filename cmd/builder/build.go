// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"builder/build"
	"builder/buildcontext"
	"builder/cache"
	"builder/container"
	"builder/dockerfile"
	"builder/image"
	"builder/internal/atomicfile"
	"builder/progress"
	"builder/rootfs"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// buildOptions are the flags of builder build.
type buildOptions struct {
	tags, buildArgs, labels, addHosts, ulimits, outputs []string

	file, target, platform, progress, iidfile, network, shmSize, cgroupParent string

	noCache, pull, quiet bool
}

func (o *buildOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&o.tags, "tag", "t", nil, "name the image `NAME[:TAG]`; may be repeated")
	fs.StringVarP(&o.file, "file", "f", "", "Dockerfile, - for standard input (default PATH/Dockerfile)")
	fs.StringArrayVar(&o.buildArgs, "build-arg", nil, "value of an ARG, `NAME=VALUE`, or NAME for the environment's")
	fs.StringVar(&o.target, "target", "", "stage to build (default the last)")
	fs.BoolVar(&o.noCache, "no-cache", false, "run every step again")
	fs.BoolVar(&o.pull, "pull", false, "ask the registry for base images even if they are here")
	fs.StringVar(&o.platform, "platform", "", "platform of the image, `OS/ARCH`")
	fs.StringArrayVar(&o.labels, "label", nil, "label of the image, `NAME=VALUE`")
	fs.StringVar(&o.progress, "progress", "auto", "how progress is shown: auto, plain, tty, quiet or rawjson")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "show nothing but the image's ID")
	fs.StringVar(&o.iidfile, "iidfile", "", "write the image's ID to a `FILE`")
	fs.StringVar(&o.network, "network", "default", "network of RUN: default, host or none")
	fs.StringArrayVar(&o.addHosts, "add-host", nil, "further line of /etc/hosts, `NAME:IP`")
	fs.StringVar(&o.shmSize, "shm-size", "", "size of /dev/shm, such as 64m")
	fs.StringArrayVar(&o.ulimits, "ulimit", nil, "resource limit, `NAME=SOFT[:HARD]`")
	fs.StringVar(&o.cgroupParent, "cgroup-parent", "", "control group below which RUN steps run")
	fs.StringArrayVarP(&o.outputs, "output", "o", nil, "where the result goes, `type=oci|docker|tar|local,dest=PATH` (default the image store)")
}

func runBuild(ctx context.Context, e *env, args []string) error {
	fs := flags("build")
	var o buildOptions
	o.addFlags(fs)
	rest, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	outputs, err := parseOutputs(o.outputs)
	if err != nil {
		return err
	}
	opts, names, err := o.resolve(e)
	if err != nil {
		return err
	}
	for _, out := range outputs {
		opts.Files = opts.Files || out.files()
		opts.Layer = out.layerOptions(opts.Layer)
	}
	opts.SkipImage = len(names) == 0 && len(outputs) > 0 && !anyArchive(outputs)
	return e.build(ctx, &o, opts, rest[0], names, outputs)
}

// build opens what a build needs, builds, and delivers the result.
func (e *env) build(ctx context.Context, o *buildOptions, opts build.Options, path string, names []image.Ref, outputs []output) (err error) {
	s, err := e.store()
	if err != nil {
		return err
	}
	go s.Reap()
	c, err := cache.Open(s)
	if err != nil {
		return err
	}
	source, err := e.openContext(ctx, s, c, path, o.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.close()) }()
	opts.Dockerfile, opts.Context = source.dockerfile, source.tree
	rfs, err := rootfs.Open(s)
	if err != nil {
		return err
	}
	go rfs.Snapshots().SyncIfDirty()
	mode := o.progress
	if o.quiet {
		mode = "quiet"
	}
	display, err := e.display(mode)
	if err != nil {
		return err
	}
	benv := build.Env{
		Store: s, Cache: c, RootFS: rfs, Images: newImageSource(e, s, display),
		Executor: executor{}, Sink: display, Log: e.logger(), Now: time.Now,
	}
	res, err := build.Build(ctx, benv, opts)
	if err == nil {
		err = e.deliver(ctx, o, benv, res, names, outputs)
	}
	if closeErr := display.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if o.quiet && !opts.SkipImage {
		fmt.Fprintln(e.stdout, res.Config.Digest)
	}
	e.logger().Debug("build done", "steps", res.Stats.Steps, "cached", res.Stats.Cached, "filesHashed", res.Stats.FilesHashed,
		"bytesHashed", res.Stats.BytesHashed, "filesStatted", res.Stats.FilesStatted, "layersWritten", res.Stats.LayersWritten)
	return nil
}

// executor runs RUN steps as containers of this process.
type executor struct{}

func (executor) Run(ctx context.Context, spec container.Spec) error { return container.Run(ctx, spec) }

// display opens the progress display on standard error.
func (e *env) display(mode string) (progress.Display, error) {
	if mode == "auto" || mode == "" {
		for _, name := range []string{"BUILDER_PROGRESS", "BUILDKIT_PROGRESS"} {
			if v := e.getenv(name); v != "" {
				mode = v
				break
			}
		}
	}
	d, err := progress.Auto(e.stderr, mode)
	if err != nil {
		return nil, &usageError{msg: "--progress: " + err.Error()}
	}
	return d, nil
}

// logger is where decisions are told with --debug.
func (e *env) logger() *slog.Logger {
	if !e.debug {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// resolve turns flags into build options and names.
func (o *buildOptions) resolve(e *env) (build.Options, []image.Ref, error) {
	opts := build.Options{Target: o.target, NoCache: o.noCache, Pull: o.pull, Args: map[string]string{}, Labels: map[string]string{}}
	fail := func(flag string, err error) (build.Options, []image.Ref, error) {
		return opts, nil, &usageError{msg: fmt.Sprintf("build: --%s: %v", flag, err), hint: "builder build --help"}
	}
	var names []image.Ref
	for _, t := range o.tags {
		ref, err := image.ParseRef(t)
		if err == nil && ref.Digest != "" {
			err = fmt.Errorf("%q has a digest, which an image gets from its content", t)
		}
		if err != nil {
			return fail("tag", err)
		}
		names = append(names, ref)
	}
	maps.Copy(opts.Args, keyValues(o.buildArgs, func(name string) (string, bool) { return lookupEnv(e, name) }))
	for _, l := range o.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return fail("label", fmt.Errorf("%q: want NAME=VALUE", l))
		}
		opts.Labels[k] = v
	}
	if o.platform != "" {
		p, err := image.ParsePlatform(o.platform)
		if err == nil && strings.Contains(o.platform, ",") {
			err = errors.New("several platforms in one build are not supported yet")
		}
		if err == nil && !image.SamePlatform(p, image.HostPlatform()) {
			err = fmt.Errorf("%s is not this machine's platform (%s): building for others is not supported yet", image.FormatPlatform(p), image.FormatPlatform(image.HostPlatform()))
		}
		if err != nil {
			return fail("platform", err)
		}
		opts.Platform = &p
	}
	flag, err := o.resolveRun(&opts.Run)
	if err != nil {
		return fail(flag, err)
	}
	if err := o.resolveEpoch(e, &opts); err != nil {
		return fail("build-arg", err)
	}
	return opts, names, nil
}

func lookupEnv(e *env, name string) (string, bool) {
	if v := e.getenv(name); v != "" {
		return v, true
	}
	return os.LookupEnv(name)
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

// resolveRun reads the flags about RUN; flag names the one that is wrong.
func (o *buildOptions) resolveRun(run *build.RunOptions) (flag string, err error) {
	run.Network, run.CgroupParent = o.network, o.cgroupParent
	switch o.network {
	case "default", "host", "none":
	default:
		return "network", fmt.Errorf("%q: want default, host or none", o.network)
	}
	if o.shmSize != "" {
		if run.ShmSize, err = units.RAMInBytes(o.shmSize); err != nil {
			return "shm-size", err
		}
		if run.ShmSize <= 0 {
			return "shm-size", fmt.Errorf("%q: want more than 0", o.shmSize)
		}
	}
	if run.Rlimits, err = parseUlimits(o.ulimits); err != nil {
		return "ulimit", err
	}
	run.Hosts, err = parseHosts(o.addHosts)
	return "add-host", err
}

func parseUlimits(words []string) ([]container.Rlimit, error) {
	var out []container.Rlimit
	for _, w := range words {
		u, err := units.ParseUlimit(w)
		if err != nil {
			return nil, err
		}
		out = append(out, container.Rlimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return out, nil
}

// parseHosts reads NAME:IP and NAME=IP. host-gateway is this machine, seen
// from the network that it shares with its containers.
func parseHosts(words []string) ([]container.Host, error) {
	var out []container.Host
	for _, w := range words {
		i := strings.IndexAny(w, ":=")
		if i <= 0 {
			return nil, fmt.Errorf("%q: want NAME:IP", w)
		}
		host := container.Host{Name: w[:i]}
		text := strings.Trim(w[i+1:], "[]")
		if text == "host-gateway" {
			text = "127.0.0.1"
		}
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("%q: %q is no IP address", w, text)
		}
		host.IP = ip
		out = append(out, host)
	}
	return out, nil
}

// resolveEpoch finds SOURCE_DATE_EPOCH in the build arguments, or in the
// environment as buildx does.
func (o *buildOptions) resolveEpoch(e *env, opts *build.Options) error {
	const name = "SOURCE_DATE_EPOCH"
	v, ok := opts.Args[name]
	if !ok {
		if v = e.getenv(name); v == "" {
			return nil
		}
		opts.Args[name] = v
	}
	if v == "" {
		delete(opts.Args, name)
		return nil
	}
	sec, err := strconv.ParseInt(v, 10, 64)
	if err != nil || sec < 0 {
		return fmt.Errorf("%s=%q: want seconds since 1970", name, v)
	}
	t := time.Unix(sec, 0).UTC()
	opts.Epoch, opts.Layer.Epoch = &t, &t
	return nil
}

// deliver names the image and writes the outputs.
func (e *env) deliver(ctx context.Context, o *buildOptions, benv build.Env, res *build.Result, names []image.Ref, outputs []output) error {
	if len(names) > 0 || len(outputs) == 0 {
		refs := make([]string, len(names))
		for i, n := range names {
			refs[i] = n.String()
		}
		if err := tagShown(benv, res, refs); err != nil {
			return fmt.Errorf("name image: %w", err)
		}
	}
	for _, out := range outputs {
		if err := out.write(ctx, e, benv, res, names); err != nil {
			return fmt.Errorf("output type=%s: %w", out.kind, err)
		}
	}
	if o.iidfile != "" && res.Config.Digest != "" {
		return atomicfile.Write(o.iidfile, []byte(res.Config.Digest), 0o644)
	}
	return nil
}

// tagShown names the image, as a vertex for each name.
func tagShown(benv build.Env, res *build.Result, refs []string) error {
	for _, ref := range refs {
		benv.Sink.Event(progress.Event{Vertex: "name " + ref, Start: &progress.Start{Name: "naming to " + ref}})
	}
	err := benv.Store.Tag(res.Desc, refs...)
	for _, ref := range refs {
		benv.Sink.Event(progress.Event{Vertex: "name " + ref, Done: &progress.Done{Err: err}})
	}
	return err
}

// source is a build's Dockerfile and context.
type source struct {
	dockerfile *dockerfile.File
	tree       *buildcontext.Tree
	temp       string // an unpacked tar context
}

func (s *source) close() error {
	var err error
	if s.tree != nil {
		err = s.tree.Close()
	}
	if s.temp != "" {
		err = errors.Join(err, os.RemoveAll(s.temp))
	}
	return err
}

// tempDirer makes directories that go with the process.
type tempDirer interface{ TempDir() (string, error) }

// openContext opens a directory, or what comes on standard input: a tar
// archive is a context, anything else a Dockerfile without one.
func (e *env) openContext(ctx context.Context, s tempDirer, c *cache.Cache, path, file string) (*source, error) {
	if path == "-" {
		if file == "-" {
			return nil, &usageError{msg: "build: standard input can't be both the Dockerfile and the context"}
		}
		return e.stdinContext(ctx, s, file)
	}
	for _, scheme := range []string{"http://", "https://", "git://", "ssh://", "git@", "github.com/"} {
		if strings.HasPrefix(path, scheme) {
			return nil, fmt.Errorf("build context %s: remote contexts are not supported yet: fetch it and give the directory", path)
		}
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("build context %q: %w", path, errors.Unwrap(err))
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("build context %q is not a directory", path)
	}
	name, data, err := e.readDockerfile(path, file)
	if err != nil {
		return nil, err
	}
	src := &source{}
	if src.dockerfile, err = dockerfile.Parse(shownName(name), data); err != nil {
		return nil, err
	}
	opts := buildcontext.Options{}
	if opts.Ignore, opts.IgnoreFile, err = buildcontext.ReadIgnore(path, name); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if opts.Index, err = c.ContextIndex(abs); err != nil {
		return nil, err
	}
	src.tree, err = buildcontext.Open(path, opts)
	return src, err
}

// shownName is how messages call a Dockerfile.
func shownName(name string) string {
	if name == "" {
		return "Dockerfile"
	}
	if rel, err := filepath.Rel(".", name); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return name
}

// defaultFiles are looked for in the context where no file is named.
var defaultFiles = []string{"Dockerfile", "dockerfile", "Containerfile"}

// maxDockerfile bounds what is read as a Dockerfile.
const maxDockerfile = 16 << 20

// readDockerfile returns the Dockerfile's path ("" for standard input) and
// bytes.
func (e *env) readDockerfile(dir, file string) (string, []byte, error) {
	if file == "-" {
		data, err := io.ReadAll(io.LimitReader(e.stdin, maxDockerfile))
		return "", data, err
	}
	names := []string{file}
	if file == "" {
		names = nil
		for _, n := range defaultFiles {
			names = append(names, filepath.Join(dir, n))
		}
	}
	for _, name := range names {
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, fmt.Errorf("read Dockerfile: %w", err)
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxDockerfile))
		if err != nil {
			return "", nil, fmt.Errorf("read Dockerfile: %w", err)
		}
		return name, data, nil
	}
	return "", nil, &missingDockerfile{name: names[0]}
}

// missingDockerfile says that there is no Dockerfile.
type missingDockerfile struct{ name string }

func (m *missingDockerfile) Error() string {
	return fmt.Sprintf("no Dockerfile: %s is not there", m.name)
}
func (m *missingDockerfile) Hint() string {
	return "name another file with -f, relative to the current directory"
}

// stdinContext reads a tar archive or a Dockerfile from standard input.
func (e *env) stdinContext(ctx context.Context, s tempDirer, file string) (*source, error) {
	var head [512]byte
	n, err := io.ReadFull(e.stdin, head[:])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	in := io.MultiReader(bytes.NewReader(head[:n]), e.stdin)
	src := &source{}
	if !isArchive(head[:n]) {
		if file != "" {
			return nil, &usageError{msg: "build: standard input is no tar archive, so -f can't name a file in it"}
		}
		data, err := io.ReadAll(io.LimitReader(in, maxDockerfile))
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		src.dockerfile, err = dockerfile.Parse("Dockerfile", data)
		return src, err
	}
	if src.temp, err = s.TempDir(); err != nil {
		return nil, err
	}
	if err := buildcontext.ExtractTar(ctx, in, src.temp); err != nil {
		return src, fmt.Errorf("unpack build context from standard input: %w", err)
	}
	return src, e.openArchive(src, file)
}

// openArchive opens an unpacked tar context.
func (e *env) openArchive(src *source, file string) error {
	names := []string{file}
	if file == "" {
		names = defaultFiles
	}
	probe, err := buildcontext.Open(src.temp, buildcontext.Options{})
	if err != nil {
		return err
	}
	defer probe.Close()
	var data []byte
	found := ""
	for _, name := range names {
		f, err := probe.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		data, err = io.ReadAll(io.LimitReader(f, maxDockerfile))
		f.Close()
		if err != nil {
			return err
		}
		found = name
		break
	}
	if found == "" {
		return &missingDockerfile{name: names[0] + " in the archive"}
	}
	if src.dockerfile, err = dockerfile.Parse(found, data); err != nil {
		return err
	}
	opts := buildcontext.Options{KeepOwner: true} // as BuildKit does with an archive
	if opts.Ignore, opts.IgnoreFile, err = buildcontext.ReadIgnore(src.temp, filepath.Join(src.temp, filepath.Clean("/"+found))); err != nil {
		return err
	}
	src.tree, err = buildcontext.Open(src.temp, opts)
	return err
}
