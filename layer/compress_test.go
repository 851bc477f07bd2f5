// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"builder/internal/testutil"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// sample is data of which about a half can be saved.
func sample(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	for i := range b {
		if i%1000 < 600 {
			b[i] = "abcdefgh"[b[i]&7]
		}
	}
	return b
}

func TestCompress(t *testing.T) {
	for _, size := range []int{0, 1, 1023, unitSize - 1, unitSize, unitSize + 1, zstdUnitSize, 9<<20 + 5} {
		data := sample(size)
		for _, opts := range []Options{plainTar, {}, {Level: 6}, {Level: StoreOnly}, {Compression: Zstd}, {Compression: Zstd, Level: 3}} {
			t.Run(fmt.Sprintf("%d-%s-%d", size, opts.Compression, opts.Level), func(t *testing.T) {
				var buf bytes.Buffer
				l, err := Compress(t.Context(), &buf, bytes.NewReader(data), opts)
				if err != nil {
					t.Fatal(err)
				}
				checkLayer(t, l, buf.Bytes())
				if l.Size != int64(size) {
					t.Errorf("size %d", l.Size)
				}
				// However the stream comes, the blob is the same.
				for _, procs := range []int{1, 2, 8} {
					old := runtime.GOMAXPROCS(procs)
					l2, err := Compress(t.Context(), io.Discard, iotest.HalfReader(bytes.NewReader(data)), opts)
					runtime.GOMAXPROCS(old)
					if err != nil || l2.Blob.Digest != l.Blob.Digest {
						t.Errorf("on %d cores: %s (%v), not %s", procs, l2.Blob.Digest, err, l.Blob.Digest)
					}
				}
			})
		}
	}
}

