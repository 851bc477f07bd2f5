// SPDX-License-Identifier: Apache-2.0

// Package buildcontext reads what COPY, ADD and bind mounts take files from: a
// directory of the user's less what .dockerignore excludes, or the root of a
// stage or an image.
//
// A [Tree] is such a source. [Tree.Select] finds the entries that the sources
// of an instruction name, [Selection.Digest] tells their content (the step's
// key), and [Selection.Copy] writes them below the root of a container. Only
// directories that a selection needs are walked. The digests of file contents
// are remembered in an index file between builds, so that a build in which
// nothing changed costs one look at each file's inode and reads none.
//
// A tree is looked at once: what a Select has seen, later ones use too, so
// that all instructions of a build see one state. What changes meanwhile is
// noticed when the bytes are copied.
//
// Selecting and copying behave as BuildKit does, including what looks odd; the
// comments name the place where something is not obvious. The trees are
// treated as hostile: no symbolic link is followed out of one, and a tree that
// is changed while it is read can't make the package read or write elsewhere.
package buildcontext

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"builder/internal/copytree"
	"builder/internal/sys"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Options of a tree.
type Options struct {
	// Ignore holds the patterns of .dockerignore, as [ReadIgnore] returns
	// them. What they match is not there.
	Ignore []string
	// IgnoreLines are their lines in IgnoreFile; nil if unknown.
	IgnoreLines []int
	// IgnoreFile names where Ignore was read from, for error messages.
	IgnoreFile string
	// Index is a file that keeps the content digests of this tree between
	// builds; "" for none. It is made when it is missing, and ignored when
	// it is damaged or another tree's. Its directory must exist.
	Index string
	// KeepOwner keeps the owners of the files, where an instruction sets
	// none, and their extended attributes, as for stages and images.
	// Otherwise all is 0:0 and without attributes, as for a directory of the
	// user's, of which BuildKit too takes neither.
	KeepOwner bool
}

// SetIgnore takes the patterns of a file.
func (o *Options) SetIgnore(f IgnoreFile) {
	o.Ignore, o.IgnoreLines, o.IgnoreFile = f.Patterns, f.Lines, f.Name
}

// Tree is a read-only tree of files: a directory less what the ignore patterns
// exclude. Its methods may be called concurrently. The zero Tree has no files:
// of it only a request's inline files can be selected.
type Tree struct {
	opts   Options
	root   *os.File
	ignore *matcher

	mu       sync.Mutex // guards all below, nodes and entries included
	top      *node
	old      *index // what the last build knew; nil if nothing
	taken    copytree.Time
	remote   map[uint64]bool          // devices whose clock or time stamps may be coarse
	unstable map[*copytree.Entry]bool // files that changed while they were hashed
	dirty    bool                     // the index file doesn't say what is known now
	stats    Stats
	users    int       // besides the one who opened it
	idle     []*walker // between walks
}

// Stats count what was done for a tree so far.
type Stats struct {
	Statted     int64 // inodes looked at
	Listed      int64 // directories read, the others' names were remembered
	Remembered  int64 // regular files whose digest was taken from the index
	Hashed      int64 // regular files read to learn their digest
	HashedBytes int64 // bytes of these
}

// Open opens the directory dir, which may be a symbolic link, as a tree. The
// caller closes it.
func Open(dir string, opts Options) (*Tree, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open build context %q: %w", dir, err)
	}
	root := os.NewFile(uintptr(fd), dir)
	t, err := newTree(root, opts)
	if err != nil {
		root.Close()
		return nil, err
	}
	return t, nil
}

// OpenFile takes an open directory, such as a detached mount of a stage, as a
// tree. The tree has its own descriptor of it: root stays the caller's.
func OpenFile(root *os.File, opts Options) (*Tree, error) {
	dir, err := sys.OpenInRoot(root, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open tree %q: %w", root.Name(), err)
	}
	t, err := newTree(dir, opts)
	if err != nil {
		dir.Close()
		return nil, err
	}
	return t, nil
}

func newTree(root *os.File, opts Options) (*Tree, error) {
	ignore, err := newMatcher(opts.Ignore)
	if err != nil {
		return nil, fmt.Errorf("ignore patterns of %q: %w", opts.IgnoreFile, err)
	}
	t := &Tree{opts: opts, root: root, ignore: ignore, remote: map[uint64]bool{}}
	if opts.Index != "" {
		t.old = readIndex(opts.Index)
	}
	if err := t.start(); err != nil {
		return nil, err
	}
	return t, nil
}

// Share gives the tree to one more user, who closes it too. The tree must not
// have been closed by all.
func (t *Tree) Share() *Tree {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users++
	return t
}

// Close ends one user's use. The last one's saves the index if there is
// something new in it and closes the tree. A save that fails is reported; the
// old index then stays as it was.
func (t *Tree) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users > 0 {
		t.users--
		return nil
	}
	if t.root == nil {
		return nil
	}
	err := t.saveIndex()
	t.root.Close()
	t.root = nil
	return err
}

// Forget drops what earlier selections saw, so that the next one looks at the
// tree again. Digests of files that did not change are kept.
func (t *Tree) Forget() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.keepIndex(); err != nil {
		return err
	}
	return t.start()
}

