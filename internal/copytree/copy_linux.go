// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// Options of [Copy].
type Options struct {
	// Epoch is the time of directories that are made for the destination
	// and of files that are in no tree; nil: now.
	Epoch   *time.Time
	Workers int // 0: [Workers]
	// Decompress returns the plain stream of a compressed one, or the
	// stream itself. It is needed where a plan unpacks archives.
	Decompress func(io.Reader) (io.ReadCloser, error)
}

// Copy writes what the plan holds below root. Files are written by several
// goroutines, which have ended when it returns. After an error root has part
// of it.
func Copy(ctx context.Context, root *os.File, plan *Plan, opts Options) (Result, error) {
	c := &copier{
		plan:    plan,
		opts:    opts,
		from:    int(plan.Root.Fd()),
		dest:    dest{root: int(root.Fd())},
		self:    Owner{uint32(unix.Geteuid()), uint32(unix.Getegid())},
		umask:   umask(),
		workers: opts.Workers,
	}
	if c.workers <= 0 {
		c.workers = Workers()
	}
	if opts.Epoch != nil {
		c.dest.epoch = &Time{opts.Epoch.Unix(), uint32(opts.Epoch.Nanosecond())}
	}
	c.scratch = make([]scratch, c.workers)
	err := c.copyAll(ctx)
	c.result.Made = c.dest.made
	for _, w := range c.scratch {
		c.result.add(w.result)
	}
	slices.SortFunc(c.result.Changed, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return c.result, err
}

// copier is the work of one Copy.
type copier struct {
	plan    *Plan
	opts    Options
	from    int // root of the source tree
	dest    dest
	self    Owner  // of what this process makes
	umask   uint32 // of this process
	workers int
	scratch []scratch // of each worker
	result  Result

	links links    // of the source that is being copied
	tops  []dirEnd // the destinations of directories
}

// scratch is what one worker has for itself.
type scratch struct {
	buf    []byte
	result Result
	later  []hardlink // names of files that another name stands for
	dirs   []dirEnd   // directories to finish when their contents are there
}

// task is a part of a directory, or a single file.
type task struct {
	from    Name     // directory in the source tree
	to      Name     // directory in the destination
	entries []*Entry // of from
	as      Name     // what the only entry is to be called; "" for its own name
	quirks  quirks   // of to
}

// quirks of a directory are properties of it that new files in it inherit.
type quirks uint8

const (
	setGID     quirks = 1 << iota // files get its group
	defaultACL                    // files get permissions from it
)

// dirEnd says what is to be done to a directory when its contents are there.
type dirEnd struct {
	path  Name
	entry *Entry
	// only the mode of the entry, unchanged, or only the times
	onlyMode, onlyTimes bool
	plain               bool // mode and owner are right already
}

// chunk is the number of files that a worker takes at once from a large
// directory.
const chunk = 512

func (c *copier) copyAll(ctx context.Context) error {
	sources := c.plan.Sources
	for len(sources) > 0 {
		n := 1
		var err error
		switch s := &sources[0]; {
		case s.IsDir():
			err = c.copyDir(ctx, s)
		case c.mayUnpack(s):
			err = c.copyOrUnpack(ctx, s)
		default:
			for n < len(sources) && !sources[n].IsDir() && !c.mayUnpack(&sources[n]) {
				n++
			}
			n, err = c.copyFiles(ctx, sources[:n])
		}
		if err != nil {
			return err
		}
		sources = sources[n:]
	}
	return c.settle()
}

func (c *copier) mayUnpack(s *Source) bool {
	return c.plan.Unpack && s.Data == nil && s.Entry.IsRegular()
}

// settle sets the times of directories that were made for the destination, and
// again those of the destination, which later sources may have moved.
func (c *copier) settle() error {
	if err := c.dest.settle(); err != nil {
		return err
	}
	for _, top := range c.tops {
		if err := c.finishDir(&c.scratch[0], top); err != nil {
			return &pathError{"/" + top.path.String(), err}
		}
	}
	return nil
}

// parentMode is the mode of directories that are made for the destination. An
// octal --chmod counts for them too (BuildKit's copy.Copy), less its set-id
// and sticky bits, which os.Mkdir drops.
func (c *copier) parentMode() uint32 {
	if bits, ok := c.plan.Mode.Octal(); ok {
		return bits & 0o777
	}
	return 0o755
}

// target returns the place of the destination, having made the directory that
// it is in, or, ending in a slash, is. That is BuildKit's copy.Copy.
func (c *copier) target() (place, error) {
	name, isDir := cutSlash(c.plan.Dest)
	name = path.Clean("/" + name)
	dir := name
	if !isDir {
		dir = path.Dir(name)
	}
	parent, err := c.dest.resolve(dir)
	if err != nil {
		return parent, err
	}
	if err := c.dest.mkdirAll(&parent, c.parentMode(), c.plan.Owner); err != nil {
		return parent, err
	}
	return c.dest.resolve(name)
}

// copyDir copies the contents of a directory. The destination itself keeps or
// gets the attributes of any directory made on the way, only its times are the
// source's (restoreFileTimestamp in BuildKit's copier.copy).
func (c *copier) copyDir(ctx context.Context, s *Source) error {
	to, err := c.target()
	if err != nil {
		return err
	}
	if to.exists && !to.isDir() {
		return &pathError{"/" + to.path.String(), errors.New("cannot copy a directory over what is not one")}
	}
	if err := c.dest.mkdirAll(&to, c.parentMode(), c.plan.Owner); err != nil {
		return err
	}
	c.tops = append(c.tops, dirEnd{path: to.path, entry: s.Entry, onlyTimes: true})
	c.links.find(s.Entry.Dir)
	q, err := c.quirksOf(to.path)
	if err != nil {
		return err
	}
	tasks := split(nil, task{from: s.Entry.Dir.Path, to: to.path, quirks: q}, s.Entry.Dir.Entries)
	if err := Each(ctx, c.workers, tasks, c.do); err != nil {
		return err
	}
	if err := c.linkLater(); err != nil {
		return err
	}
	return c.finishDirs(ctx)
}

// copyFiles copies the single files at the beginning of sources, as long as
// their order doesn't matter, and returns how many they were.
func (c *copier) copyFiles(ctx context.Context, sources []Source) (int, error) {
	parent, err := c.target()
	if err != nil {
		return 0, err
	}
	c.links.find(nil) // each source has its own links
	name := ""
	if !parent.isDir() {
		name = path.Base(parent.path.String())
		parent = place{path: MakeName(path.Dir(parent.path.String()))}
		if err := c.dest.stat(&parent); err != nil {
			return 0, &pathError{"/" + parent.path.String(), err}
		}
		if err := c.dest.mkdirAll(&parent, c.parentMode(), c.plan.Owner); err != nil {
			return 0, err
		}
		sources = sources[:1] // the next one may find something else there
	}
	q, err := c.quirksOf(parent.path)
	if err != nil {
		return 0, err
	}
	seen := map[string]bool{}
	var tasks []task
	for i := range sources {
		s := &sources[i]
		as := name
		if as == "" {
			as = s.Name
		}
		if seen[as] {
			break
		}
		seen[as] = true
		t := task{from: s.Parent, to: parent.path, entries: []*Entry{s.Entry}, as: MakeName(as), quirks: q}
		if s.Data != nil {
			if err := c.writeInline(parent.path, t.as, s); err != nil {
				return 0, err
			}
			t.entries = nil
		}
		tasks = append(tasks, t)
	}
	return len(tasks), Each(ctx, c.workers, tasks, c.do)
}

// split appends tasks for the entries of a directory, all like t.
func split(tasks []task, t task, entries []*Entry) []task {
	for part := range slices.Chunk(entries, chunk) {
		t.entries = part
		tasks = append(tasks, t)
	}
	return tasks
}

// do copies the entries of a task and pushes the directories among them.
func (c *copier) do(worker int, t task, push func(task)) error {
	if len(t.entries) == 0 {
		return nil
	}
	w := &c.scratch[worker]
	from, err := OpenDir(c.from, t.from, unix.O_PATH)
	if err != nil {
		return c.sourceError(t.from.String(), err)
	}
	defer unix.Close(from)
	to, err := OpenDir(c.dest.root, t.to, unix.O_PATH)
	if err != nil {
		return &pathError{"/" + t.to.String(), err}
	}
	defer unix.Close(to)
	for _, e := range t.entries {
		name := e.Name
		if t.as != "" {
			name = t.as
		}
		if e.IsDir() {
			sub, err := c.enterDir(w, t, to, name, e)
			if err != nil {
				return &pathError{"/" + t.to.Join(name).String(), err}
			}
			if e.Dir != nil {
				for _, part := range split(nil, sub, e.Dir.Entries) {
					push(part)
				}
			}
			continue
		}
		if err := c.copyEntry(w, t, from, to, name, e); err != nil {
			if se := (*sourceError)(nil); errors.As(err, &se) {
				return err
			}
			return &pathError{"/" + t.to.Join(name).String(), err}
		}
	}
	return nil
}

// enterDir makes the directory name for e, unless it is there, and notes how
// it is to be finished.
func (c *copier) enterDir(w *scratch, t task, to int, name Name, e *Entry) (task, error) {
	sub := task{to: t.to.Join(name), quirks: t.quirks}
	if e.Dir != nil {
		sub.from = e.Dir.Path
	}
	end := dirEnd{path: sub.to, entry: e}
	mode := c.plan.Mode.Apply(e.Stat.Mode)
	err := mkdirAt(to, name, mode&0o777|0o700)
	switch {
	case err == nil:
		w.result.Dirs++
		end.plain = mode&^c.umask == mode && mode&^0o777 == 0 && mode&0o700 == 0o700 &&
			t.quirks == 0 && c.plan.OwnerOf(e) == c.self && len(e.Xattrs) == 0
	case errors.Is(err, unix.EEXIST):
		var st Stat
		if err := StatAt(to, name, &st); err != nil {
			return sub, err
		}
		if st.Mode&modeType != modeDir {
			return sub, errors.New("cannot copy a directory over what is not one")
		}
		// A directory that is only on the way to what was selected
		// gets the source's mode and nothing else, as in
		// copyDirectoryOnly of BuildKit's copier.createParentDirs.
		end.onlyMode = e.Implied
		q, err := c.quirksOf(sub.to)
		if err != nil {
			return sub, err
		}
		sub.quirks = q
	default:
		return sub, err
	}
	w.dirs = append(w.dirs, end)
	return sub, nil
}

// copyEntry copies what is not a directory.
func (c *copier) copyEntry(w *scratch, t task, from, to int, name Name, e *Entry) error {
	if e.IsRegular() && e.Stat.Nlinks > 1 && c.links.stands(e, t.to.Join(name)) {
		w.later = append(w.later, hardlink{dir: t.to, name: name, entry: e})
		return nil
	}
	if e.IsRegular() {
		return c.copyFile(w, t, from, to, name, e)
	}
	w.result.Others++
	if e.IsSymlink() {
		if err := replacing(to, name, func() error { return symlinkAt(e.Link, to, name) }); err != nil {
			return err
		}
		return c.finishNode(w, t, to, name, e)
	}
	// A socket is of no use without its process: it becomes an empty file,
	// as in BuildKit (fsutil's mkstat and copyDevice).
	mode := e.Stat.Mode
	if mode&modeType == unix.S_IFSOCK {
		mode = mode&^modeType | modeRegular
	}
	mode = mode&modeType | c.plan.Mode.Apply(mode)
	mknod := func() error { return unix.Mknodat(to, name.String(), mode, int(e.Stat.Rdev)) }
	if err := replacing(to, name, mknod); err != nil {
		return err
	}
	return c.finishNode(w, t, to, name, e)
}

// finishNode sets the attributes of what is neither directory nor file.
func (c *copier) finishNode(w *scratch, t task, to int, name Name, e *Entry) error {
	if o := c.plan.OwnerOf(e); o != c.self || t.quirks != 0 {
		if err := chownAt(to, name, o); err != nil {
			return err
		}
	}
	if !e.IsSymlink() {
		if err := sys.ChmodAt(to, name.String(), c.plan.Mode.Apply(e.Stat.Mode)); err != nil {
			return err
		}
	}
	if len(e.Xattrs) > 0 {
		path := fdPath(to) + "/" + name.String()
		for _, x := range e.Xattrs {
			if err := w.lost(unix.Lsetxattr(path, x.Name, []byte(x.Value), 0)); err != nil {
				return err
			}
		}
	}
	return setTimesAt(to, name, e.Stat.Mtime)
}

// replacing calls create, and once more having removed what has the name. A
// directory is never replaced (ensureEmptyFileTarget in BuildKit).
func replacing(dir int, name Name, create func() error) error {
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st Stat
	if err := StatAt(dir, name, &st); err != nil {
		return err
	}
	if st.Mode&modeType == modeDir {
		return errors.New("cannot replace a directory with a file")
	}
	if err := unix.Unlinkat(dir, name.String(), 0); err != nil {
		return err
	}
	return create()
}

// quirksOf tells what files in a directory of the destination inherit.
func (c *copier) quirksOf(dir Name) (quirks, error) {
	fd, err := OpenDir(c.dest.root, dir, unix.O_RDONLY)
	if err != nil {
		return 0, &pathError{"/" + dir.String(), err}
	}
	defer unix.Close(fd)
	var st Stat
	if err := StatFD(fd, &st); err != nil {
		return 0, &pathError{"/" + dir.String(), err}
	}
	var q quirks
	if st.Mode&unix.S_ISGID != 0 {
		q |= setGID
	}
	if n, err := unix.Fgetxattr(fd, "system.posix_acl_default", nil); err == nil && n > 0 {
		q |= defaultACL
	}
	return q, nil
}

// finishDirs sets the attributes of the directories that were filled.
func (c *copier) finishDirs(ctx context.Context) error {
	var parts [][]dirEnd
	for i := range c.scratch {
		w := &c.scratch[i]
		parts = slices.AppendSeq(parts, slices.Chunk(w.dirs, chunk))
		w.dirs = nil
	}
	return Each(ctx, c.workers, parts, func(worker int, part []dirEnd, _ func([]dirEnd)) error {
		for _, end := range part {
			if err := c.finishDir(&c.scratch[worker], end); err != nil {
				return &pathError{"/" + end.path.String(), err}
			}
		}
		return nil
	})
}

func (c *copier) finishDir(w *scratch, end dirEnd) error {
	fd, err := OpenDir(c.dest.root, end.path, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	e := end.entry
	if end.onlyMode {
		return unix.Fchmod(fd, e.Stat.Mode&0o7777)
	}
	if !end.onlyTimes && !end.plain {
		if err := c.setAttrs(w, fd, e); err != nil {
			return err
		}
	}
	return setTimesAt(fd, "", e.Stat.Mtime)
}

// setAttrs sets owner, mode and extended attributes of an open file or
// directory, in this order: chown takes set-id bits and capabilities away.
func (c *copier) setAttrs(w *scratch, fd int, e *Entry) error {
	o := c.plan.OwnerOf(e)
	if err := chownFD(fd, o); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, c.plan.Mode.Apply(e.Stat.Mode)); err != nil {
		return err
	}
	return c.setXattrs(w, fd, e)
}

func (c *copier) setXattrs(w *scratch, fd int, e *Entry) error {
	for _, x := range e.Xattrs {
		if err := w.lost(unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0)); err != nil {
			return fmt.Errorf("set %s: %w", x.Name, err)
		}
	}
	return nil
}

