// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"testing"

	"builder/layer"
	"builder/store"
)

// addLayer stores a layer of one file.
func addLayer(t *testing.T, s *store.Store, opts layer.Options) layer.Layer {
	t.Helper()
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	data := bytes.Repeat([]byte("some bytes\n"), 10000)
	if err := tw.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	tw.Write(data)
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	w, err := s.NewBlob()
	if err != nil {
		t.Fatal(err)
	}
	l, err := layer.Compress(t.Context(), w.File(), &plain, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.CommitFile(l.Blob); err != nil {
		t.Fatal(err)
	}
	return l
}

func open(t *testing.T) (*store.Store, *RootFS) {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r, err := Open(s)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

func TestConvert(t *testing.T) {
	s, r := open(t)
	all := []layer.Compression{layer.Uncompressed, layer.Gzip, layer.Zstd, layer.EStargz}
	for _, from := range all {
		l := addLayer(t, s, layer.Options{Compression: from})
		for _, to := range all {
			opts := layer.Options{Compression: to}
			got, err := r.Convert(t.Context(), l.Blob, l.DiffID, opts)
			if err != nil {
				t.Errorf("%s to %s: %v", from, to, err)
				continue
			}
			if kept := got.Blob.Digest == l.Blob.Digest; kept != (from == to) {
				t.Errorf("%s to %s: kept %t", from, to, kept)
			}
			// What is made is what would have been made of the tar.
			if want := addLayer(t, s, opts); got.Blob.Digest != want.Blob.Digest || got.DiffID != want.DiffID {
				t.Errorf("%s to %s: blob %s of %s, want %s of %s", from, to, got.Blob.Digest, got.DiffID, want.Blob.Digest, want.DiffID)
			}
		}
	}
}

func TestConvertOnce(t *testing.T) {
	s, r := open(t)
	l := addLayer(t, s, layer.Options{})
	opts := layer.Options{Compression: layer.Zstd}
	first, err := r.Convert(t.Context(), l.Blob, l.DiffID, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path("blobs", "sha256", l.Blob.Digest.Encoded()), make([]byte, l.Blob.Size), 0o600); err != nil {
		t.Fatal(err)
	}
	// The source isn't read again: it has other bytes now.
	if again, err := r.Convert(t.Context(), l.Blob, l.DiffID, opts); err != nil || again.Blob.Digest != first.Blob.Digest {
		t.Errorf("converted to %s, then to %s (%v)", first.Blob.Digest, again.Blob.Digest, err)
	}
	if err := s.Exclusive(0, func() error { _, err := r.Collect(t.Context(), nil); return err }); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(s.Path("converted")); err != nil || len(left) != 0 {
		t.Errorf("left of a conversion whose blob was collected: %v (%v)", left, err)
	}
}

func TestConvertFails(t *testing.T) {
	s, r := open(t)
	l := addLayer(t, s, layer.Options{})
	opts := layer.Options{Compression: layer.Zstd}
	other := addLayer(t, s, layer.Options{Compression: layer.EStargz})
	if _, err := r.Convert(t.Context(), l.Blob, other.DiffID, opts); err == nil {
		t.Error("another diffID was not noticed")
	}
	path := s.Path("blobs", "sha256", l.Blob.Digest.Encoded())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1}, 4); err != nil { // the time in gzip's header, which nobody reads
		t.Fatal(err)
	}
	if _, err := r.Convert(t.Context(), l.Blob, l.DiffID, opts); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("damaged blob: %v", err)
	}
	if _, err := r.Convert(t.Context(), other.Blob, other.DiffID, layer.Options{Compression: "lz4"}); err == nil {
		t.Error("unknown compression was not noticed")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Convert(t.Context(), l.Blob, l.DiffID, opts); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("missing blob: %v", err)
	}
}
