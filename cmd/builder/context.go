// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"archive/tar"
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
	"builder/progress"
	"builder/remote"
	"builder/store"

	"github.com/spf13/pflag"
)

// sourceFlags say what is built: the Dockerfile and what it takes files from.
type sourceFlags struct {
	file          string
	buildContexts []string
	ignoreFile    string
}

func (f *sourceFlags) addFlags(fs *pflag.FlagSet) {
	fs.StringVarP(&f.file, "file", "f", "", "Dockerfile, a URL of one, or - for standard input (default PATH/Dockerfile)")
	wordsVar(fs, &f.buildContexts, "build-context", "named context, `NAME=SOURCE`: a directory, a Git or HTTP URL, docker-image://REF, oci-layout://DIR[:TAG][@DIGEST]")
	fs.StringVar(&f.ignoreFile, "ignorefile", "", "`FILE` that counts instead of .dockerignore")
}

// source is a build's Dockerfile and context.
type source struct {
	dockerfile *dockerfile.File
	tree       *buildcontext.Tree
	url        string // where the tree was fetched from, "" if it was not
}

func (s *source) close() error {
	if s.tree == nil {
		return nil
	}
	return s.tree.Close()
}

// contextOpener opens build contexts and finds the Dockerfiles for them.
type contextOpener struct {
	e      *env
	store  *store.Store
	cache  *cache.Cache
	trees  *sharedTrees
	remote *remote.Client
	agents *agentSockets
	sink   progress.Sink
	// keepGitDir and commitTime count for contexts that are Git references.
	keepGitDir, commitTime bool
	ignoreFile             string            // stands for every other ignore file of the build context
	args                   map[string]string // build arguments
}

// close gives up what was fetched.
func (o *contextOpener) close() error { return errors.Join(o.remote.Close(), o.agents.close()) }

// open opens a context and reads the Dockerfile that file names.
func (o *contextOpener) open(ctx context.Context, path, file string) (*source, error) {
	if path == "-" && file == "-" {
		return nil, &usageError{msg: "build: standard input can't be both the Dockerfile and the context"}
	}
	files, err := o.files(ctx, path)
	if err != nil {
		return nil, err
	}
	defer files.close()
	if files.text != nil && file != "" {
		return nil, &usageError{msg: fmt.Sprintf("build: %s is a Dockerfile and no archive, so -f can't name another one", files.shown)}
	}
	text, err := o.readDockerfile(ctx, files, file)
	if err != nil {
		return nil, err
	}
	src := &source{}
	if src.dockerfile, err = dockerfile.ParseArgs(text.shown, text.data, o.args); err != nil {
		return nil, err
	}
	src.url = files.url
	src.tree, err = files.tree(text, o.ignoreFile)
	return src, err
}

// contextFiles are the files that a context was found to be.
type contextFiles struct {
	shown string // how messages call it
	dir   string
	url   string // where they were fetched from
	text  []byte // a Dockerfile, where that is all that was given
	opts  buildcontext.Options
	// all are the files of a directory that was fetched or unpacked, where
	// -f names one; nil for a directory of the user's.
	all *buildcontext.Tree
	// archive says that also absolute names are in it.
	archive bool
	trees   *sharedTrees
}

func (f *contextFiles) close() {
	if f.all != nil {
		f.all.Close()
	}
}

