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
	"syscall"

	"builder/container"
	"builder/internal/copytree"
	"builder/internal/sys"
	"builder/layer"
	"builder/rootfs"
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
	case from.path == "" && !from.stream || to.path == "" && !to.stream:
		return &usageError{msg: "cp: a path is empty"}
	}
	if from.stream {
		if err := readsArchives(); err != nil {
			return err
		}
	}
	s, rfs, err := e.rootFS()
	if err != nil {
		return err
	}
	if to.container != "" {
		if err := e.makeRoom(ctx, s); err != nil {
			return err
		}
	}
	source, dest, err := openEnds(ctx, supervisor.NewRecords(s), rfs, from, to)
	if err != nil {
		return fmt.Errorf("cp: %w", err)
	}
	switch {
	case dest == nil:
		defer source.close()
		err = e.copyOut(ctx, o, source, from.path, to)
	case source == nil:
		defer dest.close()
		err = e.copyIn(ctx, o, dest, from, to.path)
	default:
		defer source.close()
		if dest != source {
			defer dest.close()
		}
		err = copyBetween(ctx, o, source, from.path, dest, to.path)
	}
	if err != nil {
		return fmt.Errorf("cp %s %s: %w", words[0], words[1], err)
	}
	if source != nil {
		source.records.Event(source.c.Config, "archive-path", nil)
	}
	if dest != nil {
		dest.records.Event(dest.c.Config, "extract-to-dir", nil)
	}
	return nil
}

// openEnds opens the containers of both ends; they may be one. An end on this
// machine has nil.
func openEnds(ctx context.Context, records supervisor.Records, rfs *rootfs.RootFS, from, to copyEnd) (source, dest *containerTree, err error) {
	var c [2]supervisor.Container
	for i, name := range []string{from.container, to.container} {
		if name == "" {
			continue
		}
		if c[i], err = records.Find(name); err != nil {
			return nil, nil, err
		}
	}
	same := c[0].ID == c[1].ID
	if from.container != "" {
		if source, err = openContainer(ctx, records, rfs, c[0], same); err != nil || same {
			return source, source, err
		}
	}
	if to.container != "" {
		if dest, err = openContainer(ctx, records, rfs, c[1], true); err != nil && source != nil {
			source.close()
		}
	}
	return source, dest, err
}

