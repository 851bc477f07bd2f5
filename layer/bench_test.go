// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// smallFiles makes n files of a few kilobytes in directories of a hundred,
// some 100 MB for 50,000 of them.
func smallFiles(b *testing.B, n int) tree {
	b.Helper()
	r := newTree(b)
	text := sample(1 << 20)
	for i := range n {
		dir := fmt.Sprintf("dir%d", i/100)
		if i%100 == 0 {
			r.mkdir(dir, 0o755)
		}
		at := i * 997 % (len(text) - 4200)
		r.must(os.WriteFile(fmt.Sprintf("%s/%s/file-%d.go", r.dir, dir, i), text[at:at+100+i*7%4000], 0o644))
	}
	return r
}

func bigFile(b *testing.B, size int) tree {
	b.Helper()
	return newTree(b).file("big", string(sample(size)), 0o644)
}

func BenchmarkDiff(b *testing.B) {
	for _, work := range []struct {
		name string
		tree tree
	}{
		{"small=10000", smallFiles(b, 10000)},
		{"big=100MB", bigFile(b, 100<<20)},
	} {
		for _, opts := range []Options{plainTar, {}, {Level: 6}, {Compression: Zstd}} {
			b.Run(fmt.Sprintf("%s/%s-%d", work.name, or(string(opts.Compression), "gzip"), opts.Level), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					l, err := Diff(b.Context(), io.Discard, Upper{Dir: work.tree.dir}, opts)
					if err != nil {
						b.Fatal(err)
					}
					b.SetBytes(l.Size)
				}
			})
		}
	}
}

func BenchmarkApply(b *testing.B) {
	for _, work := range []struct {
		name string
		tree tree
	}{
		{"small=10000", smallFiles(b, 10000)},
		{"big=100MB", bigFile(b, 100<<20)},
	} {
		for _, c := range []Compression{Uncompressed, Gzip, Zstd} {
			var blob bytes.Buffer
			l, err := WriteTree(b.Context(), &blob, work.tree.open(), Options{Compression: c})
			if err != nil {
				b.Fatal(err)
			}
			b.Run(work.name+"/"+string(c), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(l.Size)
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					to := tree{b, b.TempDir()}
					dir := to.open()
					b.StartTimer()
					r, _, err := Decompress(bytes.NewReader(blob.Bytes()))
					if err != nil {
						b.Fatal(err)
					}
					a, err := Apply(b.Context(), dir, r, ApplyOptions{})
					if err != nil {
						b.Fatal(err)
					}
					if a.DiffID != l.DiffID {
						b.Fatal("unpacked something else")
					}
				}
			})
		}
	}
}

func BenchmarkCompress(b *testing.B) {
	data := sample(64 << 20)
	for _, opts := range []Options{plainTar, {}, {Level: 6}, {Compression: Zstd}, {Compression: Zstd, Level: 3}} {
		b.Run(fmt.Sprintf("%s-%d", or(string(opts.Compression), "gzip"), opts.Level), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := Compress(b.Context(), io.Discard, bytes.NewReader(data), opts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHeader(b *testing.B) {
	h := header{name: "usr/share/doc/" + strings.Repeat("x", 40), typeflag: typeReg, mode: 0o644, size: 12345, mtime: clock}
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := appendHeader(buf[:0], &h); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecompress(b *testing.B) {
	data := sample(64 << 20)
	for _, opts := range []Options{{}, {Level: 6}, {Compression: Zstd}} {
		var blob bytes.Buffer
		if _, err := Compress(b.Context(), &blob, bytes.NewReader(data), opts); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%s-%d", or(string(opts.Compression), "gzip"), opts.Level), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r, _, err := Decompress(bytes.NewReader(blob.Bytes()))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, r); err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	}
}
