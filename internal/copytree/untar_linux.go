// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"builder/internal/sys"

	"golang.org/x/sys/unix"
)

// Untar extracts an uncompressed tar stream into dir, which is "/" for every
// name and link in it, as ADD does (Unpack in moby/go-archive): an entry
// replaces what has its name, directories are merged, whiteouts mean nothing.
// owner, if not nil, owns everything; else the archive says. Directories that
// the archive has no entry for are 0755 and root's.
//
// lost counts extended attributes that the file system doesn't take. After an
// error dir holds part of the archive.
func Untar(ctx context.Context, dir *os.File, r io.Reader, owner *Owner) (lost int64, err error) {
	return (&untarrer{root: dir, owner: owner}).all(ctx, r)
}

// UntarKeeping is Untar but for an entry that would take the place of a
// directory and is none, or the other way round: that is an error. outside, if
// not nil, says which owner an owner is where this process is.
func UntarKeeping(ctx context.Context, dir *os.File, r io.Reader, owner *Owner, outside func(Owner) (Owner, error)) (lost int64, err error) {
	return (&untarrer{root: dir, owner: owner, outside: outside, keep: true}).all(ctx, r)
}

// all extracts all entries.
func (u *untarrer) all(ctx context.Context, r io.Reader) (lost int64, err error) {
	u.buf, u.zeros = make([]byte, bufSize), make([]byte, bufSize)
	defer u.leave()
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return u.lost, context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return u.lost, err
		}
		if err := u.entry(ctx, h, tr); err != nil {
			return u.lost, fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	return u.lost, u.finishDirs()
}

type untarrer struct {
	root  *os.File
	owner *Owner
	keep  bool // directories stay directories, and others none
	buf   []byte
	zeros []byte
	lost  int64
	dirs  []*tar.Header // to be given their times when all is there

	outside func(Owner) (Owner, error) // see UntarKeeping

	at   *os.File // the directory that the last entry was in
	path string   // its name
}

func (u *untarrer) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := path.Clean(h.Name)
	if name == ".." || strings.HasPrefix(name, "../") {
		return errors.New("the name leads out of the archive")
	}
	name = strings.TrimPrefix(name, "/")
	if name == "" || name == "." {
		if h.Typeflag == tar.TypeDir {
			return nil // the destination keeps its attributes
		}
		return errors.New("not a directory")
	}
	if strings.Contains(name, "\x00") || strings.Contains(h.Linkname, "\x00") {
		return errors.New("a name contains a NUL byte")
	}
	h.Name = name
	if err := u.enter(path.Dir(name)); err != nil {
		return err
	}
	base := MakeName(path.Base(name))
	if err := u.makeWay(base, h); err != nil {
		return err
	}
	return u.make(ctx, base, h, r)
}

// enter opens the directory that the next entry is in, making it if need be.
func (u *untarrer) enter(dir string) error {
	if u.at != nil && u.path == dir {
		return nil
	}
	u.leave()
	f, err := sys.MkdirAllInRoot(u.root, dir, 0o755, func(made *os.File, _ string) error {
		root, err := u.asOutside(Owner{})
		if err != nil {
			return err
		}
		return unix.Fchownat(int(made.Fd()), "", int(root.UID), int(root.GID), unix.AT_EMPTY_PATH)
	})
	if err != nil {
		return err
	}
	u.at, u.path = f, dir
	return nil
}

func (u *untarrer) asOutside(o Owner) (Owner, error) {
	if u.outside == nil {
		return o, nil
	}
	return u.outside(o)
}

func (u *untarrer) leave() {
	if u.at != nil {
		u.at.Close()
		u.at = nil
	}
}

// makeWay removes what has the name, but for a directory if a directory is to
// take its place.
func (u *untarrer) makeWay(base Name, h *tar.Header) error {
	var st Stat
	err := StatAt(int(u.at.Fd()), base, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if u.keep && (st.Mode&modeType == modeDir) != (h.Typeflag == tar.TypeDir) {
		if h.Typeflag == tar.TypeDir {
			return errors.New("it is a directory, and there is something else in its place")
		}
		return errors.New("there is a directory in its place")
	}
	if st.Mode&modeType != modeDir {
		return unlinkAt(int(u.at.Fd()), base, 0)
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	return removeAll(int(u.at.Fd()), base)
}

// unlinkAt is unlinkat(2), but refuses what something is mounted on with EBUSY, as the
// kernel does only in this process's own mount namespace: of another one the mount
// would be gone.
func unlinkAt(dir int, name Name, flags int) error {
	var x unix.Statx_t
	err := unix.Statx(dir, name.String(), unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &x)
	if err == nil && x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		err = unix.EBUSY
	}
	if err != nil {
		return err
	}
	return unix.Unlinkat(dir, name.String(), flags)
}

// removeAll removes a directory and all in it, following no link.
func removeAll(dir int, name Name) error {
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var names []Name
	if err := ReadNames(fd, make([]byte, 8<<10), func(n []byte) { names = append(names, Name(n)) }); err != nil {
		return err
	}
	for _, n := range names {
		err := unlinkAt(fd, n, 0)
		if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
			err = removeAll(fd, n)
		}
		if err != nil {
			return err
		}
	}
	return unlinkAt(dir, name, unix.AT_REMOVEDIR)
}

