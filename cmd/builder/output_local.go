// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"builder/build"
	"builder/buildcontext"
	"builder/image"
	"builder/internal/sys"
	"builder/snapshot"
)

// writeLocal copies the target's files into a directory: of several platforms,
// unless it is told otherwise, each into a directory of its own. They belong to
// the caller. They are copied beside what is there, and only when all of them
// are is each put in its place: a failure before changes nothing, and no file
// is ever half there.
func (b *buildSession) writeLocal(ctx context.Context, o *output, files []build.PlatformFiles) (err error) {
	if err := os.MkdirAll(o.dest, 0o700); err != nil {
		return err
	}
	stage, err := os.MkdirTemp(o.dest, ".builder-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	split := o.multi
	if o.split != nil {
		split = *o.split
	}
	m := &merge{dest: o.dest, stage: stage, placed: map[string]string{}}
	for i, f := range files {
		top := filepath.Join(stage, strconv.Itoa(i))
		dir := top
		if split {
			dir = filepath.Join(top, platformDir(f.Platform))
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := b.copyFiles(ctx, f.Snapshot, dir); err != nil {
			return err
		}
		if err := os.Chmod(top, 0o755); err != nil {
			return err
		}
		if at := o.timeOf(f); at != nil {
			if err := setTimes(top, *at); err != nil {
				return err
			}
		}
		name := image.FormatPlatform(f.Platform)
		if err := m.check(top, name); err != nil {
			return err
		}
	}
	for i := range files {
		if err := m.dir(filepath.Join(stage, strconv.Itoa(i)), "."); err != nil {
			return err
		}
	}
	if o.delete {
		return m.deleteOthers()
	}
	return nil
}

// copyFiles copies a snapshot into a directory.
func (b *buildSession) copyFiles(ctx context.Context, id snapshot.ID, dir string) error {
	root, err := b.env.RootFS.Snapshots().View(ctx, id)
	if err != nil {
		return err
	}
	defer root.Close()
	tree, err := buildcontext.OpenFile(root, buildcontext.Options{KeepOwner: true})
	if err != nil {
		return err
	}
	defer tree.Close()
	sel, err := tree.Select(ctx, buildcontext.Request{
		Sources: []string{"/"}, Dest: "/", Owner: &buildcontext.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())},
	})
	if err != nil {
		return err
	}
	to, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	_, err = sel.Copy(ctx, to, buildcontext.CopyOptions{})
	return err
}

// setTimes gives everything below a directory one time.
func setTimes(dir string, t time.Time) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return sys.SetTime(path, t)
	})
}

// merge moves trees into a directory.
type merge struct {
	dest   string
	stage  string            // below dest: where the trees are
	placed map[string]string // paths, and of which platform they are
}

// check notes what a tree will put where, and refuses what is there from
// another one: only directories may be of several.
func (m *merge) check(top, platform string) error {
	return filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		if other, ok := m.placed[rel]; ok && !e.IsDir() {
			return fmt.Errorf("/%s is in both %s and %s, and platform-split=false leaves room for one", rel, other, platform)
		}
		m.placed[rel] = platform
		return nil
	})
}

// dir moves what a directory of a tree holds into the same one below dest.
// Directories become one; anything else takes the place of what was there.
func (m *merge) dir(top, rel string) error {
	entries, err := os.ReadDir(filepath.Join(top, rel))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(rel, e.Name())
		from, to := filepath.Join(top, name), filepath.Join(m.dest, name)
		there, err := os.Lstat(to)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case e.IsDir() && there.IsDir():
			if err := m.dir(top, name); err != nil {
				return err
			}
			if err := sys.CopyDirAttributes(from, to); err != nil {
				return err
			}
			continue
		case e.IsDir() || there.IsDir():
			if err := os.RemoveAll(to); err != nil {
				return err
			}
		}
		if err := os.Rename(from, to); err != nil {
			if errors.Is(err, syscall.EXDEV) {
				return fmt.Errorf("%s is on another file system than %s: name it, or a directory in it, as dest", filepath.Dir(to), m.dest)
			}
			return err
		}
	}
	return nil
}

// deleteOthers removes what was in dest before.
func (m *merge) deleteOthers() error {
	return filepath.WalkDir(m.dest, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == m.stage {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(m.dest, path)
		if err != nil {
			return err
		}
		if _, ok := m.placed[rel]; ok {
			return nil
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if e.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}
