// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"builder/internal/owner"
)

// job is a file to be made by one of the placers. Nothing exists at its place.
type job struct {
	dir    *node // held
	name   string
	kind   uint32 // S_IFREG, S_IFLNK, S_IFIFO, S_IFCHR, S_IFBLK
	link   string // of S_IFLNK
	dev    uint64 // of a device
	attr   attributes
	size   int64
	data   []byte      // all of it, if it fits into one buffer
	parts  chan []byte // else its parts, in order, up to size
	sparse bool        // zeros may be left as holes
}

func (j *job) path() string { return j.dir.join(j.name) }

// attributes of a file, as a tar has them.
type attributes struct {
	mode     uint32
	uid, gid uint32
	mtime    unix.Timespec
	xattrs   []xattr
}

// attributesOf takes the attributes from a header, without the extended ones
// that a layer must not set: overlay's own marks would hide or redirect files,
// trusted.* is the host's, owners are said otherwise.
func attributesOf(hdr *tar.Header) (attributes, error) {
	a := attributes{mode: uint32(hdr.Mode & 0o7777)}
	// The kernel takes the id 2^32-1 for "leave it as it is".
	if hdr.Uid < 0 || int64(hdr.Uid) >= 1<<32-1 || hdr.Gid < 0 || int64(hdr.Gid) >= 1<<32-1 {
		return a, fmt.Errorf("owner %d:%d is not possible", hdr.Uid, hdr.Gid)
	}
	a.uid, a.gid = uint32(hdr.Uid), uint32(hdr.Gid)
	a.mtime.Sec, a.mtime.Nsec = hdr.ModTime.Unix(), int64(hdr.ModTime.Nanosecond())
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if ok && !strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, userOverlay) && name != owner.Attr {
			a.xattrs = append(a.xattrs, xattr{name, value})
		}
	}
	slices.SortFunc(a.xattrs, func(x, y xattr) int { return strings.Compare(x.name, y.name) })
	return a, nil
}

// placers make files beside the parser. What they make at the same time must
// have nothing to do with each other; wait is the means to that end.
type placers struct {
	ctx      context.Context //nolint:containedctx // lives as long as one call
	jobs     chan *job
	finished chan struct{} // a token for each
	running  int
	making   map[string]bool // paths handed out since the last wait
	buffers  chan []byte
}

// What is under way at a time.
const (
	jobsMax    = 64
	makingMax  = 1024
	bufferSize = 128 << 10
	buffers    = 24
)

func newPlacers(ctx context.Context) *placers {
	p := &placers{
		ctx: ctx, jobs: make(chan *job, jobsMax), finished: make(chan struct{}, jobsMax),
		making: make(map[string]bool, makingMax), buffers: make(chan []byte, buffers),
	}
	for range buffers {
		p.buffers <- nil // made when it is first needed
	}
	return p
}

// buffer returns a buffer of bufferSize, which ends up with a placer.
func (p *placers) buffer() ([]byte, error) {
	select {
	case b := <-p.buffers:
		if b == nil {
			b = make([]byte, bufferSize)
		}
		return b[:bufferSize], nil
	case <-p.ctx.Done():
		return nil, context.Cause(p.ctx)
	}
}

// start hands out a job.
func (p *placers) start(j *job) error {
	path := j.path()
	var err error
	if len(p.making) >= makingMax {
		err = p.wait()
	} else if p.running == jobsMax {
		err = wait(p.ctx, p.finished)
		p.running--
	}
	if err != nil {
		j.dir.drop()
		return err
	}
	p.making[path] = true
	p.running++
	p.jobs <- j // has room for jobsMax
	return nil
}

// wait returns when nothing is being made.
func (p *placers) wait() error {
	for ; p.running > 0; p.running-- {
		if err := wait(p.ctx, p.finished); err != nil {
			return err
		}
	}
	clear(p.making)
	return nil
}

// before returns when nothing is being made at path.
func (p *placers) before(path string) error {
	if p.making[path] {
		return p.wait()
	}
	return nil
}

