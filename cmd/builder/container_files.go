// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"builder/container"
	"builder/internal/sys"
	"builder/mount"
	"builder/rootfs"
	"builder/snapshot"
	"builder/supervisor"
)

// containerTree is the file system of a container as it is seen from outside.
type containerTree struct {
	root    *os.File        // what its "/" is
	shown   container.IDMap // by which root shows owners
	ids     container.IDMap // by which the tree that was located last does
	c       supervisor.Container
	records supervisor.Records
	release func()
}

// openContainer opens the file system of a container. Of one that runs it is
// what its first process sees; one that doesn't is kept from starting
// meanwhile.
func openContainer(ctx context.Context, records supervisor.Records, rfs *rootfs.RootFS, c supervisor.Container, write bool) (*containerTree, error) {
	t := &containerTree{c: c, records: records, release: func() {}}
	if !supervisor.ShowsOwners() {
		t.shown = c.Spec.IDs
	}
	if c.State.Alive() {
		root, err := os.OpenFile("/proc/"+strconv.Itoa(c.State.Pid)+"/root", sys.PathOnly, 0)
		if err == nil && container.StartTime(c.State.Pid) != c.State.PidStart {
			root.Close()
			err = fmt.Errorf("container %s has just ended", c.Name)
		}
		t.root, t.shown = root, c.Spec.IDs
		return t, err
	}
	lock, err := records.Hold(c.Config)
	if err != nil {
		return nil, err
	}
	if write {
		active, err := rfs.Snapshots().Reopen(records.Dir(c.ID), snapshot.ID(c.Snapshot))
		if err == nil {
			t.root, err = active.MountWith(snapshot.Properties{Durable: true})
		}
		if err != nil {
			lock.Release()
			return nil, err
		}
	} else if t.root, err = containerView(ctx, rfs, records.Dir(c.ID), snapshot.ID(c.Snapshot)); err != nil {
		lock.Release()
		return nil, err
	}
	t.release = func() { lock.Release() }
	return t, nil
}

func (t *containerTree) close() {
	t.root.Close()
	t.release()
}

// locate finds what a path of the container is in: of one that doesn't run, a
// volume or a directory of the machine that would be mounted there. The path
// is in the tree that is returned, which the caller closes.
func (t *containerTree) locate(name string) (root *os.File, inside string, readOnly bool, err error) {
	name = path.Clean("/" + name)
	t.ids = t.shown
	if t.c.State.Alive() {
		root, err = sys.OpenInRoot(t.root, "/", sys.PathOnly, 0)
		return root, name, false, err
	}
	best := -1
	for i, m := range t.c.Mounts {
		covers := name == m.Target || strings.HasPrefix(name, m.Target+"/")
		if covers && (best < 0 || len(m.Target) > len(t.c.Mounts[best].Target)) {
			best = i
		}
	}
	if best < 0 {
		root, err = sys.OpenInRoot(t.root, "/", sys.PathOnly, 0)
		return root, name, t.c.Spec.ReadOnly, err
	}
	m := t.c.Mounts[best]
	source := m.Source
	switch m.Type {
	case supervisor.MountVolume:
		vol, err := t.records.Volumes().Get(m.Source)
		if err != nil {
			return nil, "", false, err
		}
		source = vol.Dir
		t.showPlain(m, vol.Device != "")
	case supervisor.MountBind:
		t.showPlain(m, true)
	default:
		return nil, "", false, fmt.Errorf("%s is in a mount of type %s, which is there only while the container runs", name, m.Type)
	}
	base, err := os.OpenFile(source, sys.PathOnly, 0)
	if err != nil {
		return nil, "", false, err
	}
	if m.Subpath != "" {
		sub, err := sys.OpenInRoot(base, m.Subpath, sys.PathOnly, 0)
		base.Close()
		if err != nil {
			return nil, "", false, err
		}
		base = sub
	}
	return base, "/" + strings.TrimPrefix(strings.TrimPrefix(name, m.Target), "/"), m.ReadOnly, nil
}

// showPlain says how a mount of a container that doesn't run will show owners: of
// a directory of the machine as they are, so that the container's are others there.
func (t *containerTree) showPlain(m supervisor.Mount, machine bool) {
	if machine && !m.MapOwners {
		t.ids = t.c.Spec.IDs
	}
}

// upperDir is what a container has written.
func upperDir(records supervisor.Records, id string) string {
	return filepath.Join(records.Dir(id), "fs")
}

// containerView is the file system of a container, to be read: what it has
// written, on top of its image. What a running one changes meanwhile may be seen
// or not.
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
