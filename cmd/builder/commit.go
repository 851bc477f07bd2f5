// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"builder/build"
	"builder/cache"
	"builder/dockerfile"
	"builder/image"
	"builder/layer"
	"builder/progress"
	"builder/rootfs"
	"builder/snapshot"
	"builder/store"
	"builder/supervisor"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// commitOptions are the flags of commit.
type commitOptions struct {
	author, message string
	changes         []string
	pause, noPause  bool
}

// runCommit makes an image of a container.
func runCommit(ctx context.Context, e *env, args []string) error {
	fs := flags("commit")
	var o commitOptions
	fs.StringVarP(&o.author, "author", "a", "", "author of the image")
	fs.StringVarP(&o.message, "message", "m", "", "`TEXT` for the image's history")
	wordsVarP(fs, &o.changes, "change", "c", "apply a Dockerfile `INSTRUCTION` to the image")
	fs.BoolVar(&o.noPause, "no-pause", false, "let it go on")
	fs.BoolVarP(&o.pause, "pause", "p", true, "pause the container meanwhile")
	fs.BoolP("quiet", "q", false, "accepted: nothing else is shown")
	words, err := e.parse(fs, args, 1, 2)
	if err != nil {
		return err
	}
	var names []string
	if len(words) == 2 {
		ref, err := image.ParseRef(words[1])
		if err != nil {
			return err
		}
		names = append(names, ref.String())
	}
	s, rfs, err := e.rootFS()
	if err != nil {
		return err
	}
	if err := e.makeRoom(ctx, s); err != nil {
		return err
	}
	defer e.keepBounds(ctx, s)
	client, err := e.client()
	if err != nil {
		return err
	}
	c, err := client.Records.Find(words[0])
	if err != nil {
		return err
	}
	l, err := e.commitLayer(ctx, o, client, rfs, c)
	if err != nil {
		return fmt.Errorf("commit %s: %w", c.Name, err)
	}
	desc, err := e.commitImage(o, s, c, l)
	if err == nil && len(o.changes) > 0 {
		desc, err = e.changeImage(ctx, s, rfs, desc, o.changes)
	}
	if err != nil {
		return fmt.Errorf("commit %s: %w", c.Name, err)
	}
	if err := s.Tag(desc, names...); err != nil {
		return err
	}
	img, err := s.Image(desc, image.HostPlatform())
	if err != nil {
		return err
	}
	if len(names) > 0 {
		noteImageRead(s, "tag", img, names...)
	}
	client.Records.Event(c.Config, "commit", map[string]string{"imageID": img.ID().String()})
	fmt.Fprintln(e.stdout, img.ID())
	return nil
}

// commitLayer writes what the container has written.
func (e *env) commitLayer(ctx context.Context, o commitOptions, client *supervisor.Client, rfs *rootfs.RootFS, c supervisor.Container) (layer.Layer, error) {
	switch {
	case c.State.Status == supervisor.Running && o.pause && !o.noPause:
		if err := client.Pause(ctx, c.Config); err != nil {
			return layer.Layer{}, err
		}
		defer func() {
			if err := client.Unpause(context.WithoutCancel(ctx), c.Config); err != nil {
				e.warn(fmt.Sprintf("unpause %s: %v", c.Name, err))
			}
		}()
	case !c.State.Alive():
		lock, err := client.Records.Hold(c.Config)
		if err != nil {
			return layer.Layer{}, err
		}
		defer lock.Release()
	}
	return rfs.CommitUpper(ctx, upperDir(client.Records, c.ID), snapshot.ID(c.Snapshot), layer.Options{Owners: shownOwners(c.Spec.IDs)})
}

// commitImage puts a layer on the container's image, with the container's
// config.
func (e *env) commitImage(o commitOptions, s *store.Store, c supervisor.Container, l layer.Layer) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	entry, err := s.Resolve(c.ImageID)
	if err != nil {
		return none, fmt.Errorf("the container's image: %w", err)
	}
	base, err := localImage(s, entry.Desc)
	if err != nil {
		return none, err
	}
	created, err := e.created()
	if err != nil {
		return none, err
	}
	config := base.Config
	config.Created = created
	if o.author != "" {
		config.Author = o.author
	}
	cc := &config.Config
	cc.Env, cc.Entrypoint, cc.Cmd, cc.WorkingDir, cc.User = variables(c.Spec.Env), c.Entrypoint, c.Cmd, c.Spec.Dir, c.Spec.User
	if c.UserImplied {
		cc.User = ""
	}
	cc.StopSignal, cc.Labels = c.StopSignal, maps.Clone(c.Labels)
	cc.ExposedPorts = nil
	for _, p := range c.Exposed {
		if cc.ExposedPorts == nil {
			cc.ExposedPorts = map[string]struct{}{}
		}
		cc.ExposedPorts[p] = struct{}{}
	}
	config.RootFS.DiffIDs = append(slices.Clone(config.RootFS.DiffIDs), l.DiffID)
	config.History = append(slices.Clone(config.History), ocispec.History{
		Created: created, Author: o.author, Comment: o.message, CreatedBy: strings.Join(c.Spec.Args, " "),
	})
	configDesc, err := putDocument(s, ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return none, err
	}
	return putDocument(s, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configDesc, Layers: append(slices.Clone(base.Manifest.Layers), l.Blob),
	})
}

func putDocument(s *store.Store, mediaType string, doc any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.PutBlob(mediaType, data)
}

// changeImage applies instructions to an image. They mean what they mean in a
// build, so a build does it.
func (e *env) changeImage(ctx context.Context, s *store.Store, rfs *rootfs.RootFS, desc ocispec.Descriptor, changes []string) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	text := "FROM committed\n" + strings.Join(changes, "\n") + "\n"
	file, err := dockerfile.Parse("--change", []byte(text))
	if err != nil {
		return none, err
	}
	if len(file.Stages) != 1 || len(file.MetaArgs) > 0 {
		return none, &usageError{msg: "commit: --change can't be FROM or ARG, only " + strings.Join(importable, ", ")}
	}
	for _, cmd := range file.Stages[0].Commands {
		if !slices.Contains(importable, strings.ToUpper(cmd.Name())) {
			return none, &usageError{msg: fmt.Sprintf("commit: --change can't be %s, only %s", strings.ToUpper(cmd.Name()), strings.Join(importable, ", "))}
		}
	}
	c, err := cache.Open(s)
	if err != nil {
		return none, err
	}
	sink := progress.Discard{}
	res, err := build.Build(ctx, build.Env{
		Store: s, Cache: c, RootFS: rfs, Images: committedImage{s, desc}, Executor: executor{}, Sink: sink, Log: e.logger(), Now: time.Now,
	}, build.Options{Dockerfile: file, Images: []build.ImageOptions{{}}})
	if err != nil {
		return none, err
	}
	return res.Images[0].Desc, nil
}

// committedImage is an image source that has the image which was just made.
type committedImage struct {
	s    *store.Store
	desc ocispec.Descriptor
}

// Image implements build.ImageSource.
func (c committedImage) Image(_ context.Context, _ image.Ref, platform image.Platform, _ bool) (image.Image, error) {
	return c.s.Image(c.desc, platform)
}