// run makes files until there are no more.
func (p *placers) run() error {
	for {
		select {
		case j := <-p.jobs:
			if j == nil {
				return nil
			}
			err := p.place(j)
			if err != nil {
				err = unpackError(j.path(), err)
			}
			j.dir.drop()
			if err != nil {
				return err
			}
			p.finished <- struct{}{}
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
}

// abandon drops what nobody took.
func (p *placers) abandon() {
	for {
		select {
		case j := <-p.jobs:
			if j != nil {
				j.dir.drop()
				continue
			}
		default:
		}
		return
	}
}

// place makes one file.
func (p *placers) place(j *job) error {
	switch j.kind {
	case unix.S_IFREG:
		return p.placeFile(j)
	case unix.S_IFLNK:
		if err := unix.Symlinkat(j.link, j.dir.fd, j.name); err != nil {
			return os.NewSyscallError("symlink", err)
		}
	default:
		if err := unix.Mknodat(j.dir.fd, j.name, j.kind|0o600, int(j.dev)); err != nil {
			return os.NewSyscallError("mknod", err)
		}
	}
	return setByName(j.dir.fd, j.name, &j.attr)
}

func (p *placers) placeFile(j *job) (err error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(j.dir.fd, j.name, flags, j.attr.mode&0o777)
	if err != nil {
		return os.NewSyscallError("create", err)
	}
	defer func() {
		if cerr := unix.Close(fd); err == nil {
			err = os.NewSyscallError("close", cerr)
		}
	}()
	if j.data != nil {
		err = writeAll(fd, j.data)
		p.buffers <- j.data
	} else if j.parts != nil {
		err = p.writeParts(fd, j)
	}
	if err != nil {
		return err
	}
	return setByFD(fd, &j.attr)
}

// writeParts writes a file as its parts come.
func (p *placers) writeParts(fd int, j *job) error {
	if j.sparse {
		if err := unix.Ftruncate(fd, j.size); err != nil {
			return os.NewSyscallError("truncate", err)
		}
	}
	for left := j.size; left > 0; {
		select {
		case part := <-j.parts:
			left -= int64(len(part))
			var err error
			if j.sparse && isZero(part) {
				_, err = unix.Seek(fd, int64(len(part)), unix.SEEK_CUR)
			} else {
				err = writeAll(fd, part)
			}
			p.buffers <- part
			if err != nil {
				return err
			}
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
	return nil
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		b = b[n:]
	}
	return nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// setByFD gives an open file or directory its attributes. The order matters:
// chown clears setuid and capabilities, and whatever is set changes nothing
// but the time of the change.
func setByFD(fd int, a *attributes) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	changed := owner.Kept() || st.Uid != a.uid || st.Gid != a.gid // which may take bits from the mode
	if changed {
		if err := owner.ChownFD(fd, owner.ID{UID: a.uid, GID: a.gid}); err != nil {
			return chownError(a, err)
		}
	}
	for _, x := range a.xattrs {
		if err := xattrError(x.name, st.Mode, unix.Fsetxattr(fd, x.name, []byte(x.value), 0)); err != nil {
			return err
		}
	}
	if changed || st.Mode&0o7777 != a.mode {
		if err := unix.Fchmod(fd, a.mode); err != nil {
			return os.NewSyscallError("chmod", err)
		}
	}
	return setTime(fd, "", a.mtime, unix.AT_EMPTY_PATH)
}

// setByName does the same for what can't be opened, or not without effects.
func setByName(dirFD int, name string, a *attributes) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dirFD, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	isLink := st.Mode&unix.S_IFMT == unix.S_IFLNK
	changed := owner.Kept() || st.Uid != a.uid || st.Gid != a.gid
	if changed {
		if err := owner.ChownAt(dirFD, name, owner.ID{UID: a.uid, GID: a.gid}); err != nil {
			return chownError(a, err)
		}
	}
	for _, x := range a.xattrs {
		err := unix.Lsetxattr(entryPath(dirFD, name), x.name, []byte(x.value), 0)
		if err := xattrError(x.name, st.Mode, err); err != nil {
			return err
		}
	}
	if !isLink && (changed || st.Mode&0o7777 != a.mode) {
		// It follows links, but this is none.
		if err := unix.Fchmodat(dirFD, name, a.mode, 0); err != nil {
			return os.NewSyscallError("chmod", err)
		}
	}
	return setTime(dirFD, name, a.mtime, unix.AT_SYMLINK_NOFOLLOW)
}

func setTime(fd int, name string, t unix.Timespec, flags int) error {
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(fd, name, []unix.Timespec{t, t}, flags))
}

func chownError(a *attributes, err error) error {
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: is the id mapped in this user namespace?", err)
	}
	return fmt.Errorf("chown to %d:%d: %w", a.uid, a.gid, err)
}

// xattrError passes the errors of setting an attribute but those that only say
// that it has no place here: the file system knows no such attributes, user.*
// is for files and directories only, and labels of security modules are for
// those who may set them. A capability that is lost would break a program.
func xattrError(name string, mode uint32, err error) error {
	switch {
	case err == nil, errors.Is(err, unix.ENOTSUP):
		return nil
	case !errors.Is(err, unix.EPERM), name == attrCapability:
	case strings.HasPrefix(name, "user."):
		if kind := mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
			return nil
		}
	default:
		return nil
	}
	return fmt.Errorf("set attribute %.300q: %w", name, err)
}

// unpackError says which entry went wrong.
func unpackError(path string, err error) error {
	if path == "" {
		path = "."
	}
	return fmt.Errorf("unpack %.400q: %w", path, err)
}
