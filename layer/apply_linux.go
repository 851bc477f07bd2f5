// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// ApplyOptions says how a layer is unpacked. The zero value unpacks it in
// overlay form, as a directory that is used as an overlayfs lower or upper.
type ApplyOptions struct {
	UserXattr bool // overlay's opaque mark goes to user.* rather than trusted.*
	NoDevices bool // a device node is an error, as where mknod is not allowed
	// SkipDevices leaves device nodes out and tells so in [Applied].
	SkipDevices bool
	MaxBytes    int64 // most bytes of tar, and of files together; 0: unlimited
	// Plain unpacks over a plain directory that may have contents (an
	// unpacked image, or a mounted overlay): whiteouts and opaque marks
	// delete what was there before.
	Plain bool
	// Owners says which owners the files are given, nil those of the layer.
	Owners Owners
}

// Applied describes a layer that was unpacked.
type Applied struct {
	DiffID  digest.Digest // digest of all bytes of the tar stream
	Size    int64         // bytes of the tar stream
	Entries int           // entries of the tar, those that only describe others not counted
	// Implied are the directories that had to be made, 0755, root's and of
	// 1970, because the tar has something in them but no entry for them, in
	// the order in which they were made and relative to the root. In
	// overlay form a lower layer may have each of them, with other
	// attributes, or have a symbolic link of its name, which the directory
	// now hides.
	Implied []string
	// OpaqueRoot tells that the layer hides everything below it. Overlayfs
	// has no mark for that: in overlay form nothing may be mounted below.
	OpaqueRoot bool
	// Skipped are the device nodes that were left out.
	Skipped []string
}

// Apply unpacks the tar stream, which is read to its end, into dir. The tar is
// treated as hostile: every name is resolved below dir as if dir were the root
// directory, symbolic links included, and nothing is ever written, linked or
// removed outside it. Later entries replace earlier ones of the same name.
//
// Refused are names that lead out of the root with "..", device numbers 0/0
// (overlay's whiteout) and whatever the file system refuses. Left out without
// an error are entries for the root itself, extended attributes of overlay's
// own and of trusted.*, and attributes that have no place in the file system.
//
// In overlay form dir must be empty. After an error dir holds part of the
// layer and must be thrown away. The caller compares the DiffID before it
// trusts the result. Apply returns after its goroutines; when ctx ends it does
// so as soon as a Read of the tar that is under way returns.
func Apply(ctx context.Context, dir *os.File, tar io.Reader, opts ApplyOptions) (Applied, error) {
	g, ctx := errgroup.WithContext(ctx)
	a := newApplier(ctx, dir, newStream(ctx, tar, opts.MaxBytes), opts)
	defer runtime.KeepAlive(dir) // only its descriptor is used from here on
	defer a.close()
	g.Go(a.in.pump)
	g.Go(a.in.hash)
	for range min(runtime.GOMAXPROCS(0), maxPlacers) {
		g.Go(a.placers.run)
	}
	g.Go(func() error {
		defer close(a.placers.jobs)
		return a.unpack()
	})
	if err := g.Wait(); err != nil {
		return Applied{}, err
	}
	a.result.DiffID = digest.NewDigest(digest.SHA256, a.in.digest)
	a.result.Size = a.in.size
	return a.result, nil
}

// maxPlacers bounds the goroutines that make files. More than a few only wait
// for each other in the file system.
const maxPlacers = 4

// maxSparse bounds the size of a sparse file, which need not be in the tar.
const maxSparse = 1 << 40

// applier unpacks one tar.
type applier struct {
	ctx      context.Context //nolint:containedctx // lives as long as one call
	opts     ApplyOptions
	in       *stream
	tar      *tar.Reader
	resolver *resolver
	placers  *placers
	result   Applied

	written  int64           // bytes of files
	dirs     []dirTime       // times to be set at the end
	implied  map[string]bool // of result.Implied, those without an entry so far
	unpacked map[string]bool // Plain: what is of this layer
}

// dirTime is a directory's modification time, which what is put into it would
// change.
type dirTime struct {
	path string
	time unix.Timespec
}

