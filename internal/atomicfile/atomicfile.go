// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces files whole: a reader sees the old content or
// the new, never a part, whatever dies in between.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// TempPrefix begins the names of temporary files; the name of the file that is to
// be replaced follows. What a killed process leaves has such a name.
const TempPrefix = ".tmp-"

// Write replaces the file name by data. It writes a temporary file in the same
// directory and renames it; after a crash the name holds the old content or
// the new. Nothing is flushed to disk: after a power cut a file written this
// way may be empty or missing. See [WriteSync].
func Write(name string, data []byte, perm os.FileMode) error {
	return write(name, data, perm, false)
}

// WriteSync is [Write] that also survives a power cut: file and directory are
// on disk when it returns.
func WriteSync(name string, data []byte, perm os.FileMode) error {
	return write(name, data, perm, true)
}

// WriteMkdir is [Write] that makes the directory of name, with mode 0700, if it
// isn't there.
func WriteMkdir(name string, data []byte, perm os.FileMode) error {
	err := Write(name, data, perm)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return Write(name, data, perm)
}

func write(name string, data []byte, perm os.FileMode, sync bool) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), TempPrefix+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("replace %s: %w", name, err)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if sync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	return SyncDir(filepath.Dir(name))
}

// SyncDir flushes the entries of a directory to disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
