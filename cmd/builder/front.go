// SPDX-License-Identifier: Apache-2.0

//go:build front

package main

import (
	"context"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/container"
	"builder/image"
	"builder/progress"
	"builder/rootfs"
	"builder/store"
)

// needsWhole is a command of the whole program's.
func needsWhole(context.Context, *env, []string) error { return errWhole }

// The commands that the front program leaves to the whole one.
var (
	runBake     = needsWhole
	runBuild    = needsWhole
	runCommit   = needsWhole
	runContext  = needsWhole
	runDebug    = needsWhole
	runDf       = needsWhole
	runDiff     = needsWhole
	runDoctor   = needsWhole
	runExport   = needsWhole
	runImport   = needsWhole
	runInfo     = needsWhole
	runLoad     = needsWhole
	runLogin    = needsWhole
	runLogout   = needsWhole
	runManifest = needsWhole
	runMount    = needsWhole
	runPrune    = needsWhole
	runPull     = needsWhole
	runPush     = needsWhole
	runRmi      = needsWhole
	runSave     = needsWhole
	runUnmount  = needsWhole
	runUntag    = needsWhole
	runUsernet  = needsWhole
)

func prunes() map[string]func(context.Context, *env, []string) error {
	return map[string]func(context.Context, *env, []string) error{
		"builder": needsWhole, "buildx": needsWhole, "container": runContainerPrune, "image": needsWhole, "system": needsWhole,
	}
}

// What commands of the front program leave to the whole one now and then.

func (e *env) comeDownTo(context.Context, *store.Store, quota) error { return errWhole }

func (e *env) fetchImage(context.Context, *store.Store, progress.Sink, image.Ref, image.Platform, bool) (image.Image, error) {
	return image.Image{}, errWhole
}

// readsArchives says that an archive may have any compression.
func readsArchives() error { return errWhole }

// readsLayers says that layers of an image are to be unpacked that aren't gzip.
func readsLayers(ctx context.Context, rfs *rootfs.RootFS, img image.Image, owners rootfs.Owners) error {
	other := func(l ocispec.Descriptor) bool { return strings.HasSuffix(l.MediaType, "zstd") }
	if slices.ContainsFunc(img.Manifest.Layers, other) && slices.ContainsFunc(rfs.Packed(ctx, img, owners), other) {
		return errWhole
	}
	return nil
}

// beyondReach says that specifications of devices are to be read.
func (f *resourceSpecFlags) beyondReach() error {
	if f.gpus != "" || slices.ContainsFunc(f.devices, isCDIName) {
		return errWhole
	}
	return nil
}

func addCDI(*container.Spec, string, []string, []string) (flag string, err error) {
	return "", errWhole // not asked: see beyondReach
}

func (e *env) showSource(error) {} // no command that is here reads any
