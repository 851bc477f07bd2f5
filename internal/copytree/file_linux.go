// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// bufSize is the largest file that is copied with one read and one write.
const bufSize = 256 << 10

// copyFile copies the regular file e from the directory from to name in to,
// and checks that it is as it was when its digest was computed.
func (c *copier) copyFile(w *scratch, t task, from, to int, name Name, e *Entry) error {
	src, err := OpenFileAt(from, e.Name)
	if err != nil {
		return c.sourceError(t.from.Join(e.Name).String(), err)
	}
	defer unix.Close(src)
	mode := c.plan.Mode.Apply(e.Stat.Mode)
	dst, err := createFile(to, name, mode&0o777)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	if err := w.copyBytes(dst, src, e.Stat.Size); err != nil {
		return err
	}
	// One look after the bytes were read says whether anything happened
	// since the tree was looked at: every write moves the change time.
	var now Stat
	if err := StatFD(src, &now); err != nil {
		return err
	}
	if now != e.Stat {
		if now.Mode&modeType != modeRegular {
			return c.sourceError(t.from.Join(e.Name).String(), ErrChanged)
		}
		sum, err := hashFile(dst)
		if err != nil {
			return err
		}
		path := t.from.Join(e.Name).String()
		w.result.Changed = append(w.result.Changed, Change{Path: path, Entry: e, Digest: sum})
	}
	w.result.Files++
	w.result.Bytes += e.Stat.Size
	o := c.plan.OwnerOf(e)
	switch {
	case o != c.self || t.quirks != 0 || mode&^0o777 != 0 || mode&c.umask != 0:
		err = c.setAttrs(w, dst, e)
	case len(e.Xattrs) > 0:
		err = c.setXattrs(w, dst, e)
	}
	if err != nil {
		return err
	}
	return setTimesAt(dst, "", e.Stat.Mtime)
}

// createFile makes an empty file, in the place of any other than a directory.
func createFile(dir int, name Name, mode uint32) (fd int, err error) {
	err = replacing(dir, name, func() (err error) {
		fd, err = openAt(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, mode)
		return err
	})
	return fd, err
}

// copyBytes copies size bytes, or fewer if there aren't that many any more.
func (w *scratch) copyBytes(dst, src int, size int64) error {
	switch {
	case size == 0:
		return nil
	case size > bufSize:
		return copyLarge(dst, src, size, w)
	}
	buf := w.buffer()[:size]
	n, err := readFull(src, buf)
	if err != nil {
		return err
	}
	return writeFull(dst, buf[:n])
}

func (w *scratch) buffer() []byte {
	if w.buf == nil {
		w.buf = make([]byte, bufSize)
	}
	return w.buf
}

// copyLarge copies the data of a file and leaves its holes out. Where the file
// system can, the kernel copies, or both files share the blocks.
func copyLarge(dst, src int, size int64, w *scratch) error {
	if err := unix.Ftruncate(dst, size); err != nil {
		return err
	}
	for pos := int64(0); pos < size; {
		start, err := unix.Seek(src, pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // the rest is a hole, or the file was cut
		}
		if err != nil {
			start = pos // the file system doesn't know
		}
		end, err := unix.Seek(src, start, unix.SEEK_HOLE)
		if err != nil || end > size {
			end = size
		}
		if start >= end {
			return nil
		}
		if err := copyRange(dst, src, start, end, w); err != nil {
			return err
		}
		pos = end
	}
	return nil
}

func copyRange(dst, src int, pos, end int64, w *scratch) error {
	for pos < end {
		from, to := pos, pos
		n, err := unix.CopyFileRange(src, &from, dst, &to, int(min(end-pos, 1<<30)), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			// Each kernel and file system has its own reason not to
			// (EXDEV, EINVAL, EOPNOTSUPP, EIO, EPERM). A real error
			// comes back from the plain copy.
			return copyPlain(dst, src, pos, end, w)
		}
		if n == 0 {
			return nil // the file was cut
		}
		pos += int64(n)
	}
	return nil
}

func copyPlain(dst, src int, pos, end int64, w *scratch) error {
	buf := w.buffer()
	for pos < end {
		n, err := unix.Pread(src, buf[:min(end-pos, int64(len(buf)))], pos)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		if err := writeAt(dst, buf[:n], pos); err != nil {
			return err
		}
		pos += int64(n)
	}
	return nil
}