// Stats returns the counts so far.
func (t *Tree) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stats
}

// Open opens a regular file of the tree for reading, whether or not it is
// ignored: the Dockerfile usually is. Symbolic links are followed within the
// tree. Anything but a regular file is an error, and is not opened: the tree of an
// archive may have devices.
func (t *Tree) Open(name string) (*os.File, error) {
	f, err := t.openFile(name)
	if err != nil {
		return nil, fmt.Errorf("open %q in the build context: %w", name, unwrapPath(err))
	}
	return f, nil
}

func (t *Tree) openFile(name string) (*os.File, error) {
	place, err := sys.OpenInRoot(t.root, name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	fi, err := place.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return os.Open(sys.FDPath(place))
}

// Owner is a numeric user and group.
type Owner = copytree.Owner

// Inline is a file that the instruction itself holds: COPY <<name.
type Inline struct {
	Name string // base name
	Data []byte
}

// Request is a COPY or ADD of local files. Every field counts for the digest.
type Request struct {
	// Sources are relative to the tree, as written after expansion. They
	// may have wildcards of filepath.Match; ".." never leaves the tree.
	Sources []string
	// Inline files follow the sources. They have mode 0644 unless Mode is
	// given, and the owner 0:0 unless Owner is.
	Inline []Inline
	// Dest is an absolute path in the container. A trailing slash (or
	// "/.") says that it is a directory.
	Dest string
	// Exclude are the patterns of --exclude, relative to each source.
	Exclude []string
	// Parents keeps the directories above a source, or those after "/./"
	// in it, below Dest. Then "**" may be used in sources.
	Parents bool
	// Owner is --chown; nil: see [Options.KeepOwner].
	Owner *Owner
	// Mode is --chmod: octal, or symbolic as "u=rwX,go=rX"; "" keeps modes.
	Mode string
	// Unpack extracts sources that are tar archives, plain or compressed
	// with gzip, bzip2, xz or zstd, instead of copying them (ADD).
	Unpack bool
}

// CheckMode tells what is wrong with a [Request]'s Mode.
func CheckMode(mode string) error {
	_, err := copytree.ParseMode(mode)
	return err
}

// Selection is what a [Request] selected. Its methods must not be called
// concurrently.
type Selection struct {
	tree    *Tree
	plan    copytree.Plan
	modeStr string
	changed map[*copytree.Entry][32]byte // bytes that were copied, where they differ
	sum     digest.Digest                // "" if not computed
}

// CopyOptions of [Selection.Copy].
type CopyOptions struct {
	// Epoch is the time of directories that are made for the destination
	// and of inline files; nil: the time of copying.
	Epoch *time.Time
	// Workers is the number of files copied at once; 0 chooses.
	Workers int
}

// Result tells what [Selection.Copy] did.
type Result = copytree.Result

// Copy writes the selection below root, the root of a container, as if root
// were "/": no symbolic link in it leads out. The tree below root must not be
// changed by others meanwhile.
//
// Each file is compared, when it was read, with what the digest was computed
// from. If it was changed meanwhile, Result.Changed names it, and Digest
// afterwards returns the digest of what was written, which is then the key of
// the result. A source that is gone or has become something else is an error
// that matches [ErrChanged]. After an error root holds part of the selection.
func (s *Selection) Copy(ctx context.Context, root *os.File, opts CopyOptions) (Result, error) {
	if _, err := s.Digest(ctx); err != nil {
		return Result{}, err
	}
	res, err := copytree.Copy(ctx, root, &s.plan, copytree.Options{
		Epoch:      opts.Epoch,
		Workers:    opts.Workers,
		Decompress: decompress,
	})
	for _, c := range res.Changed {
		if s.changed == nil {
			s.changed = map[*copytree.Entry][32]byte{}
		}
		s.changed[c.Entry] = c.Digest
		s.sum = ""
	}
	return res, err
}

// File is the base name of the file that alone is selected, "" if it is a
// directory, several things or nothing.
func (s *Selection) File() string {
	if len(s.plan.Sources) != 1 || s.plan.Sources[0].IsDir() {
		return ""
	}
	return s.plan.Sources[0].Name
}

// ErrChanged is matched by the error for a source that was removed or replaced
// after it was selected. Selecting again, after [Tree.Forget], may do.
var ErrChanged = copytree.ErrChanged

// NotFoundError is the error for a source that is not there. It matches
// [fs.ErrNotExist].
type NotFoundError struct {
	Path    string // as "/dir/file"
	Pattern string // the ignore pattern that excludes it; "" if it really isn't there
	File    string // where Pattern is written
	Line    int    // in File; 0 if unknown
}

// Error says what is missing and, if an ignore pattern is the cause, which.
func (e *NotFoundError) Error() string {
	if e.Pattern == "" {
		return fmt.Sprintf("%q: not found", e.Path)
	}
	file := e.File
	if file == "" {
		file = ".dockerignore"
	}
	if e.Line > 0 {
		file = fmt.Sprintf("%s:%d", file, e.Line)
	}
	return fmt.Sprintf("%q: not found: it is excluded by %q in %s", e.Path, e.Pattern, file)
}

// Is makes errors.Is(err, fs.ErrNotExist) true.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// unwrapPath drops the path of a path error: the caller names it better.
func unwrapPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