// isHTTP tells a URL of a file, which may be that of a Git repository too.
func isHTTP(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

// isDir reports whether a path is a directory: then it is no URL, whatever it
// looks like.
func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// files finds out what a context is and brings its files: a directory, what
// comes on standard input, a Git reference, or a URL of an archive or a
// Dockerfile.
func (o *contextOpener) files(ctx context.Context, path string) (*contextFiles, error) {
	if path == "-" {
		return o.read(ctx, "standard input", o.e.stdin)
	}
	if isDir(path) {
		return o.localFiles(path)
	}
	git, err := dockerfile.ParseGitRef(path)
	if err != nil {
		return nil, fmt.Errorf("build context: %w", err)
	}
	switch {
	case git != nil:
		return o.gitFiles(ctx, path, *git)
	case isHTTP(path):
		return o.httpFiles(ctx, path)
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("build context %q: %w", path, errors.Unwrap(err))
	}
	return nil, fmt.Errorf("build context %q is not a directory", path)
}

func (o *contextOpener) localFiles(dir string) (*contextFiles, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	f := &contextFiles{shown: dir, dir: dir, trees: o.trees}
	f.opts.Index, err = o.cache.ContextIndex(abs)
	return f, err
}

// fetched are the files in a directory of ours.
func fetched(shown, dir string, opts buildcontext.Options) (*contextFiles, error) {
	all, err := buildcontext.Open(dir, buildcontext.Options{})
	if err != nil {
		return nil, err
	}
	return &contextFiles{shown: shown, dir: dir, opts: opts, all: all}, nil
}

// gitFiles fetches the tree of a Git reference. Its subdirectory is the top of
// the context.
func (o *contextOpener) gitFiles(ctx context.Context, shown string, ref dockerfile.GitRef) (*contextFiles, error) {
	if o.keepGitDir {
		ref.KeepGitDir = &o.keepGitDir
	}
	ref.CommitTime = ref.CommitTime || o.commitTime
	dir, opts, err := o.openGit(ctx, "[internal] load git source "+shown, ref)
	if err != nil {
		return nil, err
	}
	files, err := fetched(shown, dir, opts)
	if err == nil {
		files.url = shown
	}
	return files, err
}

// openGit fetches the tree of a Git reference, unless it is here, and returns
// its directory and how to open that.
func (o *contextOpener) openGit(ctx context.Context, vertex string, ref dockerfile.GitRef) (dir string, opts buildcontext.Options, err error) {
	err = o.vertex(vertex, func(tell func(progress.Event)) error {
		dir, err = o.remote.OpenGit(ctx, ref, tell)
		return err
	})
	if err != nil {
		return "", opts, err
	}
	opts.Index, err = o.cache.ContextIndex(filepath.Dir(dir))
	return dir, opts, err
}

// newDir is where a new directory of this process may be made.
func (o *contextOpener) newDir() (string, error) {
	dir, err := o.store.TempDir()
	return filepath.Join(dir, "tree"), err
}

// httpFiles fetches what is at a URL: an archive, or a Dockerfile, which is
// then all that the context holds, under the name "context", as in BuildKit.
func (o *contextOpener) httpFiles(ctx context.Context, url string) (*contextFiles, error) {
	dir, err := o.fetchFile(ctx, "[internal] load remote build context", url)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, httpName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files, err := o.read(ctx, url, f)
	if err == nil && files.text != nil {
		files.dir = dir
	}
	if err == nil {
		files.url = url
	}
	return files, err
}

// httpName is what a file is called in a context that is fetched by HTTP.
const httpName = "context"

// fetchFile fetches a file and returns the directory in which it lies.
func (o *contextOpener) fetchFile(ctx context.Context, vertex, url string) (string, error) {
	dir, err := o.newDir()
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, httpName)
	return dir, o.vertex(vertex, func(tell func(progress.Event)) error { return o.remote.FetchFile(ctx, url, "", name, tell) })
}

// vertex shows what f does as a vertex of its own.
func (o *contextOpener) vertex(name string, f func(tell func(progress.Event)) error) error {
	tell := func(e progress.Event) {
		if o.sink != nil {
			e.Vertex = name
			o.sink.Event(e)
		}
	}
	tell(progress.Event{Start: &progress.Start{Name: name}})
	err := f(tell)
	tell(progress.Event{Done: &progress.Done{Err: err}})
	return err
}

// read unpacks an archive, plain or compressed, or takes what it reads for a
// Dockerfile with an empty context.
func (o *contextOpener) read(ctx context.Context, shown string, r io.Reader) (*contextFiles, error) {
	var head [512]byte
	n, err := io.ReadFull(r, head[:])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", shown, err)
	}
	in := io.MultiReader(bytes.NewReader(head[:n]), r)
	dir, err := o.store.TempDir()
	if err != nil {
		return nil, err
	}
	if !isArchive(head[:n]) {
		text, err := readText(shown, in)
		return &contextFiles{shown: shown, dir: dir, text: text}, err
	}
	if err := buildcontext.ExtractTar(ctx, in, dir); err != nil {
		return nil, fmt.Errorf("unpack build context from %s: %w", shown, err)
	}
	files, err := fetched(shown, dir, buildcontext.Options{KeepOwner: true}) // as BuildKit does with an archive
	if err == nil {
		files.archive = true
	}
	return files, err
}