// lost counts an attribute that can't be set and lets other errors through.
func (w *scratch) lost(err error) error {
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		w.result.LostXattrs++
		return nil
	}
	return err
}

// links tells which names of one source are hard links of one file.
type links struct {
	first map[[2]uint64]*Entry // by device and inode, the entry that is copied
	mu    sync.Mutex
	path  map[[2]uint64]Name // where that was copied to
}

// find notes the first of the names of every file that has several.
func (l *links) find(d *Dir) {
	l.first, l.path = nil, nil
	if d != nil {
		l.add(d)
	}
}

func (l *links) add(d *Dir) {
	for _, e := range d.Entries {
		switch {
		case e.Dir != nil:
			l.add(e.Dir)
		case e.Stat.Nlinks > 1 && e.IsRegular():
			key := [2]uint64{e.Stat.Dev, e.Stat.Ino}
			if l.first == nil {
				l.first, l.path = map[[2]uint64]*Entry{}, map[[2]uint64]Name{}
			}
			if l.first[key] == nil {
				l.first[key] = e
			}
		}
	}
}

// stands tells whether another entry stands for e; if not, e is to be copied
// to path.
func (l *links) stands(e *Entry, path Name) bool {
	key := [2]uint64{e.Stat.Dev, e.Stat.Ino}
	first := l.first[key]
	if first == nil {
		return false
	}
	if first != e {
		return true
	}
	l.mu.Lock()
	l.path[key] = path
	l.mu.Unlock()
	return false
}

