// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"builder/internal/sys"

	"golang.org/x/sys/unix"
)

// File is a file of a tree.
type File struct {
	Path string // from the top of the tree, without a slash before it
	Mode fs.FileMode
	Size int64  // of a regular file
	Link string // target of a symbolic link
}

// List calls f for every file that is in the tree, directories before what is
// in them, in the order of names. It ends with f's first error.
func (t *Tree) List(ctx context.Context, f func(File) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.walk(ctx, t.top, nil); err != nil {
		return err
	}
	return listDir(t.top, f)
}

// Clean makes a path of the context what [File.Path] has; "" for its top.
func Clean(name string) string { return strings.TrimPrefix(path.Join("/", name), "/") }

// Exists tells whether there is a file of that name, ignored or not. A link at
// its end is not followed.
func (t *Tree) Exists(name string) (bool, error) {
	f, err := sys.OpenInRoot(t.root, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, f.Close()
}

func listDir(n *node, f func(File) error) error {
	for i, e := range n.Entries {
		file := File{Path: n.Path.Join(e.Name).String(), Mode: fileMode(e.Stat.Mode), Link: e.Link}
		if e.IsRegular() {
			file.Size = e.Stat.Size
		}
		if err := f(file); err != nil {
			return err
		}
		if !e.IsDir() {
			continue
		}
		if err := listDir(n.subs[i], f); err != nil {
			return err
		}
	}
	return nil
}

// fileMode is what Go calls a mode of stat(2).
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, set := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= set
		}
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	}
	return m
}