// make makes the entry, the way for which is clear.
func (u *untarrer) make(ctx context.Context, base Name, h *tar.Header, r io.Reader) error {
	at, mode := int(u.at.Fd()), uint32(h.Mode)&0o7777
	switch h.Typeflag {
	case tar.TypeDir:
		if err := mkdirAt(at, base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		u.dirs = append(u.dirs, h)
	case tar.TypeReg, tar.TypeGNUSparse:
		if err := u.writeFile(ctx, at, base, h, r); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := symlinkAt(h.Linkname, at, base); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.link(at, base, h.Linkname)
	case tar.TypeFifo:
		if err := unix.Mknodat(at, base.String(), unix.S_IFIFO|mode, 0); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock:
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if err := unix.Mknodat(at, base.String(), kind|mode, int(dev)); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown type %q", h.Typeflag)
	}
	return u.setAttrs(at, base, h)
}

// maxFile is the largest file that is extracted: the bytes of a sparse entry
// are bounded by nothing in the archive.
const maxFile = 1 << 40

func (u *untarrer) writeFile(ctx context.Context, at int, base Name, h *tar.Header, r io.Reader) error {
	if h.Size > maxFile {
		return fmt.Errorf("a file of %d bytes", h.Size)
	}
	fd, err := openAt(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Zeros become holes.
	if err := unix.Ftruncate(fd, h.Size); err != nil {
		return err
	}
	for pos := int64(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(r, u.buf)
		if part := u.buf[:n]; !bytes.Equal(part, u.zeros[:n]) {
			if err := writeAt(fd, part, pos); err != nil {
				return err
			}
		}
		pos += int64(n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && pos == h.Size:
			return nil
		case err != nil:
			return err
		}
	}
}

// link makes base another name of the entry target. Its attributes are that
// entry's.
func (u *untarrer) link(at int, base Name, target string) error {
	target = path.Clean("/" + target)
	dir, err := sys.OpenInRoot(u.root, path.Dir(target), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	defer dir.Close()
	if err := unix.Linkat(int(dir.Fd()), path.Base(target), at, base.String(), 0); err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	return nil
}

// setAttrs sets owner, attributes, mode and time of what was made.
func (u *untarrer) setAttrs(at int, base Name, h *tar.Header) error {
	o := Owner{uint32(h.Uid), uint32(h.Gid)}
	if u.owner != nil {
		o = *u.owner
	} else if int(o.UID) != h.Uid || int(o.GID) != h.Gid {
		return fmt.Errorf("owner %d:%d is out of range", h.Uid, h.Gid)
	}
	there, err := u.asOutside(o)
	if err != nil {
		return err
	}
	if err := chownAt(at, base, there); err != nil {
		return fmt.Errorf("change owner to %d:%d: %w", o.UID, o.GID, err)
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || !CopiedXattr(name) {
			continue
		}
		err := unix.Lsetxattr(fdPath(at)+"/"+base.String(), name, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
			u.lost++
			continue
		}
		if err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := sys.ChmodAt(at, base.String(), uint32(h.Mode)&0o7777); err != nil {
			return err
		}
	}
	return setTimesAt(at, base, tarTime(h.ModTime))
}

// finishDirs gives directories their times, which making what is in them
// moved. One that later entries replaced or hid is left out.
func (u *untarrer) finishDirs() error {
	u.leave()
	for _, h := range u.dirs {
		err := u.finishDir(h)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	return nil
}

func (u *untarrer) finishDir(h *tar.Header) error {
	parent, err := sys.OpenInRoot(u.root, path.Dir(h.Name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer parent.Close()
	base := MakeName(path.Base(h.Name))
	var st Stat
	if err := StatAt(int(parent.Fd()), base, &st); err != nil {
		return err
	}
	if st.Mode&modeType != modeDir {
		return unix.ENOTDIR
	}
	return setTimesAt(int(parent.Fd()), base, tarTime(h.ModTime))
}

// tarTime bounds a time as go-archive does: what is before 1970 or beyond what
// 64 bits of nanoseconds hold is 1970.
func tarTime(t time.Time) Time {
	if t.Unix() < 0 || t.Unix() > math.MaxInt64/int64(time.Second) {
		return Time{}
	}
	return Time{t.Unix(), uint32(t.Nanosecond())}
}
