// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"fmt"
	"os"

	"builder/archive"
	"builder/image"
	"builder/progress"
	"builder/store"

	"golang.org/x/term"
)

func runLoad(ctx context.Context, e *env, args []string) error {
	fs := flags("load")
	input := fs.StringP("input", "i", "", "read a `FILE`, or a directory with an OCI image layout, instead of standard input")
	quiet := fs.BoolP("quiet", "q", false, "don't show progress")
	platformName := fs.String("platform", "", "of an image for several platforms load that for `OS/ARCH[/VARIANT]` alone")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	var platform image.Platform
	if *platformName != "" {
		var err error
		if platform, err = image.ParsePlatform(*platformName); err != nil {
			return &usageError{msg: "load: --platform: " + err.Error()}
		}
	}
	file := e.stdin
	if *input != "" && *input != "-" {
		f, err := os.Open(*input)
		if err != nil {
			return err
		}
		defer f.Close()
		file = f
	} else if term.IsTerminal(int(e.stdin.Fd())) {
		return &usageError{msg: "load: standard input is a terminal", hint: "builder load -i FILE, or builder load < FILE"}
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	if err := e.makeRoom(ctx, s); err != nil {
		return err
	}
	defer e.keepBounds(ctx, s)
	mode := "auto"
	if *quiet {
		mode = "quiet"
	}
	loaded, err := e.load(ctx, s, file, mode, platform)
	if err != nil {
		return err
	}
	for _, l := range loaded {
		for _, name := range l.Names {
			fmt.Fprintf(e.stdout, "Loaded image: %s\n", familiarName(name))
		}
		if len(l.Names) > 0 {
			continue
		}
		img, err := localImage(s, l.Desc)
		if err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "Loaded image ID: %s\n", img.ID())
	}
	return nil
}

// load loads an open archive or directory and names what it held.
func (e *env) load(ctx context.Context, s *store.Store, file *os.File, mode string, platform image.Platform) ([]archive.Loaded, error) {
	vertex := "load " + file.Name()
	done, sink, err := e.vertex(mode, vertex)
	if err != nil {
		return nil, err
	}
	opts := archive.LoadOptions{Platform: platform, Sink: sink, Vertex: vertex}
	var loaded []archive.Loaded
	fi, err := file.Stat()
	if err == nil && fi.IsDir() {
		loaded, err = archive.LoadDir(ctx, s, file.Name(), opts)
	} else if err == nil {
		loaded, err = archive.Load(ctx, s, file, opts)
	}
	for _, l := range loaded {
		if err == nil {
			if err = s.Tag(l.Desc, l.Names...); err == nil {
				noteImage(s, "load", l.Desc, l.Names...)
			}
		}
	}
	return loaded, done(progress.Done{Err: err})
}
