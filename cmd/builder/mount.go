// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"builder/image"
	"builder/internal/atomicfile"
	"builder/internal/filelock"
	"builder/mount"
	"builder/rootfs"
	"builder/snapshot"
	"builder/store"
)

// mounted is an image's file system that is mounted for people.
type mounted struct {
	Image    string // as it was named
	ImageID  string
	Snapshot string
	Path     string
}

// mountStore has the mounts of a state directory. They are below /run, outside
// of it, and end with the machine's run as the mounts do:
//
//	/run/builder/STATE/ID.json  what is mounted
//	/run/builder/STATE/ID       where
type mountStore struct {
	s   *store.Store
	dir string
}

func mountsOf(s *store.Store) mountStore {
	sum := sha256.Sum256([]byte(s.Path()))
	return mountStore{s, filepath.Join("/run/builder", hex.EncodeToString(sum[:6]))}
}

func (m mountStore) lock(ctx context.Context) (*filelock.Lock, error) {
	return m.s.Lock(ctx, "mounts", filelock.Exclusive, nil)
}

// list returns what is mounted.
func (m mountStore) list() ([]mounted, error) {
	names, err := filepath.Glob(filepath.Join(m.dir, "*.json"))
	var out []mounted
	for _, name := range names {
		var r mounted
		data, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err != nil {
			return nil, fmt.Errorf("list mounts: %s: %w", name, err)
		}
		out = append(out, r)
	}
	return out, err
}

// add mounts a snapshot. The record is written first: it keeps the snapshot.
func (m mountStore) add(ctx context.Context, snaps snapshot.Snapshotter, r mounted) (string, error) {
	id := strings.TrimPrefix(r.ImageID, "sha256:")[:12]
	r.Path = filepath.Join(m.dir, id)
	if err := os.MkdirAll(r.Path, 0o700); err != nil {
		return "", err
	}
	data, err := json.Marshal(r)
	if err == nil {
		err = atomicfile.Write(r.Path+".json", data, 0o600)
	}
	if err != nil {
		return "", err
	}
	root, err := snaps.View(ctx, snapshot.ID(r.Snapshot))
	if err == nil {
		err = errors.Join(mount.Attach(root, r.Path), root.Close())
	}
	if err != nil {
		return "", errors.Join(err, m.remove(r))
	}
	return r.Path, nil
}

// remove unmounts and forgets.
func (m mountStore) remove(r mounted) error {
	if err := mount.Unmount(r.Path); err != nil {
		return err
	}
	// Never more than the empty directory: it may be mounted still.
	if err := os.Remove(r.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Remove(r.Path + ".json")
}

func runMount(ctx context.Context, e *env, args []string) error {
	fs := flags("mount")
	format := fs.String("format", "", "json, or a Go template with .Image .ImageID .Path")
	words, err := e.parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	if len(words) > 0 && rootless() {
		return errors.New("mount: without root nobody but this command would see the mount; builder build --output type=local and builder cp copy the files")
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	m := mountsOf(s)
	lock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	have, err := m.list()
	if err != nil {
		return err
	}
	if len(words) == 0 {
		return e.showMounts(have, *format)
	}
	rfs, err := rootfs.Open(s)
	if err != nil {
		return err
	}
	for _, word := range words {
		path, err := e.mountImage(ctx, m, rfs, have, word)
		if err != nil {
			return fmt.Errorf("mount %s: %w", word, err)
		}
		fmt.Fprintln(e.stdout, path)
	}
	return nil
}

func (e *env) showMounts(have []mounted, format string) error {
	var rows []any
	for _, r := range have {
		rows = append(rows, r)
	}
	if format != "" {
		return table{format: format}.print(e.stdout, rows)
	}
	for _, r := range have {
		fmt.Fprintf(e.stdout, "%s %s\n", r.Image, r.Path)
	}
	return nil
}

// mountImage mounts an image that is here; one that is mounted stays where it
// is.
func (e *env) mountImage(ctx context.Context, m mountStore, rfs *rootfs.RootFS, have []mounted, word string) (string, error) {
	entry, err := m.s.Resolve(word)
	if err != nil {
		return "", err
	}
	img, err := m.s.Image(entry.Desc, image.HostPlatform())
	if err != nil {
		return "", err
	}
	if i := slices.IndexFunc(have, func(r mounted) bool { return r.ImageID == img.ID().String() }); i >= 0 {
		return have[i].Path, nil
	}
	if err := e.makeRoom(ctx, m.s); err != nil {
		return "", err
	}
	id, err := rfs.Unpack(ctx, img, nil, "")
	if err != nil {
		return "", err
	}
	return m.add(ctx, rfs.Snapshots(), mounted{Image: word, ImageID: img.ID().String(), Snapshot: string(id)})
}

func runUnmount(ctx context.Context, e *env, args []string) error {
	fs := flags("unmount")
	all := fs.BoolP("all", "a", false, "unmount all images")
	words, err := e.parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	if *all == (len(words) > 0) {
		return &usageError{msg: "unmount: name images, or say --all", hint: "builder mount lists them"}
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	m := mountsOf(s)
	lock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	have, err := m.list()
	if err != nil {
		return err
	}
	var errs []error
	if *all {
		for _, r := range have {
			errs = append(errs, m.unmount(e, r))
		}
		return errors.Join(errs...)
	}
	for _, word := range words {
		i := slices.IndexFunc(have, func(r mounted) bool { return r.is(s, word) })
		if i < 0 {
			errs = append(errs, fmt.Errorf("unmount %s: it is not mounted", word))
			continue
		}
		errs = append(errs, m.unmount(e, have[i]))
	}
	return errors.Join(errs...)
}

func (m mountStore) unmount(e *env, r mounted) error {
	if err := m.remove(r); err != nil {
		return fmt.Errorf("unmount %s: %w", r.Image, err)
	}
	fmt.Fprintln(e.stdout, r.Image)
	return nil
}

// is reports whether a word means what is mounted: its name, its path or its
// image.
func (r mounted) is(s *store.Store, word string) bool {
	if word == r.Image || word == r.Path || strings.HasPrefix(strings.TrimPrefix(r.ImageID, "sha256:"), strings.TrimPrefix(word, "sha256:")) {
		return true
	}
	entry, err := s.Resolve(word)
	if err != nil {
		return false
	}
	img, err := s.Image(entry.Desc, image.HostPlatform())
	return err == nil && img.ID().String() == r.ImageID
}
