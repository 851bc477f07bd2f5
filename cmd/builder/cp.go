// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"builder/internal/copytree"
	"builder/internal/sys"
	"builder/layer"
	"builder/supervisor"
)

// copyEnd is one side of a cp: a path on this machine, in a container, or
// standard input or output.
type copyEnd struct {
	container string // "" for this machine
	path      string
	stream    bool
}

// parseCopyEnd reads CONTAINER:PATH, PATH or -. A path that begins with / or .
// is one of this machine, whatever colons are in it.
func parseCopyEnd(text string) copyEnd {
	if text == "-" {
		return copyEnd{stream: true}
	}
	if strings.HasPrefix(text, "/") || strings.HasPrefix(text, ".") {
		return copyEnd{path: text}
	}
	if name, p, ok := strings.Cut(text, ":"); ok {
		return copyEnd{container: name, path: p}
	}
	return copyEnd{path: text}
}

// copying are the flags of cp.
type copying struct{ archive, follow bool }

func runCp(ctx context.Context, e *env, args []string) error {
	fs := flags("cp")
	var o copying
	fs.BoolVarP(&o.archive, "archive", "a", false, "keep owners")
	fs.BoolVarP(&o.follow, "follow-link", "L", false, "copy what a symbolic link SOURCE leads to")
	fs.BoolP("quiet", "q", false, "accepted: nothing is shown")
	words, err := e.parse(fs, args, 2, 2)
	if err != nil {
		return err
	}
	from, to := parseCopyEnd(words[0]), parseCopyEnd(words[1])
	switch {
	case from.container == "" && to.container == "":
		return &usageError{msg: "cp: one of the two must be in a container: CONTAINER:PATH"}
	case from.container != "" && to.container != "":
		return &usageError{msg: "cp: copying between containers is not supported: copy to this machine and on, or cp A:PATH - | cp - B:DIR"}
	case from.path == "" && !from.stream || to.path == "" && !to.stream:
		return &usageError{msg: "cp: a path is empty"}
	}
	s, rfs, err := e.rootFS()
	if err != nil {
		return err
	}
	records := supervisor.NewRecords(s)
	c, err := records.Find(first(from.container, to.container))
	if err != nil {
		return err
	}
	tree, err := openContainer(ctx, records, rfs, c, to.container != "")
	if err != nil {
		return fmt.Errorf("cp: %w", err)
	}
	defer tree.close()
	if from.container != "" {
		err = e.copyOut(ctx, o, tree, from.path, to)
	} else {
		err = e.copyIn(ctx, o, tree, from, to.path)
	}
	if err != nil {
		return fmt.Errorf("cp %s %s: %w", words[0], words[1], err)
	}
	return nil
}

// source is what is copied, opened.
type copySource struct {
	file     *os.File // opened as a mere place
	info     os.FileInfo
	link     string // target of a symbolic link
	base     string // its name
	contents bool   // what is in the directory, not it
}

// openSource opens what a path names below a root. The last part is not
// followed unless follow is set, or the path ends with a slash.
func openSource(root *os.File, name string, follow bool) (*copySource, error) {
	src := &copySource{base: path.Base(path.Clean(name))}
	clean, contents := strings.CutSuffix(name, "/.")
	if name == "." {
		clean, contents = "/", true
	}
	src.contents = contents
	follow = follow || contents || strings.HasSuffix(clean, "/")
	flags := sys.PathOnly
	if !follow {
		flags |= sys.NoFollow
	}
	if clean == "" {
		clean = "/"
	}
	f, err := sys.OpenInRoot(root, clean, flags, 0)
	if err != nil {
		return nil, err
	}
	src.file = f
	if src.info, err = f.Stat(); err == nil && src.info.Mode()&fs.ModeSymlink != 0 {
		src.link, err = sys.ReadLinkOf(f)
	}
	if err == nil && (contents || strings.HasSuffix(clean, "/") && clean != "/") && !src.info.IsDir() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("not a directory")}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return src, nil
}

// write writes the source as a tar, under a name; an empty name is for the
// contents of a directory.
func (src *copySource) write(ctx context.Context, w io.Writer, name string) error {
	if src.info.IsDir() {
		// Its own entry is written by hand: in a layer it has no attributes.
		if name == "" {
			_, err := layer.WriteTree(ctx, w, src.file, layer.Options{Compression: layer.Uncompressed})
			return err
		}
		tw := tar.NewWriter(w)
		if err := src.header(tw, name); err != nil {
			return err
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		return writeBelow(ctx, w, src.file, name)
	}
	tw := tar.NewWriter(w)
	if err := src.header(tw, name); err != nil {
		return err
	}
	if src.info.Mode().IsRegular() {
		f, err := os.Open(sys.FDPath(src.file))
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.Copy(tw, io.LimitReader(f, src.info.Size())); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (src *copySource) header(tw *tar.Writer, name string) error {
	h, err := tar.FileInfoHeader(src.info, src.link)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname, h.Format = name, "", "", tar.FormatPAX
	if src.info.IsDir() {
		h.Name += "/"
	}
	return tw.WriteHeader(h)
}

// writeBelow writes the contents of a directory with the directory's name before
// theirs.
func writeBelow(ctx context.Context, w io.Writer, dir *os.File, name string) error {
	pr, pw := io.Pipe()
	go func() {
		_, err := layer.WriteTree(ctx, pw, dir, layer.Options{Compression: layer.Uncompressed})
		pw.CloseWithError(err)
	}()
	defer func() { _ = pr.Close() }()
	tr, tw := tar.NewReader(pr), tar.NewWriter(w)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return tw.Close()
		}
		if err != nil {
			return err
		}
		h.Name = name + "/" + h.Name
		if h.Typeflag == tar.TypeLink {
			h.Linkname = name + "/" + h.Linkname
		}
		h.Format = tar.FormatPAX
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return err
		}
	}
}

