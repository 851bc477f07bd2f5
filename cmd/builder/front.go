// SPDX-License-Identifier: Apache-2.0

//go:build front

package main

import (
	"context"
	"slices"
	"strings"

	"builder/container"
	"builder/image"
	"builder/progress"
	"builder/store"
)

// The commands that only the whole program has.
var runBake, runBuild, runCommit, runContext, runDebug, runDf, runDiff, runDoctor, runExport, runImport, runInfo, runLoad, runLogin,
	runLogout, runManifest, runMount, runPrune, runPull, runPush, runRmi, runSave, runUnmount, runUntag, runUsernet runFunc

func prunes() map[string]runFunc {
	return map[string]runFunc{"builder": nil, "buildx": nil, "container": runContainerPrune, "image": nil, "system": nil}
}

// What commands of the front program leave to the whole one now and then.

func (e *env) comeDownTo(context.Context, *store.Store, quota) error { return errWhole }

func (e *env) fetchImage(context.Context, *store.Store, progress.Sink, image.Ref, image.Platform, bool) (image.Image, error) {
	return image.Image{}, errWhole
}

// readsArchives says that an archive may have any compression.
func readsArchives() error { return errWhole }

// beyondReach says that flags ask for what this program can't do, or perhaps can't: to
// read the specifications of devices, and to unpack another image when files of flags have
// been read already.
func (o *createOptions) beyondReach() error {
	isImage := func(mount string) bool { return strings.Contains(mount, "type=image") }
	if o.gpus != "" || slices.ContainsFunc(o.devices, isCDIName) || slices.ContainsFunc(o.mounts, isImage) {
		return errWhole
	}
	return nil
}

func addCDI(*container.Spec, string, []string, []string) (flag string, err error) {
	return "", errWhole // not asked: see beyondReach
}

func (e *env) showSource(error) {} // no command that is here reads any
