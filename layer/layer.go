// SPDX-License-Identifier: Apache-2.0

// Package layer turns file trees into image layers and back.
//
// A layer is a tar changeset as the OCI image specification (layer.md) defines
// it: entries that were added or changed, an empty file ".wh.NAME" (a
// whiteout) for each NAME that was removed, and ".wh..wh..opq" in a directory
// whose lower contents are hidden as a whole (an opaque directory). Its
// identity is the diffID, the digest of the uncompressed tar; what is stored
// and sent is the blob, the same tar compressed.
//
// [Diff] writes what an overlayfs upper directory changes, [WriteTree] a whole
// tree, [Compress] a tar that exists already; [Apply] unpacks a tar, which it
// treats as hostile, and [Decompress] undoes whatever compression a stream
// has. All of them stream in bounded memory and use every core, and none of
// them lets the number of cores, the host's name, its users or its clock into
// the result: the same tree and options give the same bytes.
//
// The package never follows a symbolic link out of a tree, never writes
// outside the directory it was given, never logs, and never decides where a
// blob is kept.
package layer

import (
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression names how a layer's tar is stored in its blob.
type Compression string

// The compressions that can be written.
const (
	Uncompressed Compression = "uncompressed"
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
)

// EStargz is gzip in a form of which single files can be fetched (the eStargz
// format of the stargz-snapshotter project): each file is a gzip member, and a
// table of contents ends the tar. The table is part of the tar, so the diffID
// is another one than that of other compressions.
const EStargz Compression = "estargz"

// Options says how a layer is written. The zero value is gzip at its fastest
// level, with the times of the files.
type Options struct {
	Compression Compression // "": Gzip
	// Level is 1 to 9 for Gzip and EStargz and 1 to 22 for Zstd (which has
	// four real levels: 1-2, 3-5, 6-9 and above); 0 is the fastest of each.
	// [StoreOnly] makes the first two containers of plain data. Uncompressed
	// has none.
	Level int
	// Epoch is the value of SOURCE_DATE_EPOCH: modification times later
	// than it are written as it. Nil keeps all.
	Epoch *time.Time
	// Time, if not nil, is the modification time of every entry.
	Time *time.Time
	// Whole has [Diff] write everything in the upper directory, directories
	// that are as below it too.
	Whole bool
	// Live says that something may be running in the tree, and put a device or
	// a FIFO where a file was: opening one would do what it does on being
	// opened. Then a file is looked at before it is opened, which costs three
	// system calls. It is no part of the key.
	Live bool
	// Points are paths, without a leading slash, that things were mounted on, for whose
	// sake empty files and directories were made there, or links to /proc/mounts. These, and
	// directories that were made to lead to them, are no part of the layer, whoever has made
	// them. It is no part of the key.
	Points []string
	// Owners says which owners the files have in the layer, nil those that
	// they have. It is no part of the key.
	Owners Owners
}

// Owners turns the ids of users and groups into others. ok is false for an id
// that is not among them.
type Owners interface {
	UID(id uint32) (other uint32, ok bool)
	GID(id uint32) (other uint32, ok bool)
}

// ownerIn turns the ids of an owner, or none without Owners.
func ownerIn(o Owners, uid, gid uint32) (uint32, uint32, error) {
	if o == nil {
		return uid, gid, nil
	}
	u, okUID := o.UID(uid)
	g, okGID := o.GID(gid)
	if !okUID || !okGID {
		return 0, 0, fmt.Errorf("the owner %d:%d is none of the user namespace", uid, gid)
	}
	return u, g, nil
}

// StoreOnly is the level of Gzip and EStargz that other programs call 0.
const StoreOnly = -1

// Key names the options: options of one key give the same tree the same bytes,
// whatever was left zero in them.
func (o Options) Key() string {
	if full, err := o.withDefaults(); err == nil {
		o = full
	}
	level := o.Level
	if o.Compression == Zstd {
		level = zstdLevel(level)
	}
	key := fmt.Sprintf("%s-%d", o.Compression, level)
	if o.Epoch != nil {
		key += fmt.Sprintf("-%d", o.Epoch.Unix())
	}
	if o.Time != nil {
		key += fmt.Sprintf("-at-%d", o.Time.Unix())
	}
	if o.Whole {
		key += "-whole"
	}
	return key
}

// zstdLevel is the real level that a level of Zstd means, counted from 1.
func zstdLevel(level int) int {
	for i, highest := range []int{2, 5, 9} {
		if level <= highest {
			return i + 1
		}
	}
	return 4
}

// clamp is the modification time that is written of an entry with mtime.
func (o Options) clamp(mtime int64) int64 {
	switch {
	case o.Time != nil:
		return o.Time.Unix()
	case o.Epoch != nil:
		return min(mtime, o.Epoch.Unix())
	}
	return mtime
}

// Layer describes a layer that was written.
type Layer struct {
	DiffID  digest.Digest      // digest of the uncompressed tar
	Blob    ocispec.Descriptor // OCI media type, digest and size of the blob
	Size    int64              // bytes of the uncompressed tar
	Entries int                // tar entries, 0 from Compress, which doesn't look
}

// Upper is an overlayfs upper directory and what it lies on.
type Upper struct {
	Dir string
	// Lower are the directories under Dir, topmost first, with their own
	// whiteouts and opaque marks. They tell what Dir changes: a directory
	// that was only copied up is no change, a whiteout of nothing neither.
	Lower []string
	// UserXattr reads overlay's marks from user.overlay.* attributes, as
	// the mount option userxattr writes them, rather than from
	// trusted.overlay.*.
	UserXattr bool
	// Elsewhere says that files may have names outside of Dir, so that how many
	// they have says nothing.
	Elsewhere bool
}

// mediaType is the OCI media type of a layer blob.
func (c Compression) mediaType() string {
	switch c {
	case Uncompressed:
		return ocispec.MediaTypeImageLayer
	case Zstd:
		return ocispec.MediaTypeImageLayerZstd
	default:
		return ocispec.MediaTypeImageLayerGzip
	}
}

// Check tells what can't be done.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// withDefaults fills what was left zero and refuses what can't be done.
func (o Options) withDefaults() (Options, error) {
	if o.Compression == "" {
		o.Compression = Gzip
	}
	highest := 0
	switch o.Compression {
	case Uncompressed:
	case Gzip, EStargz:
		highest = 9
		if o.Level == StoreOnly {
			return o, nil
		}
	case Zstd:
		highest = 22
	default:
		return o, fmt.Errorf("unknown compression %q", o.Compression)
	}
	if o.Level < 0 || o.Level > highest {
		return o, fmt.Errorf("compression level %d of %s is not within 0 to %d", o.Level, o.Compression, highest)
	}
	if o.Level == 0 && o.Compression != Uncompressed {
		o.Level = 1
	}
	return o, nil
}

// Errors that callers tell apart with errors.Is.
var (
	// ErrMissingLinkTarget is Apply's error for a hard link whose target is
	// not in the directory: in overlay form it may well be in a lower layer.
	ErrMissingLinkTarget = errors.New("hard link to a file that is not in this layer")
	// ErrTooLarge is Apply's error for a layer of more than MaxBytes.
	ErrTooLarge = errors.New("layer is larger than allowed")
	// ErrChanged is the error of Diff and WriteTree for a file that was
	// changed or removed while it was read.
	ErrChanged = errors.New("file changed while it was read")
	// ErrNotHere is the error for a compression that this program hasn't.
	ErrNotHere = errors.New("this part of builder can't read or write the layer's compression")
)