// copyOut copies from the container.
func (e *env) copyOut(ctx context.Context, o copying, t *containerTree, name string, to copyEnd) error {
	root, inside, _, err := t.locate(name)
	if err != nil {
		return err
	}
	defer root.Close()
	if strings.HasSuffix(name, "/") && inside != "/" {
		inside += "/"
	}
	if strings.HasSuffix(name, "/.") {
		inside = strings.TrimSuffix(inside, "/") + "/."
	}
	src, err := openSource(root, inside, o.follow)
	if err != nil {
		return err
	}
	defer src.file.Close()
	if src.base = path.Base(path.Clean("/" + name)); src.base == "/" {
		src.contents = true
	}
	if to.stream {
		if src.base == "/" {
			return src.write(ctx, e.stdout, "")
		}
		return src.write(ctx, e.stdout, src.base)
	}
	machine, err := os.OpenFile("/", sys.PathOnly, 0)
	if err != nil {
		return err
	}
	defer machine.Close()
	dest, err := absolute(to.path)
	if err != nil {
		return err
	}
	var owner *copytree.Owner
	if !o.archive {
		owner = &copytree.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	}
	return copyTo(ctx, src, machine, dest, owner)
}

// absolute makes a path of this machine absolute and keeps what its end says.
func absolute(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	if !path.IsAbs(name) {
		name = dir + "/" + name
	}
	end := ""
	switch {
	case strings.HasSuffix(name, "/."):
		end = "/."
	case strings.HasSuffix(name, "/"):
		end = "/"
	}
	clean := path.Clean(name)
	if clean == "/" {
		return clean + strings.TrimPrefix(end, "/"), nil
	}
	return clean + end, nil
}

// copyIn copies to the container.
func (e *env) copyIn(ctx context.Context, o copying, t *containerTree, from copyEnd, name string) error {
	root, inside, readOnly, err := t.locate(name)
	if err != nil {
		return err
	}
	defer root.Close()
	if readOnly || t.c.Spec.ReadOnly && !t.c.State.Alive() {
		return errors.New("the file system is read-only")
	}
	if strings.HasSuffix(name, "/") && inside != "/" {
		inside += "/"
	}
	owner := &copytree.Owner{}
	if o.archive {
		owner = nil
	}
	if from.stream {
		return untarInto(ctx, root, inside, e.stdin, nil)
	}
	machine, err := os.OpenFile("/", sys.PathOnly, 0)
	if err != nil {
		return err
	}
	defer machine.Close()
	source, err := absolute(from.path)
	if err != nil {
		return err
	}
	src, err := openSource(machine, source, o.follow)
	if err != nil {
		return err
	}
	defer src.file.Close()
	return copyTo(ctx, src, root, inside, owner)
}

// untarInto extracts a tar into a directory that is there.
func untarInto(ctx context.Context, root *os.File, name string, r io.Reader, owner *copytree.Owner) error {
	dir, err := sys.OpenInRoot(root, name, os.O_RDONLY|sys.Directory, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	plain, _, err := layer.Decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	_, err = copytree.Untar(ctx, dir, plain, owner)
	return err
}

// copyTo copies a source to a path below a root, by docker's rules for what is
// there already.
func copyTo(ctx context.Context, src *copySource, root *os.File, dest string, owner *copytree.Owner) error {
	asDir := strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")
	clean := path.Clean(dest)
	at, err := sys.OpenInRoot(root, clean, sys.PathOnly, 0)
	var there os.FileInfo
	switch {
	case err == nil:
		there, err = at.Stat()
		at.Close()
		if err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	dir, name := path.Dir(clean), path.Base(clean)
	switch {
	case there != nil && there.IsDir() && src.contents:
		dir, name = clean, ""
	case there != nil && there.IsDir():
		dir, name = clean, src.base
	case there != nil && src.info.IsDir():
		return fmt.Errorf("a directory can't be copied over %s, which is none", clean)
	case there != nil && asDir:
		return fmt.Errorf("%s is not a directory", clean)
	case there == nil && asDir && !src.info.IsDir():
		return fmt.Errorf("%s is no directory that is there", clean)
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(src.write(ctx, pw, name)) }()
	defer func() { _ = pr.Close() }()
	return untarInto(ctx, root, dir, pr, owner)
}
