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
	"time"

	"builder/buildcontext"
	"builder/cache"
	"builder/container"
	"builder/dockerfile"
	"builder/image"
	"builder/layer"
	"builder/progress"
	"builder/rootfs"
	"builder/snapshot"
	"builder/store"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options say what to build.
type Options struct {
	Dockerfile *dockerfile.File
	Context    *buildcontext.Tree // nil if there is none: COPY then fails
	Target     string             // a stage's name or number; "" for the last
	Args       map[string]string  // --build-arg
	Labels     map[string]string  // --label
	Platform   *image.Platform    // --platform; nil for the host's
	NoCache    bool
	Pull       bool // ask the registry even where an image is here
	Run        RunOptions
	Layer      layer.Options
	Epoch      *time.Time // SOURCE_DATE_EPOCH
	Parallel   int        // steps at the same time, 0 for a default
	SkipImage  bool       // make no layers and no image
	Files      bool       // the target's file system is wanted: Result.Snapshot
}

// RunOptions hold for every RUN of a build.
type RunOptions struct {
	Network      string // "default", "host", "none"
	Hosts        []container.Host
	ShmSize      int64 // bytes, 0 for the default
	Rlimits      []container.Rlimit
	CgroupParent string
}

// Env is what a build works with.
type Env struct {
	Store    *store.Store
	Cache    *cache.Cache
	RootFS   *rootfs.RootFS
	Images   ImageSource
	Executor Executor
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

// Executor runs the processes of RUN steps.
type Executor interface {
	// Run runs a container to its end. A process that fails gives a
	// [*container.ExitError].
	Run(ctx context.Context, spec container.Spec) error
}

// Result is what a build made.
type Result struct {
	// Desc and Config are the image's; zero with Options.SkipImage.
	Desc   ocispec.Descriptor
	Config ocispec.Descriptor
	// Snapshot is the target's file system with Options.Files, "" for an
	// empty one.
	Snapshot snapshot.ID
	// Stats say what the build did.
	Stats Stats
}

// Build builds. The error, where it is about the Dockerfile or a step of it,
// is a [*dockerfile.Error] or a [*StepError].
func Build(ctx context.Context, env Env, opts Options) (*Result, error) {
	p, err := newPlan(ctx, env, opts)
	if err != nil {
		return nil, err
	}
	r := newRunner(env, opts, p)
	return r.run(ctx)
}
