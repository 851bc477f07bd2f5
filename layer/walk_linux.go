// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"builder/internal/owner"
)

// walker lists a tree ahead of the one who writes it. Its workers list the
// directories in depth-first order, each as a whole, so the listing that is
// waited for is always the one worked on first; how far they run ahead is
// bounded by the number of entries.
type walker struct {
	root      int      // descriptor of the tree
	lower     []int    // of the directories below it, topmost first
	prefix    string   // of the overlay marks that count in tree and lower, or ""
	elsewhere bool     // files may have names outside of the tree
	users     bool     // keep user.* attributes
	live      bool     // see Options.Live
	points    []string // see Options.Points
	below     string   // the directory of the layer that the tree is put into, or ""
	noAt      atomic.Bool
	atime     atomic.Bool // O_NOATIME is not allowed

	mu      sync.Mutex
	changed sync.Cond
	first   *dir // head of the list of what is to be listed
	wanted  *dir // what is waited for, whatever the bound
	ahead   int  // entries listed and not yet taken
	ended   bool
	err     error
}

// aheadMax bounds the entries that are listed and not yet written.
const aheadMax = 16 << 10

// dir is a directory of the tree and, once listed, its entries.
type dir struct {
	path  string // "" is the root
	w     *walker
	lower []int // which of walker.lower this directory lies on
	// whole is set below an opaque directory: what lower directories have
	// and this one has not is removed, though no whiteout says so.
	whole bool

	next, prev *dir // in the list of what is to be listed
	taken      bool // by a worker
	listed     bool
	entries    []*entry // sorted by name
}

// entry is one name in a directory.
type entry struct {
	path     string // from the root, without a leading slash
	name     string // last element of path
	stat     unix.Stat_t
	link     string // a symbolic link's target
	xattrs   []xattr
	dir      *dir // of the entries below, if it is a directory
	from     *dir // that has this entry
	whiteout bool // it removes what a lower directory has
	same     bool // a directory that is no different from the lower ones
}

// start begins to list the tree with n workers, which end when ctx does or
// when all is listed; they are waited for with wait.
func (w *walker) start(ctx context.Context, n int) (root *dir, wait func() error) {
	root = &dir{w: w}
	for i := range w.lower {
		root.lower = append(root.lower, i)
	}
	w.changed.L = &w.mu
	w.first = root
	stop := context.AfterFunc(ctx, func() { w.end(context.Cause(ctx)) })
	var wg sync.WaitGroup
	for range n {
		wg.Go(w.worker)
	}
	return root, func() error {
		w.end(nil)
		stop()
		wg.Wait()
		return w.err
	}
}

// end makes the workers stop and every wait return.
func (w *walker) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.ended, w.err = true, err
	}
	w.changed.Broadcast()
}

// take returns the entries of d when they are listed, and lets the workers run
// ahead by as many.
func (w *walker) take(d *dir) ([]*entry, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !d.listed && !w.ended {
		w.wanted = d
		w.changed.Broadcast()
		w.changed.Wait()
	}
	if !d.listed {
		return nil, w.err
	}
	w.ahead -= len(d.entries)
	w.changed.Broadcast()
	entries := d.entries
	d.entries = nil
	return entries, nil
}

// worker lists directories until there is nothing left.
func (w *walker) worker() {
	l := newLister(w)
	for {
		d := w.next()
		if d == nil {
			return
		}
		entries, err := l.list(d)
		if err != nil {
			w.end(err)
			return
		}
		w.done(d, entries)
	}
}

// next waits for a directory that may be listed, and returns nil at the end.
func (w *walker) next() *dir {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.ended && w.first != nil {
		d := w.first
		for d != nil && d.taken {
			d = d.next
		}
		if d != nil && (w.ahead < aheadMax || d == w.wanted) {
			d.taken = true
			return d
		}
		w.changed.Wait()
	}
	return nil
}