// Errors of entries.
var (
	errDevice   = errors.New("device nodes can't be made here")
	errZeroDev  = errors.New("a device 0/0, which overlayfs takes for a whiteout, can't be in an image")
	errSelfLink = errors.New("hard link to itself")
	errDirLink  = errors.New("hard link to a directory")
)

func newApplier(ctx context.Context, dir *os.File, in *stream, opts ApplyOptions) *applier {
	a := &applier{
		ctx: ctx, opts: opts, in: in, tar: tar.NewReader(in), placers: newPlacers(ctx),
		implied: map[string]bool{}, unpacked: map[string]bool{},
	}
	root := newNode(int(dir.Fd()), "")
	root.hold() // so that it is never closed: it is the caller's
	a.resolver = &resolver{root: root, known: map[string]*node{}, before: a.placers.before, missing: a.makeImplied, whiteouts: map[string]bool{}}
	return a
}

func (a *applier) close() {
	a.placers.abandon()
	a.resolver.forget()
}

// unpack goes through the tar.
func (a *applier) unpack() error {
	for {
		if a.ctx.Err() != nil {
			return context.Cause(a.ctx)
		}
		hdr, err := a.tar.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue // comments; nobody keeps attributes in them
		}
		a.result.Entries++
		if err := a.entry(hdr); err != nil {
			return unpackError(hdr.Name, err)
		}
	}
	if err := a.in.drain(); err != nil {
		return fmt.Errorf("read tar: %w", err)
	}
	if err := a.placers.wait(); err != nil {
		return err
	}
	return a.finish()
}

// finish does what can only be done when everything is in its place.
func (a *applier) finish() error {
	for _, d := range a.dirs {
		fd, err := openTree(a.resolver.root.fd, d.path, unix.O_PATH|unix.O_DIRECTORY)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // replaced by a later entry
		}
		if err != nil {
			return unpackError(d.path, os.NewSyscallError("open", err))
		}
		err = setTime(fd, "", d.time, unix.AT_EMPTY_PATH)
		unix.Close(fd)
		if err != nil {
			return unpackError(d.path, err)
		}
	}
	made := a.result.Implied[:0]
	for _, dir := range a.result.Implied {
		if a.implied[dir] {
			made = append(made, dir)
			delete(a.implied, dir)
		}
	}
	a.result.Implied = made
	return nil
}

// entry unpacks one entry.
func (a *applier) entry(hdr *tar.Header) error {
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if name == "" {
		if hdr.Typeflag != tar.TypeDir {
			return errRootEntry
		}
		return nil
	}
	kind := kindOf(name)
	switch kind {
	case kindMeta:
		return nil
	case kindReserved:
		return errReserved
	}
	dir, base := splitLast(name)
	parent, err := a.resolver.resolve(dir, true)
	if err != nil {
		return err
	}
	defer parent.drop()
	switch kind {
	case kindOpaque:
		return a.opaque(parent)
	case kindWhiteout:
		return a.whiteout(parent, strings.TrimPrefix(base, whiteoutPrefix))
	}
	if err := a.belongs(parent, base); err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return a.dir(hdr, parent, base, name)
	case tar.TypeLink:
		return a.link(hdr, parent, base)
	}
	return a.file(hdr, parent, base)
}

// file hands an entry that is neither a directory nor a hard link to the
// placers.
func (a *applier) file(hdr *tar.Header, parent *node, base string) error {
	attr, err := a.attributes(hdr)
	if err != nil {
		return err
	}
	j := &job{name: base, attr: attr}
	switch hdr.Typeflag {
	case tar.TypeReg, typeCont:
		j.kind, j.size = unix.S_IFREG, hdr.Size
	case tar.TypeGNUSparse:
		j.kind, j.size, j.sparse = unix.S_IFREG, hdr.Size, true
	case tar.TypeSymlink:
		j.kind, j.link = unix.S_IFLNK, hdr.Linkname
	case tar.TypeFifo:
		j.kind = unix.S_IFIFO
	case tar.TypeChar, tar.TypeBlock:
		if a.opts.SkipDevices {
			a.result.Skipped = append(a.result.Skipped, "/"+parent.join(base))
			_, err := a.vacate(parent, base)
			return err
		}
		if err := a.device(hdr, j); err != nil {
			return err
		}
	default:
		return fmt.Errorf("entry type %q is not supported", hdr.Typeflag)
	}
	if _, err := a.vacate(parent, base); err != nil {
		return err
	}
	j.dir = parent.hold()
	if j.kind != unix.S_IFREG || j.size == 0 {
		return a.placers.start(j)
	}
	return a.data(hdr, j)
}

