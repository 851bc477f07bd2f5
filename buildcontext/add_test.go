// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"builder/internal/testutil"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// tarball makes an archive of lines as build takes them; "h" has the name of
// the target as it is written.
func tarball(tb testing.TB, lines ...string) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, line := range lines {
		f := fields(tb, line)
		h := &tar.Header{Name: f[1], ModTime: time.Unix(old+9, 0), Mode: 0o644}
		data := ""
		switch f[0] {
		case "d":
			h.Typeflag, h.Mode = tar.TypeDir, octal(tb, f[2])
		case "f":
			data = strings.Join(f[4:], " ")
			h.Typeflag, h.Mode, h.Size = tar.TypeReg, octal(tb, f[2]), int64(len(data))
		case "l":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f[2]
		case "h":
			h.Typeflag, h.Linkname = tar.TypeLink, f[2]
		case "p":
			h.Typeflag, h.Mode = tar.TypeFifo, octal(tb, f[2])
		}
		if f[0] == "f" || f[0] == "d" && len(f) > 3 {
			var n int
			for _, c := range strings.Split(f[3], ":") {
				n = n<<8 | int(octal(tb, c))
			}
			h.Uid, h.Gid = n>>8, n&0xff
		}
		must(tb, w.WriteHeader(h))
		_, err := w.Write([]byte(data))
		must(tb, err)
	}
	must(tb, w.Close())
	return buf.Bytes()
}

func octal(tb testing.TB, s string) int64 {
	tb.Helper()
	var n int64
	for _, c := range s {
		n = n<<3 | int64(c-'0')
	}
	return n
}

