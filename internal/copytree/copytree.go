// SPDX-License-Identifier: Apache-2.0

// Package copytree writes selected entries of a file tree below the root of a
// container, the way COPY and ADD do, and holds what reading such a tree
// shares with it: entries, directories and the calls relative to directory
// descriptors.
//
// Names of files are kept with the NUL byte that the kernel wants, so that
// looking at many files allocates nothing.
//
// Both sides are hostile. Sources are opened beneath their tree without
// following any link. Destinations are resolved as the container would see
// them, links included, with the container's root as "/"; what is written
// below a directory that was resolved once is reached without following links.
package copytree

import (
	"errors"
	"os"
	"strings"
	"time"
)

// ErrChanged is matched by errors about a source that was removed or became
// something else after it was looked at.
var ErrChanged = errors.New("changed while it was being copied")

// Name is a file name or path that ends with a NUL byte.
type Name string

// MakeName returns s with its NUL byte. s must not contain one.
func MakeName(s string) Name { return Name(s + "\x00") }

// String returns the name without its NUL byte.
func (n Name) String() string {
	if n == "" {
		return ""
	}
	return string(n[:len(n)-1])
}

// Join returns the path of name in the directory n; "." is the top.
func (n Name) Join(name Name) Name {
	if n == ".\x00" || n == "" {
		return name
	}
	return n[:len(n)-1] + "/" + name
}

// Time is a time stamp of a file, as exact as the kernel gives it.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Before tells whether t is earlier than u.
func (t Time) Before(u Time) bool {
	return t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec
}

// Add returns t moved by d, which must not be negative.
func (t Time) Add(d time.Duration) Time {
	ns := int64(t.Nsec) + int64(d%time.Second)
	return Time{Sec: t.Sec + int64(d/time.Second) + ns/int64(time.Second), Nsec: uint32(ns % int64(time.Second))}
}

// Stat is an inode as it was looked at. Two equal values of one inode mean
// that nothing about it was changed in between, as far as the time stamps of
// its file system can tell.
type Stat struct {
	Dev, Ino, Rdev   uint64
	Size             int64
	Mtime, Ctime     Time
	Mode             uint32 // type and permissions
	UID, GID, Nlinks uint32
}

// Xattr is an extended attribute.
type Xattr struct {
	Name, Value string
}

// Entry is a file of a tree.
type Entry struct {
	Name   Name
	Stat   Stat
	Link   string    // target of a symbolic link
	Digest *[32]byte // SHA-256 of a regular file's bytes; nil if not known
	Xattrs []Xattr   // those that are copied, sorted; see XattrsKnown
	Dir    *Dir      // contents of a directory that was walked
	// Implied directories were not selected themselves, but something in
	// them was: where the destination has them, only their mode changes.
	Implied     bool
	XattrsKnown bool // Xattrs was filled
}

// Dir is the contents of a directory.
type Dir struct {
	Path    Name     // from the root of the tree; "." for it
	Entries []*Entry // by name
}

// Owner is a numeric user and group.
type Owner struct {
	UID, GID uint32
}

// Source is one thing to copy: a file, or the contents of a directory.
type Source struct {
	// Name is the base name in the destination, where that is a directory.
	Name string
	// Parent is the directory of Entry; not used for directories.
	Parent Name
	Entry  *Entry
	// Data is the contents of a file that is in no tree.
	Data []byte
}

// IsDir tells whether the source is a directory.
func (s *Source) IsDir() bool { return s.Entry.IsDir() }

// Plan is what to copy where.
type Plan struct {
	Root    *os.File // of the tree that the sources are in
	Sources []Source // copied in this order
	// Dest is absolute. Ending in "/" it is a directory.
	Dest string
	// Owner of all that is written; nil keeps owners if KeepOwner is set,
	// else means 0:0. Directories made for Dest are Owner's, or what the
	// kernel makes them: this process's.
	Owner     *Owner
	KeepOwner bool
	Mode      Mode
	// Unpack extracts tar archives rather than copying them.
	Unpack bool
}

// OwnerOf returns the owner that an entry will have.
func (p *Plan) OwnerOf(e *Entry) Owner {
	switch {
	case p.Owner != nil:
		return *p.Owner
	case p.KeepOwner:
		return Owner{e.Stat.UID, e.Stat.GID}
	default:
		return Owner{}
	}
}

// IsDir tells whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Stat.Mode&modeType == modeDir }

// IsRegular tells whether the entry has bytes to copy: it is a regular file.
func (e *Entry) IsRegular() bool { return e.Stat.Mode&modeType == modeRegular }

// IsSymlink tells whether the entry is a symbolic link.
func (e *Entry) IsSymlink() bool { return e.Stat.Mode&modeType == modeSymlink }

// Change is a regular file whose bytes, as they were written, are not those
// that were looked at before.
type Change struct {
	Path   string // in the source tree
	Entry  *Entry
	Digest [32]byte // of what was written
}

// Result tells what was copied.
type Result struct {
	Files    int64 // regular files with bytes of their own
	Bytes    int64 // in these
	Dirs     int64 // directories that were made, without those in Made
	Links    int64 // hard links
	Others   int64 // symbolic links, FIFOs and devices
	Unpacked int64 // archives that were extracted
	// Made are the directories that were made so that the destination is
	// there, as absolute paths, outermost first.
	Made []string
	// Changed are files that were written to while they were copied, or
	// between looking at them and copying.
	Changed []Change
	// LostXattrs counts extended attributes that the destination's file
	// system doesn't take.
	LostXattrs int64
}

// cutSlash returns dest without what says that it is a directory.
func cutSlash(dest string) (string, bool) {
	if d, ok := strings.CutSuffix(dest, "/."); ok {
		return d, true
	}
	return strings.CutSuffix(dest, "/")
}
