// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"builder/image"
	"builder/layer"
	"builder/store"

	"github.com/opencontainers/go-digest"
)

// tarOf makes a tar of lines: "d DIR", "f FILE DATA", "l LINK TARGET", "h LINK
// TARGET", "m FILE DATA" with another mode, "t FILE DATA" with another time,
// "x FILE DATA" with an extended attribute.
func tarOf(t testing.TB, lines ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, line := range lines {
		f := append(strings.SplitN(line, " ", 3), "")
		h := tar.Header{Name: f[1], Mode: 0o644, Typeflag: tar.TypeReg, ModTime: time.Unix(1700000000, 0)}
		data := f[2]
		switch f[0] {
		case "d":
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case "l":
			h.Typeflag, h.Linkname, data = tar.TypeSymlink, data, ""
		case "h":
			h.Typeflag, h.Linkname, data = tar.TypeLink, data, ""
		case "m":
			h.Mode = 0o600
		case "t":
			h.ModTime = time.Unix(1800000000, 0)
		case "x":
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"}
		}
		h.Size = int64(len(data))
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		tw.Write([]byte(data))
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// imageOf makes an image of tars.
func imageOf(t testing.TB, s *store.Store, tars ...[]byte) image.Image {
	t.Helper()
	var img image.Image
	for i, data := range tars {
		w, err := s.NewBlob()
		if err != nil {
			t.Fatal(err)
		}
		l, err := layer.Compress(context.Background(), w.File(), bytes.NewReader(data), layer.Options{Compression: []layer.Compression{layer.Gzip, layer.Zstd}[i%2]})
		if err == nil {
			err = w.CommitFile(l.Blob)
		}
		if err != nil {
			t.Fatal(err)
		}
		img.Manifest.Layers = append(img.Manifest.Layers, l.Blob)
		img.Config.RootFS.DiffIDs = append(img.Config.RootFS.DiffIDs, l.DiffID)
	}
	return img
}

func TestDiff(t *testing.T) {
	s, _ := open(t)
	base := tarOf(t, "d etc", "f etc/a one", "f etc/b two", "d lib", "d lib/x", "f lib/x/y z", "l link etc", "h etc/hard etc/a")
	from := imageOf(t, s, base)
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"nothing", nil, ""},
		{"same again", []string{"d etc", "f etc/a one", "l link etc"}, ""},
		{"contents alone", []string{"f etc/a ONE"}, "C /etc C /etc/a"},
		{"mode", []string{"m etc/a one"}, "C /etc C /etc/a"},
		{"time", []string{"t etc/a one"}, "C /etc C /etc/a"},
		{"attribute", []string{"x etc/a one"}, "C /etc C /etc/a"},
		{"new tree", []string{"d new", "d new/d", "f new/d/f 1"}, "A /new A /new/d A /new/d/f"},
		{"directory without an entry", []string{"f lib/q/f 1"}, "C /lib A /lib/q A /lib/q/f"},
		{"whiteout of a file", []string{"f etc/.wh.a "}, "C /etc D /etc/a"},
		{"whiteout of a tree", []string{"f .wh.lib "}, "D /lib"},
		{"whiteout of nothing", []string{"f .wh.none "}, ""},
		{"whiteout after the new file", []string{"f etc/a ONE", "f etc/.wh.a "}, "C /etc C /etc/a"},
		{"opaque", []string{"d etc", "f etc/.wh..wh..opq ", "f etc/b two"}, "C /etc D /etc/a D /etc/hard"},
		{"opaque root", []string{"f new 1", "f .wh..wh..opq "}, "D /etc D /lib D /link A /new"},
		{"file for a directory", []string{"f lib 1"}, "C /lib"},
		{"directory for a file", []string{"d etc/a", "f etc/a/b 1"}, "C /etc C /etc/a A /etc/a/b"},
		{"link target", []string{"l link lib"}, "C /link"},
		{"link of a lower layer is hidden", []string{"f link/a 1"}, "C /link A /link/a"},
		{"link of this layer is followed", []string{"l go lib/x", "f go/new 1"}, "A /go C /lib C /lib/x A /lib/x/new"},
		{"link out of the root stays in it", []string{"l go ../../../etc", "f go/new 1"}, "C /etc A /etc/new A /go"},
		{"name out of the root stays in it", []string{"f ../../new 1"}, "A /new"},
		{"hard link to a lower file", []string{"h lib/b etc/b"}, "C /lib A /lib/b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changes, err := Diff(t.Context(), s, from, imageOf(t, s, base, tarOf(t, tt.lines...)))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, c := range changes {
				got = append(got, fmt.Sprintf("%c %s", c.Kind, c.Path))
			}
			want := strings.ReplaceAll(tt.want, " /", "/")
			if g := strings.ReplaceAll(strings.Join(got, " "), " /", "/"); g != want {
				t.Errorf("%s, want %s", g, want)
			}
		})
	}
	// The other way round, and without a layer in common.
	more := imageOf(t, s, tarOf(t, "d etc", "f etc/b two", "f etc/c 3"))
	there, err := Diff(t.Context(), s, from, more)
	back, backErr := Diff(t.Context(), s, more, from)
	if err != nil || backErr != nil {
		t.Fatal(err, backErr)
	}
	paths := func(all []Change, kind ChangeKind) (out []string) {
		for _, c := range all {
			if c.Kind == kind {
				out = append(out, c.Path)
			}
		}
		return out
	}
	if !slices.Equal(paths(there, Deleted), []string{"/etc/a", "/etc/hard", "/lib", "/link"}) || !slices.Equal(paths(back, Deleted), paths(there, Added)) {
		t.Errorf("there %v, back %v", there, back)
	}
}

