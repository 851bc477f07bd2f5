// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// sampleTar is a tar of files of several sizes, with the blocks of zeros that
// many programs put at its end.
func sampleTar(t *testing.T, extra ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	at := time.Unix(1700000000, 0)
	headers := []tar.Header{
		{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "dir/big", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 5 << 20},
		{Name: "dir/empty", Typeflag: tar.TypeReg, Mode: 0o600},
		{Name: "dir/link", Typeflag: tar.TypeSymlink, Linkname: "big"},
		{Name: "hard", Typeflag: tar.TypeLink, Linkname: "dir/big"},
	}
	for _, h := range append(headers, extra...) {
		h.ModTime = at
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		tw.Write(sample(int(h.Size)))
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	buf.Write(make([]byte, 10<<10))
	return buf.Bytes()
}

func TestEStargz(t *testing.T) {
	data := sampleTar(t)
	for _, level := range []int{0, StoreOnly, 9} {
		opts := Options{Compression: EStargz, Level: level}
		var buf bytes.Buffer
		l, err := Compress(t.Context(), &buf, bytes.NewReader(data), opts)
		if err != nil {
			t.Fatal(err)
		}
		checkLayer(t, l, buf.Bytes())
		checkEStargz(t, l, buf.Bytes(), data)
		for _, procs := range []int{1, 3} {
			old := runtime.GOMAXPROCS(procs)
			again, err := Compress(t.Context(), io.Discard, iotest.HalfReader(bytes.NewReader(data)), opts)
			runtime.GOMAXPROCS(old)
			if err != nil || again.Blob.Digest != l.Blob.Digest {
				t.Errorf("level %d on %d cores: %s (%v), not %s", level, procs, again.Blob.Digest, err, l.Blob.Digest)
			}
		}
	}
}

// checkEStargz has the format's own library read a blob.
func checkEStargz(t *testing.T, l Layer, blob, plain []byte) {
	t.Helper()
	r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))))
	if err != nil {
		t.Fatal(err)
	}
	toc := digest.Digest(l.Blob.Annotations[estargz.TOCJSONDigestAnnotation])
	if _, err := r.VerifyTOC(toc); err != nil {
		t.Errorf("table of contents: %v", err)
	}
	if size := l.Blob.Annotations[estargz.StoreUncompressedSizeAnnotation]; size != strconv.FormatInt(l.Size, 10) {
		t.Errorf("annotation says %s bytes, the layer %d", size, l.Size)
	}
	f, err := r.OpenFile("dir/big")
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5<<20)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, sample(5<<20)) {
		t.Errorf("file read from the blob differs (%v)", err)
	}
	// Without the table it is the tar that it was made of.
	end := EStargzSize(bytes.NewReader(blob), int64(len(blob)))
	rest, _, err := Decompress(bytes.NewReader(blob[:end]))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(rest); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("tar before the table: %d bytes (%v), want the %d it was made of", len(got), err, len(plain))
	}
}

func TestEStargzFails(t *testing.T) {
	data := sampleTar(t, tar.Header{Name: "stargz.index.json", Typeflag: tar.TypeReg})
	opts := Options{Compression: EStargz}
	if _, err := Compress(t.Context(), io.Discard, bytes.NewReader(data), opts); err == nil || !strings.Contains(err.Error(), "TOC") {
		t.Errorf("a file of the table's name: %v", err)
	}
	if _, err := Compress(t.Context(), io.Discard, iotest.TimeoutReader(bytes.NewReader(data)), opts); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("a source that fails: %v", err)
	}
	if _, err := Compress(t.Context(), failingWriter{}, bytes.NewReader(data), opts); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a destination that fails: %v", err)
	}
	for _, blob := range [][]byte{nil, data[:20], data} {
		if n := EStargzSize(bytes.NewReader(blob), int64(len(blob))); n != 0 {
			t.Errorf("%d bytes that are no eStargz: table at %d", len(blob), n)
		}
	}
}

func TestKey(t *testing.T) {
	at := time.Unix(5, 0)
	seen := map[string]Options{}
	for _, o := range []Options{
		{}, {Level: 2}, {Level: StoreOnly}, {Compression: EStargz}, {Compression: Zstd}, {Compression: Zstd, Level: 3}, plainTar,
		{Epoch: &at}, {Time: &at},
	} {
		if old, ok := seen[o.Key()]; ok {
			t.Errorf("%+v and %+v have the key %s", old, o, o.Key())
		}
		seen[o.Key()] = o
	}
	for _, same := range [][2]Options{
		{{}, {Compression: Gzip, Level: 1}}, {{Compression: Zstd}, {Compression: Zstd, Level: 2}}, {{}, {Live: true, Points: []string{"etc/hosts"}}},
	} {
		a, b := same[0], same[1]
		if a.Key() != b.Key() {
			t.Errorf("%+v: key %s, %+v: key %s", a, a.Key(), b, b.Key())
		}
	}
}

// failingWriter is a full disk.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no room") }
