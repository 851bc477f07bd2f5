// SPDX-License-Identifier: Apache-2.0

// Package mount holds the [Mount] value that snapshots, builds and containers
// hand to each other, and makes detached mounts with the kernel's new mount
// API (fsopen, fsconfig, fsmount, open_tree, move_mount).
//
// A detached mount is an open file: it is in no mount namespace and has no
// path until it is moved somewhere, and it is gone when its last descriptor is
// closed. Everything a build or a container needs is put together that way, so
// nothing is left to unmount when a process dies.
package mount

import "os"

// Type says what is mounted.
type Type string

// The mounts that a container can be given.
const (
	Bind  Type = "bind"  // a directory or file of the host, or of Tree
	Tmpfs Type = "tmpfs" // an empty file system in memory
)

// Mount is one mount of a container or a RUN step, applied in list order.
type Mount struct {
	Type   Type
	Target string // absolute path in the container; made if missing

	// Source of a Bind: Tree if set (a detached mount, or a directory or
	// file opened with O_PATH, which the mount does not close), else the
	// host path Source.
	Source string
	Tree   *os.File `json:"-"`
	// Inside is the detached mount that Tree lies in, where Tree is not its
	// root: a container attaches it, out of sight, since Linux before 6.15
	// copies nothing of a mount that is in no namespace. It serves one
	// container.
	Inside *os.File `json:"-"`

	// UserNS shows the owners of a Bind; nil shows them as they are. MapOwners
	// asks for the container's own, if it has one.
	UserNS    *UserNS `json:"-"`
	MapOwners bool

	ReadOnly    bool
	Recursive   bool   // Bind: bring the mounts below the source too
	TopReadOnly bool   // Bind: what is mounted below the source is writable also if ReadOnly
	Propagation string // "", private, slave, shared or unbindable, or with an r before it for what is mounted below a Bind too
	NoExec      bool
	NoSuid      bool
	NoDev       bool
	NoAtime     bool

	Size   int64  // Tmpfs: limit in bytes, 0 for the kernel's default
	Inodes string // Tmpfs: limit of files as nr_inodes has it (tmpfs(5)), "" for the kernel's default
	Mode   uint32 // Tmpfs: mode of its root, 0 for that of the directory it covers, or 01777
	UID    int    // Tmpfs: owner of its root
	GID    int
}

// UserNS is a user namespace by which the owners of a mount are shown: what is
// root's on disk is the namespace's root's, and so on, both ways (idmapped
// mounts, mount_setattr(2)).
type UserNS struct {
	File *os.File
	// UID and GID are what the namespace's root is outside of it.
	UID, GID uint32
}