// done puts the directories in d at its place in the list.
func (w *walker) done(d *dir, entries []*entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d.entries, d.listed = entries, true
	w.ahead += len(entries)
	last := d
	for _, e := range entries {
		if e.dir != nil {
			e.dir.prev, e.dir.next = last, last.next
			if last.next != nil {
				last.next.prev = e.dir
			}
			last.next = e.dir
			last = e.dir
		}
	}
	if d.next != nil {
		d.next.prev = d.prev
	}
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		w.first = d.next
	}
	d.next, d.prev = nil, nil
	w.changed.Broadcast()
}

// lister lists directories, one at a time.
type lister struct {
	w     *walker
	attrs *attrReader
	buf   []byte
	fd    int   // of the directory that is listed
	lower []int // descriptors of the lower directories that it is merged with
}

func newLister(w *walker) *lister {
	return &lister{w: w, attrs: newAttrReader(&w.noAt), buf: make([]byte, 32<<10)}
}

// list reads the directory d: its names, and all about them but file data.
func (l *lister) list(d *dir) ([]*entry, error) {
	fd, err := openTree(l.w.root, d.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, pathError("open directory", d.path, err)
	}
	defer unix.Close(fd)
	l.fd = fd
	if err := l.openLower(d); err != nil {
		return nil, err
	}
	defer l.closeLower()
	names, err := readNames(fd, l.buf)
	if err != nil {
		return nil, pathError("read directory", d.path, err)
	}
	removed, err := l.removed(d, names)
	if err != nil {
		return nil, err
	}
	names = append(names, removed...)
	slices.Sort(names)
	entries := make([]*entry, 0, len(names))
	block := make([]entry, len(names))
	for i, name := range names {
		e := &block[i]
		e.from, e.path, e.name = d, name, name
		if d.path != "" {
			e.path = d.path + "/" + name
		}
		if _, e.whiteout = slices.BinarySearch(removed, name); e.whiteout {
			entries = append(entries, e)
			continue
		}
		keep, err := l.entry(e)
		if err != nil {
			return nil, err
		}
		if keep {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// entry fills e and tells whether it belongs into the layer or leads to
// something that may.
func (l *lister) entry(e *entry) (bool, error) {
	if err := unix.Fstatat(l.fd, e.name, &e.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, pathError("stat", e.path, changed(err))
	}
	var a attrs
	switch e.stat.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		// A tar has no such thing. What it replaced is gone all the same.
		e.whiteout = true
		return l.hides(e)
	case unix.S_IFLNK:
		link, err := readlink(l.fd, e.name, l.buf)
		if err != nil {
			return false, pathError("read link", e.path, changed(err))
		}
		e.link = link
	case unix.S_IFREG, unix.S_IFDIR:
		var err error
		if a, err = l.attrs.read(l.fd, e.name, l.w.prefix, l.w.users); err != nil {
			return false, pathError("read attributes of", e.path, changed(err))
		}
		e.xattrs = a.keep
		keptOwner(&e.stat, a.owner)
	}
	e.whiteout = l.w.prefix != "" && (isWhiteoutDevice(&e.stat) || a.whiteout)
	isDir := e.stat.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir {
		e.dir = &dir{path: e.path, w: l.w}
	}
	if l.isPoint(e) {
		if hides, err := l.hides(e); err != nil || !hides {
			return false, err
		}
	}
	switch {
	case e.whiteout:
		return l.hides(e)
	case len(l.lower) == 0:
		e.same = l.leadsToPoint(e)
		return true, nil
	}
	return l.compare(e, a.opaque && isDir)
}

// isPoint says whether e is an empty file that was made to mount something on, or the
// link that goes with it.
func (l *lister) isPoint(e *entry) bool {
	empty := e.stat.Mode&unix.S_IFMT == unix.S_IFREG && e.stat.Size == 0
	return (empty || e.link == mountsFile) && slices.Contains(l.w.points, e.path)
}

// mountsFile is what /etc/mtab leads to (mount(8)).
const mountsFile = "/proc/mounts"

// leadsToPoint says whether e is a directory that may have been made, or have got
// another time, to mount something on it or below it.
func (l *lister) leadsToPoint(e *entry) bool {
	return e.dir != nil && slices.ContainsFunc(l.w.points, func(p string) bool { return p == e.path || strings.HasPrefix(p, e.path+"/") })
}

// keptOwner sets in st the owner that is kept for a namespace that lacks it.
func keptOwner(st *unix.Stat_t, value string) {
	if id, ok := owner.Parse(value); ok && owner.Kept() {
		st.Uid, st.Gid = id.UID, id.GID
	}
}

// isWhiteoutDevice tells whether a file is overlayfs's whiteout.
func isWhiteoutDevice(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// readAt reads a part of a regular file and makes sure that the file still is
// what was listed.
func (e *entry) readAt(dst []byte, offset int64) error {
	fd, err := e.from.w.open(e.path)
	if err != nil {
		return pathError("open", e.path, changed(err))
	}
	defer unix.Close(fd)
	for len(dst) > 0 {
		n, err := unix.Pread(fd, dst, offset)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return pathError("read", e.path, err)
		}
		if n == 0 {
			return pathError("read", e.path, fmt.Errorf("%w: shorter than %d bytes now", ErrChanged, e.stat.Size))
		}
		dst, offset = dst[n:], offset+int64(n)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("stat", e.path, err)
	}
	if st.Size != e.stat.Size {
		return pathError("read", e.path, fmt.Errorf("%w: %d bytes rather than %d now", ErrChanged, st.Size, e.stat.Size))
	}
	if st.Mtim != e.stat.Mtim {
		return pathError("read", e.path, fmt.Errorf("%w: it has another modification time now", ErrChanged))
	}
	return nil
}

// open opens a regular file of the tree for reading, without noting the access
// where that is allowed.
func (w *walker) open(path string) (int, error) {
	if !w.atime.Load() {
		fd, err := w.openFile(w.root, path, unix.O_NOATIME)
		if !errors.Is(err, unix.EPERM) {
			return fd, err
		}
		w.atime.Store(true)
	}
	return w.openFile(w.root, path, 0)
}

// openFile opens a regular file below dirFD for reading. In a live tree it opens
// nothing else, whatever has the name by now; in another it doesn't wait for it.
func (w *walker) openFile(dirFD int, path string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	if !w.live {
		return openTree(dirFD, path, flags)
	}
	place, err := openTree(dirFD, path, unix.O_PATH)
	if err != nil {
		return -1, err
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, fmt.Errorf("%w: it is no regular file now", ErrChanged)
	}
	for {
		fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(place), flags|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// openTree opens a path below dirFD in which nothing is a symbolic link.
func openTree(dirFD int, path string, flags int) (int, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	for {
		fd, err := unix.Openat2(dirFD, path, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// readNames returns the names in an open directory, unsorted.
func readNames(fd int, buf []byte) ([]string, error) {
	var names []string
	for {
		n, err := unix.Getdents(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return names, err
		}
		// struct linux_dirent64: inode, offset, length of the record, type,
		// name, which ends with a NUL. All names share one string.
		for b, all := buf[:n], string(buf[:n]); len(b) > 0; {
			size := int(binary.NativeEndian.Uint16(b[16:]))
			name, _, _ := strings.Cut(all[19:size], "\x00")
			if name != "." && name != ".." {
				names = append(names, name)
			}
			b, all = b[size:], all[size:]
		}
	}
}

// readlink returns a symbolic link's target.
func readlink(dirFD int, name string, buf []byte) (string, error) {
	n, err := unix.Readlinkat(dirFD, name, buf)
	if err != nil {
		return "", err
	}
	if n == len(buf) {
		return "", io.ErrShortBuffer // the kernel's own limit is 4096
	}
	return string(buf[:n]), nil
}

// pathError says what was done to which path of a tree.
func pathError(op, path string, err error) error {
	if path == "" {
		path = "."
	}
	return fmt.Errorf("%s %.400q: %w", op, path, err)
}

// changed makes it plain that a file which was there is gone, or is something
// else.
func changed(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return err
}
