// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"fmt"

	"builder/image"
	"builder/progress"
	"builder/registry"
	"builder/store"
)

func runPull(ctx context.Context, e *env, args []string) error {
	fs := flags("pull")
	quiet := fs.BoolP("quiet", "q", false, "show only the image's name")
	platformName := fs.String("platform", "", "fetch the image for `OS/ARCH[/VARIANT]`")
	mode := fs.String("progress", "auto", "how to show progress: auto, plain, tty or quiet")
	allTags := fs.BoolP("all-tags", "a", false, "fetch every tag of the repository")
	verify := fs.Bool("tls-verify", true, tlsUsage)
	verbose := fs.BoolP("verbose", "v", false, "tell which server gave what, and which failed")
	words, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	if *verbose {
		e.tell = func(text string) { fmt.Fprintf(e.stderr, "builder: %s\n", text) }
		if *mode == "auto" {
			*mode = "plain" // the lines would go through the picture
		}
	}
	ref, err := image.ParseRef(words[0])
	if err == nil && *allTags {
		ref, err = parseRepository("pull", words[0])
	}
	if err != nil {
		return err
	}
	var platform image.Platform
	if *platformName != "" {
		if platform, err = image.ParsePlatform(*platformName); err != nil {
			return &usageError{msg: "pull: --platform: " + err.Error()}
		}
	}
	if *quiet {
		*mode = "quiet"
	}
	client, err := e.registry(allowInsecure(!*verify, ref))
	if err != nil {
		return err
	}
	if !*allTags {
		return e.pull(ctx, client, ref, platform, *mode, *quiet)
	}
	tags, err := client.Tags(ctx, ref)
	if err == nil && len(tags) == 0 {
		err = fmt.Errorf("pull %s: the repository has no tags", ref.FamiliarName())
	}
	for _, ref.Tag = range tags {
		if err == nil {
			err = e.pull(ctx, client, ref, platform, *mode, *quiet)
		}
	}
	return err
}

// parseRepository parses the name of a repository, without tag and digest, for
// a command with --all-tags.
func parseRepository(command, word string) (image.Ref, error) {
	// What takes a tag has none yet.
	ref, err := image.ParseRef(word + ":latest")
	if err != nil {
		return ref, &usageError{msg: fmt.Sprintf("%s: --all-tags is for a repository, and %q has a tag or digest", command, word)}
	}
	return ref, nil
}

func (e *env) pull(ctx context.Context, client *registry.Client, ref image.Ref, platform image.Platform, mode string, quiet bool) error {
	s, err := e.store()
	if err != nil {
		return err
	}
	if err := e.makeRoom(ctx, s); err != nil {
		return err
	}
	defer e.keepBounds(ctx, s)
	before, err := s.Resolve(ref.String())
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	vertex := "pull " + ref.Familiar()
	done, sink, err := e.vertex(mode, vertex)
	if err != nil {
		return err
	}
	desc, err := client.Pull(ctx, s, ref, platform, sink, vertex)
	if err == nil {
		err = s.Tag(desc, ref.String())
	}
	if err == nil {
		noteImage(s, "pull", desc, ref.String())
	}
	if err = done(progress.Done{Err: err, Result: desc.Digest}); err != nil {
		return err
	}
	if platform.OS != "" {
		if img, err := localImage(s, desc); err == nil && !image.SamePlatform(img.Config.Platform, platform) {
			fmt.Fprintf(e.stderr, "builder: warning: the image is for %s, not for %s\n", image.FormatPlatform(img.Config.Platform), image.FormatPlatform(platform))
		}
	}
	if !quiet {
		status := "Downloaded newer image for "
		if before.Desc.Digest == desc.Digest {
			status = "Image is up to date for "
		}
		fmt.Fprintf(e.stdout, "Digest: %s\nStatus: %s%s\n", desc.Digest, status, ref.Familiar())
	}
	fmt.Fprintln(e.stdout, ref)
	return nil
}
