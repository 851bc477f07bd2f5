// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"builder/internal/filelock"
	"builder/layer"
	"builder/mount"
	"builder/rootfs"
	"builder/snapshot"
	"builder/supervisor"
)

// runExport writes the files of an ended container as a tar.
func runExport(ctx context.Context, e *env, args []string) error {
	fs := flags("export")
	output := fs.StringP("output", "o", "-", "write to a `FILE` instead of standard output")
	words, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	rfs, err := rootfs.Open(s)
	if err != nil {
		return err
	}
	records := supervisor.NewRecords(s)
	r, err := records.Find(words[0])
	if err != nil {
		return err
	}
	// Held, so that nobody starts or removes it: its file system may be
	// mounted once only.
	lock, err := filelock.TryAcquire(filepath.Join(records.Dir(r.ID), "lock"), filelock.Exclusive)
	if errors.Is(err, filelock.ErrLocked) {
		return fmt.Errorf("export %s: the container is running: stop it first", r.Name)
	}
	if err != nil {
		return fmt.Errorf("export %s: %w", r.Name, err)
	}
	defer lock.Release()
	root, err := containerView(ctx, rfs, records.Dir(r.ID), snapshot.ID(r.Snapshot))
	if err != nil {
		return fmt.Errorf("export %s: %w", r.Name, err)
	}
	defer root.Close()
	return e.writeFile(*output, func(w io.Writer) error {
		_, err := layer.WriteTrees(ctx, w, []layer.Tree{{Root: root}}, layer.Options{Compression: layer.Uncompressed})
		return err
	})
}

// containerView is the file system of a container that doesn't run, to be read.
// It can't be mounted to be written: overlayfs takes a volatile upper directory
// once.
func containerView(ctx context.Context, rfs *rootfs.RootFS, dir string, below snapshot.ID) (*os.File, error) {
	lower := []string{filepath.Join(dir, "fs")}
	if below == "" {
		empty, err := os.MkdirTemp(dir, "empty") // overlayfs wants two
		if err != nil {
			return nil, err
		}
		defer os.Remove(empty)
		lower = append(lower, empty)
	} else {
		upper, lowers, err := rfs.Snapshots().Diff(ctx, below)
		if err != nil {
			return nil, err
		}
		lower = append(append(lower, upper), lowers...)
	}
	return mount.Overlay{Lower: lower, UserXattr: rfs.Snapshots().UserXattr()}.Open()
}
