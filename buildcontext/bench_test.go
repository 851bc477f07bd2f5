// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// makeTree makes a tree of n files of about 2 KB in directories of ten.
func makeTree(tb testing.TB, n int) string {
	tb.Helper()
	root := tb.TempDir()
	data := make([]byte, 4000)
	for i := range data {
		data[i] = byte(i * 7)
	}
	for i := range n {
		dir := filepath.Join(root, fmt.Sprintf("d%d", i/500), fmt.Sprintf("sub%d", i/10%50))
		if i%10 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				tb.Fatal(err)
			}
		}
		data[0], data[1] = byte(i), byte(i>>8)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%d.go", i)), data[:100+i*37%3900], 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return root
}

// digestAll opens the tree, selects all and returns its digest and counts.
func digestAll(tb testing.TB, root string, opts Options) (string, Stats) {
	tb.Helper()
	tree, err := Open(root, opts)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := tree.Select(tb.Context(), Request{Sources: []string{"."}, Dest: "/x/"})
	if err != nil {
		tb.Fatal(err)
	}
	d, err := s.Digest(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	stats := tree.Stats()
	if err := tree.Close(); err != nil {
		tb.Fatal(err)
	}
	return d.String(), stats
}

func BenchmarkContextCold(b *testing.B) {
	root := makeTree(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		digestAll(b, root, Options{})
	}
}

func BenchmarkContextUnchanged(b *testing.B) {
	for _, n := range []int{10_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			root := makeTree(b, n)
			index := filepath.Join(b.TempDir(), "index")
			age(b)
			digestAll(b, root, Options{Index: index})
			b.ReportAllocs()
			for b.Loop() {
				_, stats := digestAll(b, root, Options{Index: index})
				if stats.Hashed != 0 || stats.Listed != 0 {
					b.Fatalf("%+v", stats)
				}
			}
		})
	}
}

func BenchmarkCopy(b *testing.B) {
	root := makeTree(b, 10_000)
	tree, err := Open(root, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer tree.Close()
	s, err := tree.Select(b.Context(), Request{Sources: []string{"."}, Dest: "/x/"})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Digest(b.Context()); err != nil {
		b.Fatal(err)
	}
	out := b.TempDir()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		dir := filepath.Join(out, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		f, err := os.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Copy(b.Context(), f, CopyOptions{}); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
