// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"builder/internal/filelock"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Has reports whether a blob is there with the size that its descriptor says.
func (s *Store) Has(desc ocispec.Descriptor) bool {
	if desc.Digest.Validate() != nil {
		return false
	}
	fi, err := os.Stat(s.blobPath(desc.Digest))
	return err == nil && fi.Size() == desc.Size
}

// OpenBlob opens a blob for reading. The reader fails with [ErrCorrupt] at the
// end if the bytes read from start to end don't have the digest, or are more
// or fewer than desc.Size. The error wraps [ErrNotFound] if there is none.
func (s *Store) OpenBlob(desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("open blob %q: %w", desc.Digest, err)
	}
	f, err := os.Open(s.blobPath(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	return &verifiedReader{f: f, desc: desc, verifier: desc.Digest.Verifier()}, nil
}

// OpenBlobFile opens a blob's file as it is, without verifying it: for readers
// that hash what they read themselves.
func (s *Store) OpenBlobFile(desc ocispec.Descriptor) (*os.File, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("open blob %q: %w", desc.Digest, err)
	}
	f, err := os.Open(s.blobPath(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, ErrNotFound)
	}
	return f, err
}

type verifiedReader struct {
	f        *os.File
	desc     ocispec.Descriptor
	verifier digest.Verifier
	n        int64
}

func (r *verifiedReader) Read(p []byte) (int, error) {
	n, err := r.f.Read(p)
	r.verifier.Write(p[:n])
	r.n += int64(n)
	if r.n > r.desc.Size {
		return 0, fmt.Errorf("blob %s is longer than %d bytes: %w", r.desc.Digest, r.desc.Size, ErrCorrupt)
	}
	if err == io.EOF {
		if r.n != r.desc.Size {
			return n, fmt.Errorf("blob %s has %d bytes, want %d: %w", r.desc.Digest, r.n, r.desc.Size, ErrCorrupt)
		}
		if !r.verifier.Verified() {
			return n, fmt.Errorf("blob %s does not have its digest: %w", r.desc.Digest, ErrCorrupt)
		}
	}
	return n, err
}

func (r *verifiedReader) Close() error { return r.f.Close() }

// ReadBlob returns a whole blob, verified. It refuses blobs of more than limit
// bytes.
func (s *Store) ReadBlob(desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fmt.Errorf("blob %s has %d bytes, at most %d are allowed here", desc.Digest, desc.Size, limit)
	}
	r, err := s.OpenBlob(desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return data, nil
}

// BlobWriter takes the bytes of a blob that is not in the store yet.
type BlobWriter struct {
	s        *Store
	f        *os.File
	digester digest.Digester
	n        int64
}

// NewBlob begins a blob. The caller ends it with [BlobWriter.Commit] or
// [BlobWriter.Abort].
func (s *Store) NewBlob() (*BlobWriter, error) {
	if err := s.Room(0); err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	dir, err := s.TempDir()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "blob"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	return &BlobWriter{s: s, f: f, digester: digest.SHA256.Digester()}, nil
}

// ResumeBlob begins a blob, or goes on with what has come of it: the bytes that
// are in [BlobWriter.File]. The caller holds the lock [ComingLock] of it. form
// tells apart what is not to be gone on with in the same way. To end it with
// [BlobWriter.Keep] leaves what has come for the next time, as a kill does;
// nobody has verified it.
func (s *Store) ResumeBlob(d digest.Digest, form string) (*BlobWriter, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("create blob %q: %w", d, err)
	}
	dir := s.Path("coming", d.Encoded())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, form), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	return &BlobWriter{s: s, f: f, digester: digest.SHA256.Digester()}, nil
}

// comingPrefix begins the names of the locks of blobs that are fetched.
const comingPrefix = "coming-"

// ComingLock is the lock of a blob that is fetched.
func ComingLock(d digest.Digest) string { return comingPrefix + d.Encoded() }

// comingKept is how long what came of a blob waits to be gone on with.
const comingKept = 24 * time.Hour

// reapComing removes what came of blobs that nobody has gone on with.
func (s *Store) reapComing(now time.Time) {
	entries, err := os.ReadDir(s.Path("coming"))
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := s.Path("coming", e.Name())
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		if slices.ContainsFunc(append(files, dir), func(name string) bool {
			fi, err := os.Stat(name)
			return err == nil && now.Sub(fi.ModTime()) < comingKept
		}) {
			continue
		}
		lock, err := filelock.TryAcquire(s.Path("locks", comingPrefix+e.Name()), filelock.Exclusive)
		if err != nil {
			continue
		}
		os.RemoveAll(dir)
		lock.ReleaseAndRemove()
	}
}

// Keep ends a blob of [Store.ResumeBlob] that is to be gone on with.
func (w *BlobWriter) Keep() { w.f.Close() }

// Write appends to the blob.
func (w *BlobWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.digester.Hash().Write(p[:n])
	w.n += int64(n)
	return n, err
}

// File is the blob's file, for writers that know digest and size by other
// means: they write to it directly and end with [BlobWriter.CommitFile].
func (w *BlobWriter) File() *os.File { return w.f }

// Commit ends the blob and puts it in the store. Where want has a digest, or a
// size above zero, the bytes must match: else nothing is stored and the error
// wraps [ErrCorrupt]. Committing a blob that is there already is no error.
func (w *BlobWriter) Commit(want ocispec.Descriptor) (ocispec.Descriptor, error) {
	got := want
	got.Digest, got.Size = w.digester.Digest(), w.n
	if want.Digest != "" && want.Digest != got.Digest {
		w.Abort()
		return got, fmt.Errorf("blob %s: the bytes have digest %s: %w", want.Digest, got.Digest, ErrCorrupt)
	}
	if want.Size > 0 && want.Size != got.Size {
		w.Abort()
		return got, fmt.Errorf("blob %s: %d bytes, want %d: %w", got.Digest, got.Size, want.Size, ErrCorrupt)
	}
	return got, w.CommitFile(got)
}

// CommitFile puts the blob's file in the store under desc.Digest, which the
// caller has computed from the very bytes written.
func (w *BlobWriter) CommitFile(desc ocispec.Descriptor) error {
	defer w.Abort()
	fi, err := w.f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != desc.Size {
		return fmt.Errorf("blob %s: file has %d bytes, want %d: %w", desc.Digest, fi.Size(), desc.Size, ErrCorrupt)
	}
	if err := os.Rename(w.f.Name(), w.s.blobPath(desc.Digest)); err != nil {
		return fmt.Errorf("commit blob %s: %w", desc.Digest, err)
	}
	return nil
}

// Abort drops the blob. After Commit it does nothing more.
func (w *BlobWriter) Abort() {
	w.f.Close()
	os.RemoveAll(filepath.Dir(w.f.Name()))
}

// PutBlob stores data and returns its descriptor.
func (s *Store) PutBlob(mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if s.Has(desc) {
		return desc, nil
	}
	w, err := s.NewBlob()
	if err != nil {
		return desc, err
	}
	if _, err := w.Write(data); err != nil {
		w.Abort()
		return desc, fmt.Errorf("write blob: %w", err)
	}
	return w.Commit(desc)
}

// sync flushes blobs to disk, so that a name written after it never refers to
// what a power cut took.
func (s *Store) sync(descs []ocispec.Descriptor) error {
	for _, d := range descs {
		f, err := s.OpenBlobFile(d)
		if err != nil {
			return err
		}
		err = f.Sync()
		f.Close()
		if err != nil {
			return fmt.Errorf("write blob %s to disk: %w", d.Digest, err)
		}
	}
	return nil
}