func (a *applier) device(hdr *tar.Header, j *job) error {
	j.kind = unix.S_IFBLK
	if hdr.Typeflag == tar.TypeChar {
		j.kind = unix.S_IFCHR
	}
	major, minor := hdr.Devmajor, hdr.Devminor
	switch {
	case a.opts.NoDevices:
		return errDevice
	case major == 0 && minor == 0:
		return errZeroDev
	case major < 0 || major >= 1<<12 || minor < 0 || minor >= 1<<20:
		return fmt.Errorf("device %d/%d is not possible", major, minor)
	}
	j.dev = unix.Mkdev(uint32(major), uint32(minor))
	return nil
}

// data starts the job of a file that is not empty and feeds it.
func (a *applier) data(hdr *tar.Header, j *job) (err error) {
	started := false
	defer func() {
		if !started {
			j.dir.drop()
		}
	}()
	for key := range hdr.PAXRecords {
		j.sparse = j.sparse || strings.HasPrefix(key, "GNU.sparse.")
	}
	a.written += j.size
	if a.opts.MaxBytes > 0 && a.written > a.opts.MaxBytes || a.written < 0 {
		return fmt.Errorf("%w: more than %d bytes of files", ErrTooLarge, a.opts.MaxBytes)
	}
	if j.sparse && j.size > maxSparse {
		return fmt.Errorf("%w: a sparse file of %d bytes", ErrTooLarge, j.size)
	}
	single := j.size <= bufferSize && !j.sparse
	if !single {
		j.parts = make(chan []byte, buffers)
		started = true
		if err := a.placers.start(j); err != nil {
			return err
		}
	}
	for left := j.size; left > 0; {
		part, err := a.placers.buffer()
		if err != nil {
			return err
		}
		part = part[:min(left, bufferSize)]
		if _, err := io.ReadFull(a.tar, part); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read tar: %w", err)
		}
		left -= int64(len(part))
		if single {
			j.data = part
			started = true
			return a.placers.start(j)
		}
		j.parts <- part // has room for all buffers
	}
	return nil
}

// dir makes a directory, or gives one that exists its attributes: directories
// of different layers are merged.
func (a *applier) dir(hdr *tar.Header, parent *node, base, name string) error {
	attr, err := a.attributes(hdr)
	if err != nil {
		return err
	}
	was, err := a.exists(parent, base)
	if err != nil {
		return err
	}
	if was != unix.S_IFDIR {
		if was, err = a.vacate(parent, base); err != nil {
			return err
		}
		if err := unix.Mkdirat(parent.fd, base, 0o700); err != nil {
			return os.NewSyscallError("mkdir", err)
		}
	}
	fd, err := openDir(parent.fd, base)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	n := newNode(fd, parent.join(base))
	defer n.drop()
	if was != unix.S_IFDIR && was != 0 {
		// What a lower layer has was removed by what was here before.
		if err := a.setOpaque(n); err != nil {
			return err
		}
	}
	if err := setByFD(fd, &attr); err != nil {
		return err
	}
	delete(a.implied, n.path)
	a.dirs = append(a.dirs, dirTime{n.path, attr.mtime})
	a.resolver.remember(name, n)
	return nil
}

// attributes are those that the entry of a header gets.
func (a *applier) attributes(hdr *tar.Header) (attributes, error) {
	attr, err := attributesOf(hdr)
	if err == nil {
		attr.uid, attr.gid, err = ownerIn(a.opts.Owners, attr.uid, attr.gid)
	}
	return attr, err
}

