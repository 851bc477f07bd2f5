// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"

	"builder/image"
	"builder/rootfs"
)

// What the front program can't do, and says by errWhole, the whole one can: see front.go.

func readsArchives() error { return nil }

func readsLayers(context.Context, *rootfs.RootFS, image.Image, rootfs.Owners) error { return nil }

func (f *resourceSpecFlags) beyondReach() error { return nil }
