// SPDX-License-Identifier: Apache-2.0

// Package build turns a Dockerfile and a build context into an image.
//
// A build has named phases. Parsing and planning come first and change
// nothing: global ARGs, stages, target, what the target needs, base images,
// and then, instruction by instruction, what each step will be and what it
// makes of the image's config. Only then are the steps run, stages side by
// side, the steps of a stage in order, each one only if the cache has no
// result for its key. A finished step is sealed at once and the next one
// starts on it, while its layer is written beside.
package build

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"time"

	"builder/buildcontext"
	"builder/cache"
	"builder/cdi"
	"builder/container"
	"builder/dockerfile"
	"builder/image"
	"builder/progress"
	"builder/rootfs"
	"builder/snapshot"
	"builder/store"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Options say what to build.
type Options struct {
	// Name is put before the names of the vertices where several builds are
	// shown together; "" otherwise.
	Name       string
	Dockerfile *dockerfile.File
	Context    *buildcontext.Tree // nil if there is none: COPY then fails
	Target     string             // a stage's name or number; "" for the last
	Args       map[string]string  // --build-arg
	Labels     map[string]string  // --label
	// Contexts are the named contexts by [ContextName], which may end in
	// "::" and a platform. Their trees stay the caller's to close.
	Contexts map[string]NamedContext
	// Platforms are those of --platform, without repetition; none means the
	// host's. Of several an index is made.
	Platforms []image.Platform
	// Index makes an index of a single platform too (BUILDKIT_MULTI_PLATFORM).
	Index         bool
	From          string // stands for the base image of the first FROM
	NoCache       bool
	NoCacheStages []string // stages whose steps are run again
	Pull          bool     // ask the registry even where an image is here
	Run           RunOptions
	Env           []string          // --env: NAME=VALUE, set where a stage on an image begins
	Secrets       map[string][]byte // --secret, by id
	SSH           map[string]Agent  // --ssh, by id
	Allow         Allow             // --allow
	Devices       *cdi.Registry     // what RUN --device names; nil for none
	// Epoch is the time of all that is made, which SOURCE_DATE_EPOCH in Args,
	// or as an ARG's default, sets too.
	Epoch      *time.Time
	ContextURL string // where the context was fetched from, "" if it was not
	Parallel   int    // steps at the same time, 0 for a default
	Edits      Edits
	// Images are the forms in which the image is wanted; none: it is not
	// assembled and no layer is written.
	Images []ImageOptions
	Files  bool // the target's file system is wanted: Result.Files
	// CacheFrom are asked, in their order, for what isn't in the state
	// directory; CacheTo are written when all is done.
	CacheFrom []CacheSource
	CacheTo   []CacheTarget
}

// Edits change the image after its last instruction.
type Edits struct {
	UnsetEnv    []string // variables that the image has not
	UnsetLabels []string // labels that it has not, unless Options.Labels sets them
	OmitHistory bool
	// Squash makes one layer of all that the build adds to the base image.
	Squash bool
	// Timestamp is the time of the image, its history and every file in its
	// new layers; nil: see Options.Epoch.
	Timestamp *time.Time
}

// Env is what a build works with.
type Env struct {
	Store    *store.Store
	Cache    *cache.Cache
	RootFS   *rootfs.RootFS
	Images   ImageSource
	Remote   RemoteSource // nil: ADD then fetches nothing
	Executor Executor
	Networks Networks // nil: RUN has the machine's network or none
	Sink     progress.Sink
	Log      *slog.Logger
	Now      func() time.Time
}

// ImageSource finds base images.
type ImageSource interface {
	// Image returns an image whose every blob is in the store, fetching it
	// if it isn't there, or if pull says to ask its registry anyway.
	Image(ctx context.Context, ref image.Ref, platform image.Platform, pull bool) (image.Image, error)
}

// RemoteSource fetches what ADD names by URL. tell gets the Log and Status
// events of it. Within a build a URL means one thing.
type RemoteSource interface {
	// ResolveFile returns the digest of what is at an HTTP(S) URL, which is
	// the checksum if there is one. FetchFile makes the file called name of it.
	ResolveFile(ctx context.Context, url string, checksum digest.Digest, tell func(progress.Event)) (digest.Digest, error)
	FetchFile(ctx context.Context, url string, checksum digest.Digest, name string, tell func(progress.Event)) error
	// ResolveGit returns what identifies the tree of a Git reference: its
	// commit and what is taken of it. FetchGit makes the directory dir of it,
	// on the store's file system.
	ResolveGit(ctx context.Context, ref dockerfile.GitRef, tell func(progress.Event)) (string, error)
	FetchGit(ctx context.Context, ref dockerfile.GitRef, dir string, tell func(progress.Event)) error
}