// link makes a hard link and, as other tools do, gives the file the attributes
// that the link's entry has.
func (a *applier) link(hdr *tar.Header, parent *node, base string) error {
	attr, err := a.attributes(hdr)
	if err != nil {
		return err
	}
	name, err := cleanName(hdr.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %.400q: %w", hdr.Linkname, err)
	}
	dir, targetBase := splitLast(name)
	from, err := a.resolver.resolve(dir, false)
	if errors.Is(err, errNoParent) {
		return fmt.Errorf("%w: %.400q", ErrMissingLinkTarget, hdr.Linkname)
	}
	if err != nil {
		return fmt.Errorf("hard link to %.400q: %w", hdr.Linkname, err)
	}
	defer from.drop()
	kind := uint32(unix.S_IFDIR)
	if targetBase != "" {
		if kind, err = a.exists(from, targetBase); err != nil {
			return err
		}
	}
	switch {
	case kind == 0 || kind == whiteoutKind:
		return fmt.Errorf("%w: %.400q", ErrMissingLinkTarget, hdr.Linkname)
	case kind == unix.S_IFDIR:
		return errDirLink
	case from.join(targetBase) == parent.join(base):
		return errSelfLink
	}
	if _, err := a.vacate(parent, base); err != nil {
		return err
	}
	if err := unix.Linkat(from.fd, targetBase, parent.fd, base, 0); err != nil {
		return os.NewSyscallError("link", err)
	}
	return setByName(parent.fd, base, &attr)
}

// whiteoutKind stands for overlay's whiteout among the types of files.
const whiteoutKind = 1

// exists returns the type of what is at a place, or 0 if there is nothing.
func (a *applier) exists(dir *node, name string) (uint32, error) {
	if err := a.placers.before(dir.join(name)); err != nil {
		return 0, err
	}
	var st unix.Stat_t
	err := unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return 0, nil
	case err != nil:
		return 0, os.NewSyscallError("stat", err)
	case isWhiteoutDevice(&st), a.resolver.whiteouts[dir.join(name)]:
		return whiteoutKind, nil
	}
	return st.Mode & unix.S_IFMT, nil
}

// vacate removes what is at a place and returns what it was.
func (a *applier) vacate(dir *node, name string) (uint32, error) {
	kind, err := a.exists(dir, name)
	if err != nil || kind == 0 {
		return kind, err
	}
	return kind, a.remove(dir, name, kind)
}

func (a *applier) remove(dir *node, name string, kind uint32) error {
	if err := a.placers.wait(); err != nil {
		return err
	}
	if kind == unix.S_IFDIR || kind == unix.S_IFLNK {
		a.resolver.forget()
	}
	path := dir.join(name)
	maps.DeleteFunc(a.resolver.whiteouts, func(w string, _ bool) bool { return w == path || strings.HasPrefix(w, path+"/") })
	return removeAll(dir.fd, name)
}

// makeImplied makes a directory that the tar has no entry for, at least so
// far.
func (a *applier) makeImplied(parent *node, name string) (*node, error) {
	was, err := a.vacate(parent, name)
	if err != nil {
		return nil, err
	}
	if err := unix.Mkdirat(parent.fd, name, 0o700); err != nil {
		return nil, os.NewSyscallError("mkdir", err)
	}
	fd, err := openDir(parent.fd, name)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	n := newNode(fd, parent.join(name))
	attr := attributes{mode: 0o755}
	if attr.uid, attr.gid, err = ownerIn(a.opts.Owners, 0, 0); err == nil {
		err = setByFD(fd, &attr)
	}
	if err == nil && was == whiteoutKind {
		err = a.setOpaque(n)
	}
	if err == nil {
		err = a.belongs(parent, name)
	}
	if err != nil {
		n.drop()
		return nil, err
	}
	if !a.implied[n.path] {
		a.implied[n.path] = true
		a.result.Implied = append(a.result.Implied, n.path)
	}
	a.dirs = append(a.dirs, dirTime{path: n.path})
	return n, nil
}