// dockerfileText is a Dockerfile that was found.
type dockerfileText struct {
	shown  string // how messages call it
	data   []byte
	beside string // its path on this machine, beside which its ignore file may be
}

// defaultFiles are looked for in the context where no file is named.
var defaultFiles = []string{"Dockerfile", "dockerfile", "Containerfile"}

// readDockerfile finds the Dockerfile that -f names: standard input, a URL, a
// file of a context that was fetched, or a file of this machine.
func (o *contextOpener) readDockerfile(ctx context.Context, files *contextFiles, file string) (*dockerfileText, error) {
	switch {
	case files.text != nil:
		return &dockerfileText{shown: "Dockerfile", data: files.text}, nil
	case file == "-":
		data, err := readText("standard input", o.e.stdin)
		return &dockerfileText{shown: "Dockerfile", data: data}, err
	case isHTTP(file):
		return o.dockerfileFromURL(ctx, file)
	}
	text := &dockerfileText{}
	open, names := os.Open, []string{file}
	if file == "" {
		names = defaultFiles
	}
	inside := files.all != nil && (files.archive || !filepath.IsAbs(file))
	if inside {
		open = files.all.Open
	}
	for _, name := range names {
		if file == "" && !inside {
			name = filepath.Join(files.dir, name)
		}
		f, err := open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read Dockerfile: %w", err)
		}
		defer f.Close()
		text.shown = name
		if !inside {
			text.shown, text.beside = shownName(name), name
		}
		text.data, err = readText(text.shown, f)
		return text, err
	}
	return nil, &missingDockerfile{name: names[0], in: files.shown, inside: inside || file == ""}
}

func (o *contextOpener) dockerfileFromURL(ctx context.Context, url string) (*dockerfileText, error) {
	dir, err := o.fetchFile(ctx, "[internal] load "+url, url)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, httpName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readText(url, f)
	return &dockerfileText{shown: "Dockerfile", data: data}, err
}

// maxDockerfile bounds what is read as a Dockerfile.
const maxDockerfile = 16 << 20

// readText reads a Dockerfile whole.
func readText(shown string, r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if err == nil && len(data) > maxDockerfile {
		err = fmt.Errorf("it has more than %d bytes, too many for a Dockerfile", maxDockerfile)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", shown, err)
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}

// tree opens the context's files. Of a directory of the user's those are not
// there that the ignore file excludes: the one given, else the one beside the
// Dockerfile, else the directory's. What is fetched or unpacked is whole, as in
// BuildKit, unless an ignore file is given.
func (f *contextFiles) tree(text *dockerfileText, given string) (*buildcontext.Tree, error) {
	var names []string
	switch {
	case given != "":
		names = []string{given}
	case f.all != nil:
	case text.beside != "":
		names = []string{text.beside + ".dockerignore", filepath.Join(f.dir, ".dockerignore")}
	default:
		names = []string{filepath.Join(f.dir, ".dockerignore")}
	}
	ignore, err := buildcontext.ReadIgnore(os.Open, names...)
	if err == nil && given != "" && ignore.Name == "" {
		err = fmt.Errorf("--ignorefile %q: it is not there", given)
	}
	if err != nil {
		return nil, err
	}
	f.opts.SetIgnore(ignore)
	return f.trees.Open(f.dir, f.opts)
}

// shownName is how messages call a Dockerfile.
func shownName(name string) string {
	if rel, err := filepath.Rel(".", name); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return name
}

// missingDockerfile says that there is no Dockerfile.
type missingDockerfile struct {
	name, in string
	inside   bool // in the context, whichever that is
}

func (m *missingDockerfile) Error() string {
	if !m.inside {
		return fmt.Sprintf("no Dockerfile: %s is not there", m.name)
	}
	return fmt.Sprintf("no Dockerfile: %s is not in %s", m.name, m.in)
}

// Hint says how -f is read.
func (m *missingDockerfile) Hint() string {
	if m.inside && !isDir(m.in) {
		return "name another file of the context with -f"
	}
	return "name another file with -f, relative to the current directory"
}

// isArchive reports whether data begins a tar archive, plain or compressed.
func isArchive(data []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(data, []byte(magic)) {
			return true
		}
	}
	if len(data) > 262 && string(data[257:262]) == "ustar" {
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(data)).Next()
	return err == nil // the old format has only its checksum
}
