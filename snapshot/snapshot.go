// SPDX-License-Identifier: Apache-2.0

// Package snapshot keeps file system states and puts them on top of each
// other. The words are containerd's: an active snapshot is being written; it
// is committed, and then never changes; every snapshot but the first has a
// parent; a view is a mount to read from.
//
// A [Snapshotter] knows nothing of images or layers. What a committed snapshot
// offers is one directory in overlayfs's own form (whiteouts are character
// devices 0/0, or files with an attribute where there can be none; opaque
// directories carry an attribute), which is the lower directory of whatever is
// put on top of it.
package snapshot

import (
	"context"
	"errors"
	"os"
	"time"

	"builder/mount"
)

// Errors that callers tell apart.
var (
	// ErrNotFound says that there is no committed snapshot of that ID, or
	// that a power cut may have damaged it, which comes to the same.
	ErrNotFound = errors.New("snapshot not found")
	// ErrExists says that a committed snapshot of that ID is there already.
	ErrExists = errors.New("snapshot exists")
)

// ID names a committed snapshot. "" stands for the empty file system.
type ID string

// Info describes a committed snapshot.
type Info struct {
	ID      ID
	Parents []ID // nearest first
	Created time.Time
}

// Snapshotter makes and keeps snapshots. Its methods may be called from many
// goroutines, and by any number of processes on the same directory.
type Snapshotter interface {
	// Prepare begins an active snapshot on top of parent. dir is an empty
	// directory on the snapshotter's file system that holds it until it is
	// committed; whoever removes dir discards the snapshot.
	Prepare(ctx context.Context, parent ID, dir string) (Active, error)
	// View mounts a committed snapshot for reading, detached. Closing the
	// file unmounts it.
	View(ctx context.Context, id ID) (*os.File, error)
	// ViewIn is View with owners shown by a user namespace; nil as they are.
	ViewIn(ctx context.Context, id ID, ns *mount.UserNS) (*os.File, error)
	// Stat describes a committed snapshot; the error wraps [ErrNotFound].
	Stat(ctx context.Context, id ID) (Info, error)
	// Walk calls f for each committed snapshot.
	Walk(ctx context.Context, f func(Info) error) error
	// Remove removes a committed snapshot. What stands on it is broken by
	// that: callers remove children first. Removing what isn't there is no
	// error.
	Remove(ctx context.Context, id ID) error
	// Diff returns the directories that hold the difference between a
	// committed snapshot and its parent: its own, and its parents', nearest
	// first.
	Diff(ctx context.Context, id ID) (upper string, lower []string, err error)
}

// Properties are what a mount of a snapshot can have.
type Properties struct {
	// Durable is for what is to outlive the machine's next power cut: programs
	// in it that flush their files get what they ask for, and all is flushed
	// when it is unmounted, which takes as long as the disk.
	Durable bool
	// UserNS shows owners by a user namespace; nil as they are.
	UserNS *mount.UserNS
}

// Active is a snapshot that is being written.
type Active interface {
	// Mount makes a fresh, detached mount of the snapshot for reading and
	// writing. Closing the file unmounts it.
	Mount() (*os.File, error)
	// MountWith is Mount with other properties.
	MountWith(p Properties) (*os.File, error)
	// Upper is the directory of what differs from the parent, in overlayfs's
	// form, to be written only while the snapshot is not mounted. What was
	// written to a mount is there after [Active.Settle].
	Upper() string
	// Settle brings Upper up to date when the mounts are closed. Commit does so
	// as well.
	Settle() error
	// Commit seals the snapshot under a new ID, or a random one if id is "".
	// It must not be mounted for writing any more. The error wraps
	// [ErrExists] if the ID is taken; the snapshot then stays active.
	Commit(ctx context.Context, id ID) (ID, error)
}