// TestGolden pins the bytes of blobs: what is remembered of them, and what
// registries hold, must not change with the compressors unnoticed. A new
// version of the library may change them; then say so in the change log.
func TestGolden(t *testing.T) {
	for _, tc := range []struct {
		opts Options
		want string
	}{
		{plainTar, "sha256:4d34f538a8d6e7beff35dbec16c8678f3b0ca72a1d48cc549126d4392eb9213f"},
		{Options{}, "sha256:d3a38c3d9b029691521ce2f1bb5918afb7412737c9751beaa1a25f8d9b1eb04c"},
		{Options{Level: 6}, "sha256:1443c1709e04418cdd6555717e8e590385e9b5dc906e55400b4826d7a293317b"},
		{Options{Compression: Zstd}, "sha256:2c3c6377bb698703ccae6fc90ed075b9a8e14c877f19326ce4c9afea9ce68402"},
	} {
		l, err := Compress(t.Context(), io.Discard, bytes.NewReader(sample(3<<20)), tc.opts)
		if err != nil {
			t.Fatal(err)
		}
		if string(l.Blob.Digest) != tc.want {
			t.Errorf("%+v: %s, want %s", tc.opts, l.Blob.Digest, tc.want)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, tc := range []struct {
		opts Options
		want string // the error, or the media type
	}{
		{Options{}, ocispec.MediaTypeImageLayerGzip},
		{Options{Compression: Gzip, Level: 9}, ocispec.MediaTypeImageLayerGzip},
		{Options{Compression: Zstd, Level: 22}, ocispec.MediaTypeImageLayerZstd},
		{Options{Compression: Uncompressed}, ocispec.MediaTypeImageLayer},
		{Options{Compression: "lz4"}, `unknown compression "lz4"`},
		{Options{Level: 10}, `compression level 10 of gzip is not within 0 to 9`},
		{Options{Level: StoreOnly}, ocispec.MediaTypeImageLayerGzip},
		{Options{Level: -2}, `compression level -2 of gzip is not within 0 to 9`},
		{Options{Compression: EStargz, Level: 10}, `compression level 10 of estargz is not within 0 to 9`},
		{Options{Compression: Zstd, Level: StoreOnly}, `compression level -1 of zstd is not within 0 to 22`},
		{Options{Compression: Zstd, Level: 23}, `compression level 23 of zstd is not within 0 to 22`},
		{Options{Compression: Uncompressed, Level: 1}, `compression level 1 of uncompressed is not within 0 to 0`},
	} {
		l, err := Compress(t.Context(), io.Discard, strings.NewReader("x"), tc.opts)
		if got := errorText(err) + l.Blob.MediaType; got != tc.want {
			t.Errorf("%+v: %s, want %s", tc.opts, got, tc.want)
		}
	}
}

// TestGzipIsOneMember makes sure of what simple readers rely on.
func TestGzipIsOneMember(t *testing.T) {
	var buf bytes.Buffer
	data := sample(3<<20 + 1)
	if _, err := Compress(t.Context(), &buf, bytes.NewReader(data), Options{}); err != nil {
		t.Fatal(err)
	}
	if want := "\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"; !strings.HasPrefix(buf.String(), want) {
		t.Errorf("header %q", buf.String()[:10])
	}
	zr, err := gzip.NewReader(&buf)
	if err != nil {
		t.Fatal(err)
	}
	zr.Multistream(false)
	got, err := io.ReadAll(zr)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d (%v)", len(got), len(data), err)
	}
	if buf.Len() != 0 {
		t.Errorf("%d bytes after the member", buf.Len())
	}
}

func TestCompressFails(t *testing.T) {
	before := runtime.NumGoroutine()
	data := sample(40 << 20)
	broken := errors.New("broken")
	if _, err := Compress(t.Context(), io.Discard, io.MultiReader(bytes.NewReader(data[:5<<20]), iotest.ErrReader(broken)), Options{}); !errors.Is(err, broken) {
		t.Errorf("reader: %v", err)
	}
	if _, err := Compress(t.Context(), &failing{3, broken}, bytes.NewReader(data), Options{}); !errors.Is(err, broken) {
		t.Errorf("writer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Compress(ctx, &changer{cancel}, bytes.NewReader(data), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	settled(t, before)
}

func TestDecompress(t *testing.T) {
	testutil.Require(t, "gzip", "bzip2", "xz", "zstd")
	data := sample(300000)
	file := t.TempDir() + "/data"
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	pack := func(args ...string) []byte {
		out, err := exec.Command(args[0], append(args[1:], file)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	gz, bz, xz, zst := pack("gzip", "-c"), pack("bzip2", "-c"), pack("xz", "-c"), pack("zstd", "-qc")
	skippable := append([]byte("\x5e\x2a\x4d\x18\x03\x00\x00\x00abc"), zst...)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, tc := range []struct {
		name string
		in   []byte
		kind string
		want []byte
		err  string
	}{
		{"plain", data, "uncompressed", data, ""},
		{"empty", nil, "uncompressed", nil, ""},
		{"one byte", []byte{0x1f}, "uncompressed", []byte{0x1f}, ""},
		{"gzip", gz, "gzip", data, ""},
		{"two members", join(gz, gz), "gzip", join(data, data), ""},
		{"bzip2", bz, "bzip2", data, ""},
		{"xz", xz, "xz", data, ""},
		{"zstd", zst, "zstd", data, ""},
		{"two frames", join(zst, zst), "zstd", join(data, data), ""},
		{"skippable frame", skippable, "zstd", data, ""},
		{"gzip, cut", gz[:len(gz)-9], "gzip", data, "decompress gzip: unexpected EOF"},
		{"gzip, cut in its header", gz[:8], "gzip", nil, "decompress gzip: unexpected EOF"},
		{"gzip, garbage after it", join(gz, []byte("some garbage")), "gzip", data, "decompress gzip: invalid gzip header"},
		{"gzip, wrong checksum", join(gz[:len(gz)-8], []byte("12345678")), "gzip", data, "decompress gzip: wrong gzip checksum"},
		{"zstd, cut", zst[:len(zst)-9], "zstd", nil, "decompress zstd: unexpected EOF"},
		{"zstd, window of 2 GiB", []byte("\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00"), "zstd", nil, "decompress zstd: window size exceeded"},
		{"bzip2, cut", bz[:len(bz)-9], "bzip2", nil, "decompress bzip2: unexpected EOF"},
		{"xz, cut", xz[:len(xz)-9], "xz", data, "decompress xz: unexpected EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, kind, err := Decompress(iotest.HalfReader(bytes.NewReader(tc.in)))
			var got []byte
			if err == nil {
				got, err = io.ReadAll(r)
				r.Close()
			}
			if kind != tc.kind || !strings.HasPrefix(errorText(err), tc.err) || tc.err == "" && err != nil {
				t.Errorf("%s, %v; want %s, %s", kind, err, tc.kind, tc.err)
			}
			if tc.err == "" && !bytes.Equal(got, tc.want) {
				t.Errorf("%d bytes, want %d", len(got), len(tc.want))
			}
		})
	}
	broken := errors.New("broken")
	if _, _, err := Decompress(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("broken reader: %v", err)
	}
}

// FuzzDecompress makes sure that no stream brings a decoder down, and that
// what ends without an error is right: it can be compressed and read again.
func FuzzDecompress(f *testing.F) {
	data := []byte(strings.Repeat("some text, ", 50))
	for _, c := range []Compression{Uncompressed, Gzip, Zstd} {
		var buf bytes.Buffer
		if _, err := Compress(f.Context(), &buf, bytes.NewReader(data), Options{Compression: c}); err != nil {
			f.Fatal(err)
		}
		f.Add(buf.Bytes())
	}
	f.Add([]byte("BZh91AY&SY\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00"))
	f.Add([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x00\x00\x00\x00\x1c\xdfD!\x1f\xb6\xf3}\x01\x00\x00\x00\x00\x04YZ"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, kind, err := Decompress(bytes.NewReader(in))
		if err != nil {
			return
		}
		defer r.Close()
		out, err := io.ReadAll(io.LimitReader(r, 8<<20))
		if kind == string(Uncompressed) && !bytes.Equal(out, in) {
			t.Error("a plain stream was changed")
		}
		if err != nil && !strings.HasPrefix(err.Error(), "decompress "+kind+": ") {
			t.Errorf("error without a name: %v", err)
		}
	})
}

// TestZstdLevel compares the levels that keys tell apart with the library's.
func TestZstdLevel(t *testing.T) {
	for level := range 24 {
		if got, want := zstdLevel(level), int(zstd.EncoderLevelFromZstd(level)); got != want {
			t.Errorf("level %d is %d, want %d", level, got, want)
		}
	}
}
