// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Meter measures what files take on disk, as du does: blocks and not lengths,
// and each inode once, for the first that is measured.
type Meter struct {
	// Lengths has the lengths of files count, and directories take nothing: what docker
	// calls the size of a container.
	Lengths bool

	seen map[[2]uint64]bool
}

// Take returns how many bytes a file, or a directory with all in it, takes that
// were not taken before. What is not there, or goes away meanwhile, takes none.
func (m *Meter) Take(name string) (int64, error) {
	if m.seen == nil {
		m.seen = map[[2]uint64]bool{}
	}
	var size int64
	err := filepath.WalkDir(name, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if id := [2]uint64{uint64(st.Dev), st.Ino}; !m.seen[id] {
			m.seen[id] = true
			switch {
			case !m.Lengths:
				size += st.Blocks * 512
			case !e.IsDir():
				size += st.Size
			}
		}
		return nil
	})
	return size, err
}

// FreeSpace is how many bytes the file system of a directory has free.
func FreeSpace(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// touchEvery is how exact the times of last use are.
const touchEvery = time.Hour

// Touch notes in a file's modification time that it is being used, unless that
// says so since an hour. It is for the order in which unused things are thrown
// away: errors don't matter.
func Touch(name string) {
	now := time.Now()
	if fi, err := os.Lstat(name); err == nil && now.Sub(fi.ModTime()) > touchEvery {
		os.Chtimes(name, time.Time{}, now) //nolint:errcheck // see above
	}
}
