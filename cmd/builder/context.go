// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"builder/buildcontext"
	"builder/cache"
	"builder/dockerfile"

	"github.com/spf13/pflag"
)

// sourceFlags say what is built: the Dockerfile and what it takes files from.
type sourceFlags struct {
	file          string
	buildContexts []string
}

func (f *sourceFlags) addFlags(fs *pflag.FlagSet) {
	fs.StringVarP(&f.file, "file", "f", "", "Dockerfile, - for standard input (default PATH/Dockerfile)")
	fs.StringArrayVar(&f.buildContexts, "build-context", nil, "named context, `NAME=SOURCE`: a directory, docker-image://REF, oci-layout://DIR[:TAG][@DIGEST]")
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