// copySource is what is copied, opened.
type copySource struct {
	file     *os.File // opened as a mere place
	info     os.FileInfo
	link     string // target of a symbolic link
	base     string // its name
	contents bool   // what is in the directory, not it

	ids container.IDMap // by which its owners are shown
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
	open := func() (*os.File, error) { return sys.OpenInRoot(root, clean, flags, 0) }
	if fi, err := root.Stat(); err == nil && !fi.IsDir() && clean == "/" { // a file is mounted there
		open = func() (*os.File, error) { return os.OpenFile(sys.FDPath(root), sys.PathOnly, 0) }
	}
	f, err := open()
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
// contents of a directory. Owners are those inside of the container.
func (src *copySource) write(ctx context.Context, w io.Writer, name string) error {
	if src.ids.IsZero() {
		return src.writeShown(ctx, w, name)
	}
	inside := src.ids.Inside()
	shown := func(w io.Writer) error { return src.writeShown(ctx, w, name) }
	return retar(w, shown, func(h *tar.Header) error {
		uid, gid, ok := inside.Owner(uint32(h.Uid), uint32(h.Gid))
		if !ok {
			uid, gid = overflowID, overflowID
		}
		h.Uid, h.Gid = int(uid), int(gid)
		return nil
	})
}

// overflowID is the owner, in a user namespace, of what is nobody's there.
const overflowID = 65534

// retar writes the tar that write makes with other headers.
func retar(w io.Writer, write func(io.Writer) error, edit func(*tar.Header) error) error {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(write(pw)) }()
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
		if err := edit(h); err != nil {
			return err
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

// writeShown is write with the owners as they are shown.
func (src *copySource) writeShown(ctx context.Context, w io.Writer, name string) error {
	if src.info.IsDir() {
		// Its own entry is written by hand: in a layer it has no attributes.
		if name == "" {
			_, err := layer.WriteTree(ctx, w, src.file, layer.Options{Compression: layer.Uncompressed, Live: true})
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
	tree := func(w io.Writer) error {
		_, err := layer.WriteTree(ctx, w, dir, layer.Options{Compression: layer.Uncompressed, Live: true})
		return err
	}
	return retar(w, tree, func(h *tar.Header) error {
		h.Name = name + "/" + h.Name
		if h.Typeflag == tar.TypeLink {
			h.Linkname = name + "/" + h.Linkname
		}
		return nil
	})
}

// source opens what a path of the container names.
func (t *containerTree) source(o copying, name string) (*copySource, error) {
	root, inside, _, err := t.locate(name)
	if err != nil {
		return nil, err
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
		return nil, err
	}
	src.ids = t.ids
	if src.base = path.Base(path.Clean("/" + name)); src.base == "/" {
		src.contents = true
	}
	return src, nil
}

// copyDest is a tree that is written to.
type copyDest struct {
	root *os.File
	ids  container.IDMap // by which it shows owners
}

// outside is what an owner of the container is on this machine.
func (d copyDest) outside(o copytree.Owner) (copytree.Owner, error) {
	uid, gid, ok := d.ids.Owner(o.UID, o.GID)
	if !ok {
		return o, fmt.Errorf("owner %d:%d is none of the container's user namespace", o.UID, o.GID)
	}
	return copytree.Owner{UID: uid, GID: gid}, nil
}

// destination opens the tree that a path of the container is in, to be written
// to.
func (t *containerTree) destination(name string) (dest copyDest, inside string, err error) {
	root, inside, readOnly, err := t.locate(name)
	if err != nil {
		return dest, "", err
	}
	if readOnly {
		root.Close()
		return dest, "", errors.New("the file system is read-only")
	}
	if strings.HasSuffix(name, "/") && inside != "/" {
		inside += "/"
	}
	return copyDest{root, t.ids}, inside, nil
}

// copyBetween copies from one container to another, or within one.
func copyBetween(ctx context.Context, o copying, from *containerTree, name string, to *containerTree, dest string) error {
	src, err := from.source(o, name)
	if err != nil {
		return err
	}
	defer src.file.Close()
	into, inside, err := to.destination(dest)
	if err != nil {
		return err
	}
	defer into.root.Close()
	return copyTo(ctx, src, into, inside, o.ownerIn())
}

// ownerIn is whose files become in a container; nil for the source's.
func (o copying) ownerIn() *copytree.Owner {
	if o.archive {
		return nil
	}
	return &copytree.Owner{}
}

// copyOut copies from the container to this machine.
func (e *env) copyOut(ctx context.Context, o copying, t *containerTree, name string, to copyEnd) error {
	src, err := t.source(o, name)
	if err != nil {
		return err
	}
	defer src.file.Close()
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
	return copyTo(ctx, src, copyDest{root: machine}, dest, owner)
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
	into, inside, err := t.destination(name)
	if err != nil {
		return err
	}
	defer into.root.Close()
	if from.stream {
		return untarInto(ctx, into, inside, e.stdin, nil)
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
	return copyTo(ctx, src, into, inside, o.ownerIn())
}

// untarInto extracts a tar into a directory that is there.
func untarInto(ctx context.Context, into copyDest, name string, r io.Reader, owner *copytree.Owner) error {
	dir, err := sys.OpenInRoot(into.root, name, os.O_RDONLY|sys.Directory, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	plain, _, err := layer.Decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	return into.ids.AsRoot(func() error {
		_, err := copytree.UntarKeeping(ctx, dir, plain, owner, into.outside)
		return err
	})
}

// copyTo copies a source to a path below a root, by docker's rules for what is
// there already.
func copyTo(ctx context.Context, src *copySource, into copyDest, dest string, owner *copytree.Owner) error {
	asDir := strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")
	clean := path.Clean(dest)
	at, err := sys.OpenInRoot(into.root, clean, sys.PathOnly, 0)
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
	if there == nil || !there.IsDir() {
		if dir, name, err = behindLinks(into.root, dir, name); err != nil {
			return err
		}
	}
	switch {
	case there != nil && there.IsDir() && src.contents:
		dir, name = clean, ""
	case there != nil && there.IsDir():
		dir, name = clean, src.base
	case there != nil && src.info.IsDir():
		return fmt.Errorf("%s is there and is no directory: a directory can't be copied over it", clean)
	case there != nil && asDir:
		return fmt.Errorf("%s is not a directory", clean)
	case there == nil && asDir && !src.info.IsDir():
		return fmt.Errorf("there is no directory %s", clean)
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(src.write(ctx, pw, name)) }()
	defer func() { _ = pr.Close() }()
	return untarInto(ctx, into, dir, pr, owner)
}

// behindLinks follows a name that is a symbolic link to what it leads to, which
// need not be there: a copy goes there, and doesn't replace the link.
func behindLinks(root *os.File, dir, name string) (string, string, error) {
	for range 40 { // as the kernel does
		f, err := sys.OpenInRoot(root, dir+"/"+name, sys.PathOnly|sys.NoFollow, 0)
		if err != nil {
			return dir, name, nil // there is nothing, or what is wrong is said by who writes
		}
		st, err := f.Stat()
		var target string
		if link := err == nil && st.Mode()&fs.ModeSymlink != 0; link {
			target, err = sys.ReadLinkOf(f)
		}
		f.Close()
		if err != nil || target == "" {
			return dir, name, err
		}
		if !path.IsAbs(target) {
			target = dir + "/" + target // not cleaned: dir may have links
		}
		if target = strings.TrimRight(target, "/"); target == "" {
			return "/", "", nil
		}
		i := strings.LastIndexByte(target, '/')
		dir, name = target[:max(i, 1)], target[i+1:]
	}
	return "", "", &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
}
