// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"builder/internal/sys"
	"builder/layer"
	"builder/snapshot"
)

// upper is what a container has written to dir, its upper directory, on top of
// a snapshot.
func (r *RootFS) upper(ctx context.Context, dir string, parent snapshot.ID) (layer.Upper, error) {
	u := layer.Upper{Dir: dir, UserXattr: r.snapshots.UserXattr(), Elsewhere: r.snapshots.Copies()}
	if parent == "" {
		return u, nil
	}
	top, lower, err := r.snapshots.Diff(ctx, parent)
	u.Lower = append([]string{top}, lower...)
	return u, err
}

// mountPoints are what every container has something mounted on, docker's mark of
// containers, and /etc/mtab, made in its upper directory if the image lacks it. The directories stay
// there, and the files do while it runs, or after whoever saw to it was killed.
var mountPoints = []string{".dockerenv", "dev", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf", "proc", "sys"}

// CommitUpper writes what a container has written as a layer, its blob in the
// store. A file that the container changes meanwhile is an error, and does no more
// than that.
func (r *RootFS) CommitUpper(ctx context.Context, dir string, parent snapshot.ID, opts layer.Options) (layer.Layer, error) {
	u, err := r.upper(ctx, dir, parent)
	if err != nil {
		return layer.Layer{}, err
	}
	w, err := r.store.NewBlob()
	if err != nil {
		return layer.Layer{}, err
	}
	defer w.Abort()
	opts.Live, opts.Points = true, mountPoints
	l, err := layer.Diff(ctx, w.File(), u, opts)
	if err != nil {
		return l, err
	}
	return l, w.CommitFile(l.Blob)
}

// UpperChanges tells in which paths a container differs from what it stands
// on, in the order of the paths.
func (r *RootFS) UpperChanges(ctx context.Context, dir string, parent snapshot.ID) ([]Change, error) {
	u, err := r.upper(ctx, dir, parent)
	if err != nil {
		return nil, err
	}
	pr, pw := io.Pipe()
	go func() {
		_, err := layer.Diff(ctx, pw, u, layer.Options{Compression: layer.Uncompressed, Live: true, Points: mountPoints})
		pw.CloseWithError(err)
	}()
	defer func() { _ = pr.Close() }()
	there := func(string) (bool, error) { return false, nil }
	if parent != "" {
		view, err := r.snapshots.View(ctx, parent)
		if err != nil {
			return nil, err
		}
		defer view.Close()
		there = func(name string) (bool, error) {
			dir, err := sys.OpenInRoot(view, path.Dir(name), sys.PathOnly, 0)
			if errors.Is(err, fs.ErrNotExist) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			defer dir.Close()
			return sys.ExistsAt(dir, path.Base(name))
		}
	}
	var out []Change
	for t := tar.NewReader(pr); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read changes: %w", err)
		}
		name := "/" + strings.TrimSuffix(h.Name, "/")
		c := Change{Path: name, Kind: Added}
		if base, ok := strings.CutPrefix(path.Base(name), ".wh."); ok {
			c = Change{Path: path.Join(path.Dir(name), base), Kind: Deleted}
		} else if had, err := there(name); err != nil {
			return nil, err
		} else if had {
			c.Kind = Modified
		}
		out = append(out, c)
	}
}
