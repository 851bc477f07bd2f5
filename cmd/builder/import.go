// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/archive"
	"builder/build"
	"builder/cache"
	"builder/dockerfile"
	"builder/image"
	"builder/progress"
	"builder/rootfs"
	"builder/store"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"golang.org/x/term"
)

// importable are the instructions that --change takes: those that only change
// an image's config.
var importable = []string{"CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}

// defaultPath is the variable that BuildKit gives stages FROM scratch.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func runImport(ctx context.Context, e *env, args []string) error {
	fs := flags("import")
	changes := fs.StringArrayP("change", "c", nil, "apply a Dockerfile `INSTRUCTION` to the image")
	message := fs.StringP("message", "m", "", "`TEXT` for the image's history")
	platformName := fs.String("platform", "", "`OS/ARCH[/VARIANT]` that the files are for")
	quiet := fs.BoolP("quiet", "q", false, "don't show progress")
	words, err := e.parse(fs, args, 1, 2)
	if err != nil {
		return err
	}
	opts := archive.ImportOptions{Source: words[0], Message: *message, Vertex: "import " + words[0]}
	if *platformName != "" {
		if opts.Platform, err = image.ParsePlatform(*platformName); err != nil {
			return &usageError{msg: "import: --platform: " + err.Error()}
		}
	}
	var names []string
	if len(words) == 2 {
		ref, err := image.ParseRef(words[1])
		if err != nil {
			return err
		}
		names = append(names, ref.String())
	}
	file, err := e.openImport(words[0])
	if err != nil {
		return err
	}
	defer file.Close()
	mode := "auto"
	if *quiet {
		mode = "quiet"
	}
	return e.importImage(ctx, file, opts, importRest{*changes, names, mode})
}

// importRest is what of an import is not the archive package's.
type importRest struct {
	changes, names []string
	mode           string // of the progress
}

func (e *env) importImage(ctx context.Context, file *os.File, opts archive.ImportOptions, rest importRest) error {
	s, err := e.store()
	if err != nil {
		return err
	}
	if err := e.makeRoom(ctx, s); err != nil {
		return err
	}
	defer e.keepBounds(ctx, s)
	if opts.Created, err = e.created(); err != nil {
		return err
	}
	if len(rest.changes) > 0 {
		if opts.Config, err = e.changedConfig(ctx, s, rest.changes); err != nil {
			return err
		}
	}
	done, sink, err := e.vertex(rest.mode, opts.Vertex)
	if err != nil {
		return err
	}
	opts.Sink = sink
	desc, err := archive.Import(ctx, s, file, opts)
	if err == nil {
		err = s.Tag(desc, rest.names...)
	}
	if err = done(progress.Done{Err: err, Result: desc.Digest}); err != nil {
		return err
	}
	img, err := s.Image(desc, image.HostPlatform())
	if err != nil {
		return err
	}
	noteImageRead(s, "import", img, rest.names...)
	fmt.Fprintln(e.stdout, img.ID())
	return nil
}

func (e *env) openImport(name string) (*os.File, error) {
	switch {
	case name == "-" && term.IsTerminal(int(e.stdin.Fd())):
		return nil, &usageError{msg: "import: standard input is a terminal", hint: "builder import FILE, or builder import - < FILE"}
	case name == "-":
		return e.stdin, nil
	case strings.HasPrefix(name, "http://"), strings.HasPrefix(name, "https://"):
		return nil, &usageError{msg: fmt.Sprintf("import: %s: an address can't be imported", name), hint: "curl -fL " + name + " | builder import -"}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err == nil && fi.IsDir() {
		f.Close()
		return nil, &usageError{msg: fmt.Sprintf("import: %s is a directory", name), hint: fmt.Sprintf("tar -C %s -c . | builder import -", filepath.Clean(name))}
	}
	return f, nil
}

// created is the time that new images say: now, or SOURCE_DATE_EPOCH.
func (e *env) created() (*time.Time, error) {
	t := time.Now().UTC()
	if v := e.getenv("SOURCE_DATE_EPOCH"); v != "" {
		sec, err := strconv.ParseInt(v, 10, 64)
		if err != nil || sec < 0 {
			return nil, fmt.Errorf("SOURCE_DATE_EPOCH=%q: want seconds since 1970", v)
		}
		t = time.Unix(sec, 0).UTC()
	}
	return &t, nil
}

// changedConfig is the config that instructions make of an empty one. They
// mean what they mean in a build, so a build works it out.
func (e *env) changedConfig(ctx context.Context, s *store.Store, changes []string) (image.Config, error) {
	var none image.Config
	file, err := dockerfile.Parse("--change", []byte("FROM scratch\n"+strings.Join(changes, "\n")+"\n"))
	if err != nil {
		return none, err
	}
	for _, cmd := range file.Stages[0].Commands {
		if !slices.Contains(importable, strings.ToUpper(cmd.Name())) {
			return none, &usageError{msg: fmt.Sprintf("import: --change can't be %s, only %s", strings.ToUpper(cmd.Name()), strings.Join(importable, ", "))}
		}
	}
	if len(file.Stages) != 1 || len(file.MetaArgs) > 0 {
		return none, &usageError{msg: "import: --change can't be FROM or ARG, only " + strings.Join(importable, ", ")}
	}
	c, err := cache.Open(s)
	if err != nil {
		return none, err
	}
	rfs, err := rootfs.Open(s)
	if err != nil {
		return none, err
	}
	sink := progress.Discard{}
	res, err := build.Build(ctx, build.Env{
		Store: s, Cache: c, RootFS: rfs, Images: newImageSource(e, s, sink),
		Executor: executor{}, Sink: sink, Log: e.logger(), Now: time.Now,
	}, build.Options{Dockerfile: file, Images: []build.ImageOptions{{}}})
	if err != nil {
		return none, err
	}
	img, err := s.Image(res.Images[0].Desc, image.HostPlatform())
	if err != nil {
		return none, err
	}
	return image.Config{Config: withoutDefaults(img.Config.Config, file)}, nil
}

// withoutDefaults drops what a build gives an image that begins with nothing:
// here it begins with files that somebody made, and means what it says.
func withoutDefaults(c dockerspec.DockerOCIImageConfig, file *dockerfile.File) dockerspec.DockerOCIImageConfig {
	dir := c.WorkingDir
	c.WorkingDir = ""
	for _, cmd := range file.Stages[0].Commands {
		if strings.EqualFold(cmd.Name(), "WORKDIR") {
			c.WorkingDir = dir
		}
	}
	if len(c.Env) > 0 && c.Env[0] == defaultPath {
		c.Env = c.Env[1:]
	}
	c.ArgsEscaped = false //nolint:staticcheck // a note of BuildKit's about Windows
	return c
}