func writeAt(fd int, buf []byte, pos int64) error {
	for len(buf) > 0 {
		n, err := unix.Pwrite(fd, buf, pos)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		buf, pos = buf[n:], pos+int64(n)
	}
	return nil
}

// readFull reads until buf is full or the file ends.
func readFull(fd int, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		m, err := unix.Read(fd, buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

func writeFull(fd int, buf []byte) error {
	for len(buf) > 0 {
		n, err := unix.Write(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		buf = buf[n:]
	}
	return nil
}

// hashFile returns the SHA-256 of an open file, wherever its position is.
func hashFile(fd int) (sum [32]byte, err error) {
	h := sha256.New()
	buf := make([]byte, bufSize)
	for pos := int64(0); ; {
		n, err := unix.Pread(fd, buf, pos)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return sum, err
		}
		if n == 0 {
			h.Sum(sum[:0])
			return sum, nil
		}
		h.Write(buf[:n])
		pos += int64(n)
	}
}

// writeInline writes a file that is in no tree.
func (c *copier) writeInline(dir, name Name, s *Source) error {
	if err := c.tryInline(dir, name, s); err != nil {
		return &pathError{"/" + dir.Join(name).String(), err}
	}
	return nil
}

func (c *copier) tryInline(dir, name Name, s *Source) error {
	to, err := OpenDir(c.dest.root, dir, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	fd, err := createFile(to, name, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := writeFull(fd, s.Data); err != nil {
		return err
	}
	w := &c.scratch[0]
	w.result.Files++
	w.result.Bytes += int64(len(s.Data))
	if err := c.setAttrs(w, fd, s.Entry); err != nil {
		return err
	}
	if c.dest.epoch == nil {
		return nil
	}
	return setTimesAt(fd, "", *c.dest.epoch)
}

// copyOrUnpack extracts a source that is a tar archive into the destination,
// which is then a directory, and copies any other.
func (c *copier) copyOrUnpack(ctx context.Context, s *Source) error {
	f, err := c.openSource(s)
	if err != nil {
		return err
	}
	defer f.Close()
	if !c.isArchive(f) {
		_, err := c.copyFiles(ctx, []Source{*s})
		return err
	}
	name, _ := cutSlash(c.plan.Dest)
	to, err := c.dest.resolve(path.Clean("/" + name))
	if err != nil {
		return err
	}
	// --chmod counts neither for what is extracted nor for the directory
	// (unpack in BuildKit's file backend).
	if err := c.dest.mkdirAll(&to, 0o755, c.plan.Owner); err != nil {
		return err
	}
	if err := c.unpack(ctx, f, to); err != nil {
		return err
	}
	var now Stat
	if err := StatFD(int(f.Fd()), &now); err != nil {
		return &sourceError{s.path(), err}
	}
	if now != s.Entry.Stat {
		return &sourceError{s.path(), ErrChanged}
	}
	c.result.Unpacked++
	return nil
}

// path is where a source that is a file is in its tree.
func (s *Source) path() string { return s.Parent.Join(s.Entry.Name).String() }

func (c *copier) openSource(s *Source) (*os.File, error) {
	dir, err := OpenDir(c.from, s.Parent, unix.O_PATH)
	if err != nil {
		return nil, c.sourceError(s.path(), err)
	}
	defer unix.Close(dir)
	fd, err := OpenFileAt(dir, s.Entry.Name)
	if err != nil {
		return nil, c.sourceError(s.path(), err)
	}
	return os.NewFile(uintptr(fd), s.path()), nil
}

// isArchive tells whether a file begins as a tar archive does, once it is
// decompressed. A file that is merely compressed is none (isArchivePath in
// BuildKit).
func (c *copier) isArchive(f *os.File) bool {
	r, err := c.opts.Decompress(io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return false
	}
	defer r.Close()
	_, err = tar.NewReader(r).Next()
	return err == nil
}

func (c *copier) unpack(ctx context.Context, f *os.File, to place) error {
	dir, err := OpenDir(c.dest.root, to.path, unix.O_RDONLY)
	if err != nil {
		return &pathError{"/" + to.path.String(), err}
	}
	into := os.NewFile(uintptr(dir), "/"+to.path.String())
	defer into.Close()
	r, err := c.opts.Decompress(io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return &sourceError{f.Name(), err}
	}
	defer r.Close()
	lost, err := Untar(ctx, into, r, c.plan.Owner)
	c.result.LostXattrs += lost
	if err != nil {
		return fmt.Errorf("extract %q to %q: %w", "/"+f.Name(), into.Name(), err)
	}
	return nil
}