// filterBy runs data through a program.
func filterBy(tb testing.TB, data []byte, args ...string) []byte {
	tb.Helper()
	testutil.Require(tb, args[0])
	cmd := exec.CommandContext(tb.Context(), args[0], args[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	must(tb, err)
	return out
}

func gzipped(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	must(tb, err)
	must(tb, w.Close())
	return buf.Bytes()
}

// TestAdd extracts archives. What is expected follows unpack in BuildKit's
// file backend and Unpack in moby/go-archive.
func TestAdd(t *testing.T) {
	testutil.Require(t, "root")
	archive := tarball(t, "d d 711 1:2", "f d/a 4755 3:4 A", "f top 600 3:4 T", "l l d/a", "h d/h d/a", "f implied/x 644 5:6 X", "f .wh.w 644 0:0 W")
	z, err := zstd.NewWriter(nil)
	must(t, err)
	want := []string{
		"f .wh.w 644 0:0 W", "d d 711 1:2", "f d/a 4755 3:4 A", "h d/h d/a", "d implied 755 0:0", "f implied/x 644 5:6 X", "l l d/a 0:0", "f top 600 3:4 T",
	}
	at := func(dir string, lines []string) (out []string) {
		for _, l := range lines {
			f := strings.SplitN(l, " ", 3)
			f[1] = dir + "/" + f[1]
			if f[0] == "h" {
				f[2] = dir + "/" + f[2]
			}
			out = append(out, strings.Join(f, " "))
		}
		return out
	}
	owned := []string{
		"f .wh.w 644 7:8 W", "d d 711 7:8", "f d/a 4755 7:8 A", "h d/h d/a", "d implied 755 0:0", "f implied/x 644 7:8 X", "l l d/a 7:8", "f top 600 7:8 T",
	}
	text := "not an archive"
	for name, c := range map[string]struct {
		data []byte
		dst  []string
		req  Request
		want []string
	}{
		"tar":               {data: archive, req: Request{Dest: "/"}, want: want},
		"gzip":              {data: gzipped(t, archive), req: Request{Dest: "/"}, want: want},
		"bzip2":             {data: filterBy(t, archive, "bzip2"), req: Request{Dest: "/"}, want: want},
		"xz":                {data: filterBy(t, archive, "xz"), req: Request{Dest: "/"}, want: want},
		"zstd":              {data: z.EncodeAll(archive, nil), req: Request{Dest: "/"}, want: want},
		"not to be":         {data: archive, req: Request{Dest: "/", Mode: "600"}, want: nil},
		"name is directory": {data: archive, req: Request{Dest: "/x/y"}, want: append([]string{"d x 755 0:0", "d x/y 755 0:0"}, at("x/y", want)...)},
		// The mode counts for nothing that an archive makes.
		"owner and mode": {data: archive, req: Request{Dest: "/x", Owner: &Owner{UID: 7, GID: 8}, Mode: "600"}, want: append([]string{"d x 755 7:8"}, at("x", owned)...)},
		"text":           {data: []byte(text), req: Request{Dest: "/x/", Mode: "600"}, want: []string{"d x 600 0:0", "f x/in 600 0:0 " + text}},
		"empty":          {data: nil, req: Request{Dest: "/x"}, want: []string{"f x 644 0:0"}},
		"gzip of a text": {data: gzipped(t, []byte(text)), req: Request{Dest: "/x"}, want: []string{"f x 644 0:0 " + string(gzipped(t, []byte(text)))}},
		"empty archive":  {data: make([]byte, 1024), req: Request{Dest: "/x"}, want: []string{"f x 644 0:0 " + string(make([]byte, 1024))}},
		"through a link": {data: tarball(t, "f a 644 0:0 A"), dst: []string{"l x /y"}, req: Request{Dest: "/x"}, want: []string{"l x /y 0:0", "d y 755 0:0", "f y/a 644 0:0 A"}},
		// The destination is the root of what is extracted.
		"link in the destination": {
			data: tarball(t, "f l/a 644 0:0 A"), dst: []string{"l x/l /z", "d x/z 755", "d z 755"}, req: Request{Dest: "/x"},
			want: []string{"d x 755 0:0", "l x/l /z 0:0", "d x/z 755 0:0", "f x/z/a 644 0:0 A", "d z 755 0:0"},
		},
		"replacing": {
			data: tarball(t, "f dir 644 0:0 F", "d file 711 0:0", "d merge 700 1:1", "f merge/new 644 0:0 N", "l link x", "f link2 644 0:0 L"),
			dst:  []string{"f dir/sub/deep 644", "f file 600", "f merge/old 600", "d merge 755", "f link 644", "l link2 dir"}, req: Request{Dest: "/"},
			want: []string{"f dir 644 0:0 F", "d file 711 0:0", "l link x 0:0", "f link2 644 0:0 L", "d merge 700 1:1", "f merge/new 644 0:0 N", "f merge/old 600 0:0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := t.TempDir(), t.TempDir()
			must(t, os.WriteFile(filepath.Join(src, "in"), c.data, 0o644))
			build(t, dst, c.dst...)
			c.req.Sources, c.req.Unpack = []string{"in"}, name != "not to be"
			if !c.req.Unpack {
				c.want = []string{"f in 600 0:0 " + string(c.data)}
			}
			_, err := copyTo(t, open(t, src, Options{}), dst, c.req, CopyOptions{})
			must(t, err)
			same(t, "result", list(t, dst, false), c.want)
		})
	}
}

func TestAddDirectoryOfArchives(t *testing.T) {
	testutil.Require(t, "root")
	src, dst := t.TempDir(), t.TempDir()
	build(t, src, "d d 755", "l link d/a.tar", "f x 600 0:0 x")
	must(t, os.WriteFile(filepath.Join(src, "d/a.tar"), tarball(t, "f in-a 644 0:0 A"), 0o644))
	tree := open(t, src, Options{})
	// Archives in a directory stay archives; a link to one counts as one.
	_, err := copyTo(t, tree, dst, Request{Sources: []string{"d", "link", "x"}, Dest: "/o/", Unpack: true}, CopyOptions{})
	must(t, err)
	same(t, "result", list(t, dst, false), []string{"d o 755 0:0", "f o/a.tar 644 0:0 " + string(tarball(t, "f in-a 644 0:0 A")), "f o/in-a 644 0:0 A", "f o/x 600 0:0 x"})
}

func TestAddDamaged(t *testing.T) {
	testutil.Require(t, "root")
	sum, varied := sha256.Sum256(nil), ""
	for range 20_000 { // what doesn't compress
		sum = sha256.Sum256(sum[:])
		varied += hex.EncodeToString(sum[:])
	}
	archive := tarball(t, "f a 644 0:0 A", "f b 644 0:0 "+varied)
	for name, data := range map[string][]byte{
		"tar":  archive[:3000],
		"gzip": gzipped(t, archive)[:len(gzipped(t, archive))/2],
	} {
		src := t.TempDir()
		must(t, os.WriteFile(filepath.Join(src, "in"), data, 0o644))
		_, err := copyTo(t, open(t, src, Options{}), t.TempDir(), Request{Sources: []string{"in"}, Dest: "/x", Unpack: true}, CopyOptions{})
		if err == nil || !strings.Contains(err.Error(), `extract "/in" to "/x"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExtractTar(t *testing.T) {
	testutil.Require(t, "root")
	dir := t.TempDir()
	archive := gzipped(t, tarball(t, "f Dockerfile 644 0:0 FROM", "d ./ 700 0:0", "f /abs/a 600 1:2 A", "l l /etc/passwd"))
	must(t, ExtractTar(t.Context(), bytes.NewReader(archive), dir))
	same(t, "result", list(t, dir, false), []string{"f Dockerfile 644 0:0 FROM", "d abs 755 0:0", "f abs/a 600 1:2 A", "l l /etc/passwd 0:0"})
	if err := ExtractTar(t.Context(), bytes.NewReader(archive), filepath.Join(dir, "missing")); err == nil {
		t.Error("no error for a directory that is missing")
	}
	if err := ExtractTar(t.Context(), strings.NewReader(strings.Repeat("x", 600)), dir); err == nil {
		t.Error("no error for what is no archive")
	}
}

// TestExtractSparse: a small archive of a huge file takes no space.
func TestExtractSparse(t *testing.T) {
	testutil.Require(t, "root", "tar")
	src, dst := t.TempDir(), t.TempDir()
	f, err := os.Create(filepath.Join(src, "huge"))
	must(t, err)
	must(t, f.Truncate(200<<20))
	_, err = f.WriteAt([]byte("data"), 100<<20)
	must(t, err)
	must(t, f.Close())
	archive, err := exec.CommandContext(t.Context(), "tar", "-C", src, "-S", "-c", "huge").Output()
	must(t, err)
	must(t, ExtractTar(t.Context(), bytes.NewReader(archive), dst))
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(dst, "huge"), &st))
	if st.Size != 200<<20 || st.Blocks > 2048 {
		t.Errorf("size %d in %d blocks", st.Size, st.Blocks)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ExtractTar(ctx, bytes.NewReader(archive), t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// FuzzExtractTar unpacks any bytes beside a directory that must stay as it is.
func FuzzExtractTar(f *testing.F) {
	testutil.Require(f, "root")
	base := f.TempDir()
	build(f, base, "f canary/secret 600 0:0 host", "f canary/dir/x 600 0:0 host")
	before := list(f, filepath.Join(base, "canary"), true)
	up := strings.Repeat("../", 30)
	canary := filepath.Join(base, "canary")
	for _, lines := range [][]string{
		{"f a 644 0:0 A", "h b a", "d d 755", "l l d", "f l/x 644 0:0 X"},
		{"f ../canary/secret 644 0:0 evil"},
		{"f " + up + canary[1:] + "/secret 644 0:0 evil"},
		{"l l ../canary", "f l/secret 644 0:0 evil"},
		{"l l " + canary, "f l/secret 644 0:0 evil", "d l/dir 777"},
		{"h h ../canary/secret", "f h 644 0:0 evil"},
		{"l l " + canary, "h h l/secret", "f h 644 0:0 evil"},
		{"d d 755", "l d/up ../../canary", "d d/up/dir 700", "f d/up/dir/x 600 0:0 evil"},
		{"l dir ../canary/dir", "f dir 644 0:0 replaced"},
	} {
		f.Add(tarball(f, lines...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Contains(data, []byte("\x00\x003\x00")) || bytes.Contains(data, []byte("\x00\x004\x00")) {
			return // leave devices alone
		}
		dir := filepath.Join(base, "root")
		must(t, os.RemoveAll(dir))
		must(t, os.Mkdir(dir, 0o755))
		_ = ExtractTar(t.Context(), bytes.NewReader(data), dir)
		same(t, "canary", list(t, canary, true), before)
	})
}
