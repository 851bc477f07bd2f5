// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"builder/buildcontext"

	"github.com/docker/go-units"
)

// runContext is builder context, the commands about build contexts.
func runContext(ctx context.Context, e *env, args []string) error {
	switch {
	case len(args) > 0 && args[0] == "ls":
		return runContextLs(ctx, e, args[1:])
	case len(args) > 0 && !strings.HasPrefix(args[0], "-"):
		return &usageError{msg: fmt.Sprintf("context: unknown command %q", args[0]), hint: "builder context ls --help"}
	}
	_, err := e.parse(flags("context"), args, 1, 1)
	return err
}

// contextLs are the flags of builder context ls.
type contextLs struct {
	buildOptions
	why, format string
}

// runContextLs lists what a build context holds, or tells why a path is in it
// or not.
func runContextLs(ctx context.Context, e *env, args []string) (err error) {
	var o contextLs
	fs := flags("context")
	fs.StringVarP(&o.file, "file", "f", "", "Dockerfile whose ignore file counts (default PATH/Dockerfile)")
	fs.StringVar(&o.ignoreFile, "ignorefile", "", "`FILE` that counts instead of .dockerignore")
	fs.StringVar(&o.why, "why", "", "tell which rule decides about a `PATH` of the context")
	fs.StringVar(&o.format, "format", "table", "table or json")
	o.secretFlags.addFlags(fs)
	rest, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	if o.format != "table" && o.format != "json" {
		return &usageError{msg: fmt.Sprintf("context: --format=%s: want table or json", o.format)}
	}
	req := &buildRequest{path: rest[0], flags: &o.buildOptions}
	if flag, err := o.secretFlags.resolve(e, &req.opts); err != nil {
		return &usageError{msg: fmt.Sprintf("context: --%s: %v", flag, err)}
	}
	b, err := e.openBuild(&o.buildOptions)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	opener, err := b.contextOpener(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opener.close()) }()
	tree, err := opener.openTree(ctx, req.path, o.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	if fs.Changed("why") {
		return o.explain(ctx, e, tree)
	}
	return o.list(ctx, e, tree)
}

// openTree opens a context without a need for a Dockerfile: one that is named
// must be there, because of the ignore file beside it.
func (o *contextOpener) openTree(ctx context.Context, path, file string) (*buildcontext.Tree, error) {
	files, err := o.files(ctx, path)
	if err != nil {
		return nil, err
	}
	defer files.close()
	text, err := o.readDockerfile(ctx, files, file)
	var missing *missingDockerfile
	if file == "" && errors.As(err, &missing) {
		text, err = &dockerfileText{}, nil
	}
	if err != nil {
		return nil, err
	}
	files.opts.Index = "" // nothing is hashed
	return files.tree(text, o.ignoreFile)
}

// listedFile is a line of --format=json.
type listedFile struct {
	Path string `json:"path"`
	Mode string `json:"mode"`
	Size int64  `json:"size"`
	Link string `json:"link,omitempty"`
}

// list shows every file of a context.
func (o *contextLs) list(ctx context.Context, e *env, tree *buildcontext.Tree) error {
	w := tabwriter.NewWriter(e.stdout, 0, 0, 3, ' ', 0)
	out := json.NewEncoder(e.stdout)
	out.SetEscapeHTML(false)
	table := o.format == "table"
	if table {
		fmt.Fprintln(w, "MODE\tSIZE\tPATH")
	}
	var files, bytes int64
	err := tree.List(ctx, func(f buildcontext.File) error {
		files++
		bytes += f.Size
		if !table {
			return out.Encode(listedFile{f.Path, f.Mode.String(), f.Size, f.Link})
		}
		name := shownPath(f.Path)
		if f.Link != "" {
			name += " -> " + shownPath(f.Link)
		}
		_, err := fmt.Fprintf(w, "%s\t%d\t%s\n", f.Mode, f.Size, name)
		return err
	})
	if err != nil || !table {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "total: %d files, %d bytes (%s)\n", files, bytes, units.BytesSize(float64(bytes)))
	return err
}

// shownPath quotes a path that would be no path in a table.
func shownPath(p string) string {
	if quoted := fmt.Sprintf("%q", p); quoted != `"`+p+`"` {
		return quoted
	}
	return p
}

// why is what is known about a path of a context.
type why struct {
	Path      string `json:"path"`
	Exists    bool   `json:"exists"`
	InContext bool   `json:"inContext"`
	Rule      string `json:"rule,omitempty"` // the last one that matches
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	Matches   string `json:"matches,omitempty"` // what the rule matches: the path, or a directory above it
	excludes  bool
}

// explain tells which rule decides about a path.
func (o *contextLs) explain(ctx context.Context, e *env, tree *buildcontext.Tree) error {
	w := why{Path: buildcontext.Clean(o.why)}
	if w.Path == "" {
		return &usageError{msg: fmt.Sprintf("context: --why=%q: that is the context itself", o.why)}
	}
	var err error
	if w.Exists, err = tree.Exists(w.Path); err != nil {
		return err
	}
	err = tree.List(ctx, func(f buildcontext.File) error {
		w.InContext = w.InContext || f.Path == w.Path
		return nil
	})
	if err != nil {
		return err
	}
	if r := tree.Why(w.Path); r != nil {
		w.Rule, w.File, w.Line, w.Matches, w.excludes = r.Pattern, r.File, r.Line, r.Path, r.Excludes
	}
	if o.format == "json" {
		out := json.NewEncoder(e.stdout)
		out.SetEscapeHTML(false)
		return out.Encode(w)
	}
	_, err = fmt.Fprintf(e.stdout, "%s: %s\n", shownPath(w.Path), w.text())
	return err
}

func (w *why) text() string {
	text := "no rule matches it"
	if w.Rule != "" {
		verb := "taken in"
		if w.excludes {
			verb = "excluded"
		}
		text = fmt.Sprintf("%s by %q (%s:%d)", verb, w.Rule, w.File, w.Line)
		if w.Matches != w.Path {
			text += fmt.Sprintf(", which matches the directory %q", w.Matches)
		}
	}
	switch {
	case !w.Exists:
		text += "; there is no such file"
	case w.excludes && w.InContext:
		text += "; the directory is there because of something in it"
	}
	return text
}