// Executor runs the processes of RUN steps.
type Executor interface {
	// Run runs a container to its end. A process that fails gives a
	// [*container.ExitError].
	Run(ctx context.Context, spec container.Spec) error
}

// Networks are those that RUN steps can be on.
type Networks interface {
	// Join returns a network namespace of the build on the network of a name,
	// "default" for that of builds that name none. It is no other step's until
	// it is released.
	Join(ctx context.Context, name string) (Link, error)
}

// Link is a step's connection to a network.
type Link struct {
	NetNS *os.File     // nil: the step is in the machine's own network
	DNS   []netip.Addr // name servers, none for the machine's
	// Gateway is the address of the machine there, zero if there is none.
	Gateway netip.Addr
	// Release gives the namespace up once its last process has ended. used
	// says that the step could change it: no other step is to have it then.
	Release func(used bool) error
}

// Result is what a build made.
type Result struct {
	Images []ImageResult   // one for each of Options.Images
	Files  []PlatformFiles // one for each platform, with Options.Files
	Caches []CacheResult   // one for each of Options.CacheTo that is not inline
	// Stats say what the build did.
	Stats Stats
}

// ImageResult is an image in one of the forms asked for.
type ImageResult struct {
	// Desc is the manifest or, where several platforms were asked for, the
	// index, with the annotations for what names it.
	Desc      ocispec.Descriptor
	Platforms []PlatformImage // in the order asked for
	Epoch     *time.Time      // SOURCE_DATE_EPOCH; nil for none
}

// PlatformImage is the image for one platform.
type PlatformImage struct {
	Platform     image.Platform
	Desc, Config ocispec.Descriptor // manifest and config
}

// PlatformFiles is the target's file system for one platform.
type PlatformFiles struct {
	Platform image.Platform
	Snapshot snapshot.ID // "" for an empty one
	Epoch    *time.Time  // the build's SOURCE_DATE_EPOCH; nil for none
}

// Build builds for every platform side by side. The error, where it is about
// the Dockerfile or a step of it, is a [*dockerfile.Error] or a [*StepError].
func Build(ctx context.Context, env Env, opts Options) (*Result, error) {
	for _, form := range opts.Images {
		if err := form.Check(opts); err != nil {
			return nil, err
		}
	}
	return buildWithout(ctx, env, opts, func(opts Options) (*Result, error) { return build(ctx, env, opts) })
}

func build(ctx context.Context, env Env, opts Options) (*Result, error) {
	runners, err := planAll(ctx, env, opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, r := range runners {
			r.temp.close()
		}
	}()
	g, gctx := errgroup.WithContext(ctx)
	for _, r := range runners {
		g.Go(func() error { return r.run(gctx) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return finish(ctx, runners)
}

func (o Options) platforms() []image.Platform {
	if len(o.Platforms) == 0 {
		return []image.Platform{image.HostPlatform()}
	}
	return o.Platforms
}

// Multi reports whether an index is made.
func (o Options) Multi() bool { return o.Index || len(o.Platforms) > 1 }

// planAll plans the build for each platform.
func planAll(ctx context.Context, env Env, opts Options) ([]*runner, error) {
	if opts.Parallel <= 0 {
		opts.Parallel = max(8, 2*runtime.NumCPU())
	}
	platforms := opts.platforms()
	shared := newSlots(opts.Parallel)
	im := newImports(env, opts.CacheFrom)
	runners := make([]*runner, len(platforms))
	g, gctx := errgroup.WithContext(ctx)
	for i, platform := range platforms {
		g.Go(func() error {
			p, err := newPlan(gctx, env, opts, platform)
			if i == 0 && p != nil {
				p.findings(env)
			}
			if err == nil {
				runners[i] = newRunner(env, p, shared, im)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	announce(runners)
	runners[0].warnUnused()
	return runners, nil
}