func TestDiffRefuses(t *testing.T) {
	s, _ := open(t)
	empty := image.Image{}
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"long path", []string{"f " + strings.Repeat("d/", 3000) + "f 1"}, "has 6001 bytes"},
		{"links in a circle", []string{"l a b", "l b a", "f a/x 1"}, "too many levels"},
		{"hard link to nothing", []string{"h a none"}, "which is no file"},
		{"hard link to a directory", []string{"d d", "h a d"}, "which is no file"},
	} {
		if _, err := Diff(t.Context(), s, empty, imageOf(t, s, tarOf(t, tt.lines...))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	img := imageOf(t, s, tarOf(t, "f a 1"))
	lies := img
	lies.Config.RootFS.DiffIDs = []digest.Digest{digest.FromString("another")}
	if _, err := Diff(t.Context(), s, empty, lies); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("wrong diffID: %v", err)
	}
	short := imageOf(t, s, tarOf(t, "f a 1")[:512])
	if _, err := Diff(t.Context(), s, empty, short); err == nil {
		t.Error("no error for a tar that ends early")
	}
	other, _ := open(t)
	if _, err := Diff(t.Context(), other, empty, img); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without the blob: %v", err)
	}
	huge := &tar.Header{Name: "a", Typeflag: tar.TypeGNUSparse, Size: 1 << 50}
	if err := (&listing{}).entry(huge, nil, 1); !errors.Is(err, image.ErrInvalid) {
		t.Errorf("a sparse file of a petabyte: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Diff(ended, s, empty, img); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: %v", err)
	}
}

// FuzzListing holds that no tar panics or hangs, that a listing equals its
// copy, and that everything is below the root.
func FuzzListing(f *testing.F) {
	f.Add(tarOf(f, "d etc", "f etc/a one", "h b etc/a", "l l etc", "f l/c 1"), tarOf(f, "f etc/.wh.a ", "f etc/.wh..wh..opq ", "f ../x 1"))
	f.Add(tarOf(f, "l a b", "l b a"), tarOf(f, "f a/x 1", "d .wh.", "f .wh... "))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		l := &listing{root: &node{dir: true, children: map[string]*node{}}}
		if l.read(t.Context(), bytes.NewReader(a), 1) != nil {
			return
		}
		before := l.root.clone()
		if diff := compare(nil, "", before, l.root); len(diff) > 0 {
			t.Fatalf("a copy differs: %v", diff)
		}
		if l.read(t.Context(), bytes.NewReader(b), 2) != nil {
			return
		}
		for _, c := range compare(nil, "", before, l.root) {
			if !strings.HasPrefix(c.Path, "/") || slices.Contains(strings.Split(c.Path, "/"), "..") {
				t.Fatalf("outside the root: %q", c.Path)
			}
		}
	})
}
