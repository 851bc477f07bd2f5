// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"builder/container"
	"builder/internal/sys"
	"builder/mount"
	"builder/snapshot"
	"builder/volume"
)

// Kinds of mounts.
const (
	MountBind   = "bind"
	MountVolume = "volume"
	MountTmpfs  = "tmpfs"
	MountImage  = "image"
)

// Mount is something that a container is to have in its file system besides
// its image. Paths are looked up when it starts.
type Mount struct {
	Type   string `json:"type"`
	Target string `json:"target"`
	// Source is the path of a bind mount, the name of a volume or of an image.
	Source    string `json:"source,omitempty"`
	Subpath   string `json:"subpath,omitempty"`   // of a volume or an image
	Snapshot  string `json:"snapshot,omitempty"`  // of an image
	Anonymous bool   `json:"anonymous,omitempty"` // a volume that goes with the container

	ReadOnly     bool   `json:"readOnly,omitempty"`
	MapOwners    bool   `json:"mapOwners,omitempty"` // see mount.Mount; volumes that are no directory of the machine always do
	NonRecursive bool   `json:"nonRecursive,omitempty"`
	TopReadOnly  bool   `json:"topReadOnly,omitempty"` // see [mount.Mount]
	Propagation  string `json:"propagation,omitempty"`

	Size    int64  `json:"size,omitempty"`   // of a tmpfs, in bytes
	Inodes  string `json:"inodes,omitempty"` // see [mount.Mount]
	Mode    uint32 `json:"mode,omitempty"`
	UID     int    `json:"uid,omitempty"`
	GID     int    `json:"gid,omitempty"`
	Exec    bool   `json:"exec,omitempty"` // a tmpfs has noexec otherwise
	Suid    bool   `json:"suid,omitempty"`
	Device  bool   `json:"device,omitempty"`
	NoAtime bool   `json:"noAtime,omitempty"`
}

// mounts gives the Spec its mounts. The files are to be closed once it has
// started.
func (h *holder) mounts(spec *container.Spec) (opened []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(opened)
		}
	}()
	spec.Mounts = slices.Clone(spec.Mounts)
	for _, m := range h.config.Mounts {
		mm := mount.Mount{Type: mount.Bind, Target: m.Target, ReadOnly: m.ReadOnly, Recursive: !m.NonRecursive, TopReadOnly: m.TopReadOnly, Propagation: m.Propagation}
		switch m.Type {
		case MountTmpfs:
			mm = mount.Mount{
				Type: mount.Tmpfs, Target: m.Target, ReadOnly: m.ReadOnly, Size: m.Size, Inodes: m.Inodes, Mode: m.Mode, UID: m.UID, GID: m.GID,
				NoExec: !m.Exec, NoSuid: !m.Suid, NoDev: !m.Device, NoAtime: m.NoAtime, Propagation: m.Propagation,
			}
		case MountBind:
			mm.Source, mm.MapOwners = m.Source, m.MapOwners
		case MountVolume:
			vol, err := h.records.Volumes().Get(m.Source)
			if err != nil {
				return opened, fmt.Errorf("mount on %s: %w", m.Target, err)
			}
			mm.MapOwners = ShowsOwners() && (vol.Device == "" || m.MapOwners) // else it is a directory of the machine
			if mm.Source = vol.Dir; m.Subpath != "" {
				root, err := os.OpenFile(vol.Dir, sys.PathOnly, 0)
				if err != nil {
					return opened, err
				}
				opened = append(opened, root)
				if mm.Tree, err = sys.OpenInRoot(root, m.Subpath, sys.PathOnly, 0); err != nil {
					return opened, fmt.Errorf("mount on %s: subpath %s of volume %s: %w", m.Target, m.Subpath, m.Source, err)
				}
				opened = append(opened, mm.Tree)
			}
		case MountImage:
			view, err := h.snaps.ViewIn(context.Background(), snapshot.ID(m.Snapshot), shownBy(spec.UserNS))
			if err != nil {
				return opened, fmt.Errorf("mount image %s on %s: %w", m.Source, m.Target, err)
			}
			opened = append(opened, view)
			if mm.Tree = view; m.Subpath != "" {
				if mm.Tree, err = sys.OpenInRoot(view, m.Subpath, sys.PathOnly, 0); err != nil {
					return opened, fmt.Errorf("mount on %s: subpath %s of image %s: %w", m.Target, m.Subpath, m.Source, err)
				}
				opened = append(opened, mm.Tree)
				mm.Inside = view
			}
		default:
			return opened, fmt.Errorf("mount on %s: unknown type %q", m.Target, m.Type)
		}
		spec.Mounts = append(spec.Mounts, mm)
	}
	return opened, nil
}

// Volumes are the volumes of the state directory.
func (r Records) Volumes() volume.Volumes { return volume.Open(r.s.Path("volumes")) }

// NoteVolume notes that a volume was made or removed.
func (r Records) NoteVolume(action, name string) {
	r.Note(Event{Type: VolumeEvent, Action: action, ID: name, Attributes: map[string]string{"driver": "local"}})
}

// UsesVolume says whether a container, running or not, has a volume.
func (r Records) UsesVolume(name string) (bool, error) {
	all, err := r.configs()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(c Config) bool { return c.UsesVolume(name) }), nil
}

// UsesVolume says whether the container has a volume.
func (c *Config) UsesVolume(name string) bool {
	return slices.ContainsFunc(c.Mounts, func(m Mount) bool { return m.Type == MountVolume && m.Source == name })
}

// RemoveVolumes removes the anonymous volumes of a container that was removed,
// but for those that others have.
func (r Records) RemoveVolumes(c Config) error {
	var errs []error
	for _, m := range c.Mounts {
		if m.Type != MountVolume || !m.Anonymous {
			continue
		}
		err := r.Volumes().Remove(m.Source, r.UsesVolume)
		if err == nil {
			r.NoteVolume("destroy", m.Source)
		}
		if !errors.Is(err, volume.ErrInUse) && !errors.Is(err, volume.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