// hardlink is a name to be given to a file that was copied already.
type hardlink struct {
	dir, name Name
	entry     *Entry
}

// linkLater gives the further names of files that have several.
func (c *copier) linkLater() error {
	for i := range c.scratch {
		w := &c.scratch[i]
		for _, h := range w.later {
			if err := c.link(h); err != nil {
				return &pathError{"/" + h.dir.Join(h.name).String(), err}
			}
			w.result.Links++
		}
		w.later = nil
	}
	return nil
}

func (c *copier) link(h hardlink) error {
	old := c.links.path[[2]uint64{h.entry.Stat.Dev, h.entry.Stat.Ino}]
	oldDir, err := OpenDir(c.dest.root, MakeName(path.Dir(old.String())), unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(oldDir)
	dir, err := OpenDir(c.dest.root, h.dir, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return replacing(dir, h.name, func() error {
		return unix.Linkat(oldDir, path.Base(old.String()), dir, h.name.String(), 0)
	})
}

// add adds the counts of s.
func (r *Result) add(s Result) {
	r.Files += s.Files
	r.Bytes += s.Bytes
	r.Dirs += s.Dirs
	r.Links += s.Links
	r.Others += s.Others
	r.Unpacked += s.Unpacked
	r.LostXattrs += s.LostXattrs
	r.Changed = append(r.Changed, s.Changed...)
}

// sourceError is an error about the source tree.
type sourceError struct {
	path string
	err  error
}

func (e *sourceError) Error() string { return fmt.Sprintf("copy %q: %v", "/"+e.path, e.err) }
func (e *sourceError) Unwrap() error { return e.err }

// sourceError makes an error about a source; that it is gone or has become
// something else matches ErrChanged.
func (c *copier) sourceError(path string, err error) error {
	if Gone(err) {
		err = fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return &sourceError{path, err}
}

// umask returns this process's umask. umask(2) can't tell it without changing
// it for all threads.
func umask() uint32 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0o777 // unknown: every mode is then set explicitly
	}
	for line := range strings.Lines(string(b)) {
		var m uint32
		if n, _ := fmt.Sscanf(line, "Umask: %o", &m); n == 1 {
			return m
		}
	}
	return 0o777
}
