// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"builder/internal/testutil"

	"golang.org/x/sys/unix"
)

var plainTar = Options{Compression: Uncompressed}

// varied makes a tree of every kind of file that a layer can hold.
func varied(t testing.TB) tree {
	r := newTree(t)
	r.mkdir("etc", 0o755).file("etc/passwd", "root:x:0:0\n", 0o644).file("etc/shadow", "secret", 0o640).chown("etc/shadow", 0, 42)
	r.mkdir("bin", 0o755).file("bin/su", "elf", 0o4755).file("bin/wall", "elf", 0o2755).file("bin/ping", "elf", 0o755)
	r.attr("bin/ping", "security.capability", capability)
	r.link("bin/ping6", "bin/ping").symlink("bin/sh", "su").link("bin/sh2", "bin/sh")
	r.mkdir("tmp", 0o1777).mkdir("none", 0).mkdir("empty", 0o711).chown("empty", 1000, 1001)
	r.file("empty/zero", "", 0).file("block", strings.Repeat("b", 512), 0o600).file("block1", strings.Repeat("c", 513), 0o600)
	r.mkdir("dev", 0o755).mknod("dev/null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3)).mknod("dev/sda", unix.S_IFBLK|0o660, unix.Mkdev(8, 0x12345))
	r.mknod("fifo", unix.S_IFIFO|0o620, 0).link("fifo2", "fifo")
	r.mkdir("ünï", 0o755).file("ünï/日本語 ☃", "x", 0o644).file("ünï/\xff\xfe", "not UTF-8", 0o644).symlink("ünï/link", "ж/日本")
	long := strings.Repeat("n", 200)
	r.mkdir(long, 0o755).mkdir(long+"/"+long, 0o755).file(long+"/"+long+"/f", "deep", 0o644).file(long+"/"+strings.Repeat("é", 100), "y", 0o644)
	r.symlink("longlink", strings.Repeat("t/", 150)+"end").symlink("dangling", "/no/such")
	r.file("old", "1960", 0o644).stamp("old", -300000000).file("future", "2300", 0o644).stamp("future", 10500000000)
	r.file("bigid", "id", 0o600).chown("bigid", 3000000, 4294967293).stamp("bigid", clock)
	r.file("-", "dash", 0o644).file("a\nb", "newline", 0o644).file(" ", "space", 0o644).file(`back\slash`, "", 0o644)
	big := make([]byte, 5<<20+77)
	rand.NewChaCha8([32]byte{1}).Read(big)
	r.file("big", string(big), 0o644)
	r.must(os.Truncate(r.path("empty/zero"), 3<<20+1)) // with a hole
	r.stamp("empty/zero", clock)
	for _, dir := range []string{"etc", "bin", "empty", "dev", "ünï", long + "/" + long, long} {
		r.stamp(dir, clock+1)
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	testutil.Require(t, "root")
	from := varied(t)
	want := describe(t, from.dir)
	for _, opts := range []Options{plainTar, {}, {Level: 9}, {Compression: Zstd}, {Compression: Zstd, Level: 19}} {
		t.Run(fmt.Sprintf("%s-%d", opts.Compression, opts.Level), func(t *testing.T) {
			var buf bytes.Buffer
			l, err := WriteTree(t.Context(), &buf, from.open(), opts)
			if err != nil {
				t.Fatal(err)
			}
			checkLayer(t, l, buf.Bytes())
			r, _, err := Decompress(&buf)
			if err != nil {
				t.Fatal(err)
			}
			to := newTree(t)
			a, err := Apply(t.Context(), to.open(), r, ApplyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if a.DiffID != l.DiffID || a.Size != l.Size || a.Entries != l.Entries || len(a.Implied) != 0 {
				t.Errorf("applied %+v of %+v", a, l)
			}
			sameTree(t, "unpacked", describe(t, to.dir), want)
		})
	}
}

// checkLayer recomputes what l says of its blob.
func checkLayer(t *testing.T, l Layer, blob []byte) {
	t.Helper()
	if got := l.Blob.Digest.Algorithm().FromBytes(blob); got != l.Blob.Digest || int64(len(blob)) != l.Blob.Size {
		t.Errorf("blob is %s of %d bytes, not %s of %d", got, len(blob), l.Blob.Digest, l.Blob.Size)
	}
	r, _, err := Decompress(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := l.DiffID.Algorithm().FromBytes(plain); got != l.DiffID || int64(len(plain)) != l.Size {
		t.Errorf("tar is %s of %d bytes, not %s of %d", got, len(plain), l.DiffID, l.Size)
	}
}

func TestSameBytesOnAnyNumberOfCores(t *testing.T) {
	testutil.Require(t, "root")
	from := varied(t)
	for i := range 300 { // more directories than fit into one worker's hands
		from.mkdir(fmt.Sprintf("d%d", i), 0o755).file(fmt.Sprintf("d%d/f", i), strings.Repeat("abc", i), 0o644)
	}
	for _, opts := range []Options{plainTar, {}, {Level: 6}, {Compression: Zstd}, {Compression: Zstd, Level: 7}} {
		var first Layer
		for i, procs := range []int{1, 2, 8, 1} {
			old := runtime.GOMAXPROCS(procs)
			l, err := WriteTree(t.Context(), io.Discard, from.open(), opts)
			runtime.GOMAXPROCS(old)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = l
			} else if l.DiffID != first.DiffID || l.Blob.Digest != first.Blob.Digest || l.Entries != first.Entries {
				t.Errorf("%v on %d cores: %v, on one %v", opts, procs, l, first)
			}
		}
	}
}

func TestOtherToolsReadIt(t *testing.T) {
	testutil.Require(t, "root", "tar", "gzip", "zstd")
	from := varied(t)
	for _, tc := range []struct {
		opts Options
		test []string
	}{
		{plainTar, []string{"cat"}},
		{Options{}, []string{"gzip", "-dc"}},
		{Options{Compression: Zstd}, []string{"zstd", "-dc"}},
	} {
		file, err := os.Create(filepath.Join(t.TempDir(), "layer"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := WriteTree(t.Context(), file, from.open(), tc.opts); err != nil {
			t.Fatal(err)
		}
		run(t, append(tc.test, file.Name())...)
		to := newTree(t)
		plain := run(t, append(tc.test, file.Name())...)
		cmd := exec.Command("tar", "-xpf", "-", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", to.dir)
		cmd.Stdin = bytes.NewReader(plain)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
		sameTree(t, "unpacked by tar", describe(t, to.dir), describe(t, from.dir))
	}
}

func run(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return out
}

func TestEpoch(t *testing.T) {
	from := newTree(t)
	from.file("before", "", 0o644).stamp("before", 1000).file("after", "", 0o644).mkdir("dir", 0o755)
	epoch := time.Unix(2000, 999)
	var buf bytes.Buffer
	if _, err := WriteTree(t.Context(), &buf, from.open(), Options{Compression: Uncompressed, Epoch: &epoch}); err != nil {
		t.Fatal(err)
	}
	for _, hdr := range headers(t, buf.Bytes()) {
		want := int64(2000)
		if hdr.Name == "before" {
			want = 1000
		}
		if hdr.ModTime.Unix() != want {
			t.Errorf("%s: %v", hdr.Name, hdr.ModTime)
		}
	}
}

// scenario is what a step does to the image below it, and the tar it gives.
type scenario struct {
	name   string
	lower  []func(tree) // bottom first
	change func(tree)
	want   []string
	// relinked: a hard link to a file that didn't change is a file of its
	// own in the layer, as BuildKit has it.
	relinked bool
}

func base(r tree) {
	r.mkdir("d", 0o755).file("d/a", "a", 0o644).file("d/b", "b", 0o644).mkdir("d/sub", 0o750).file("d/sub/x", "x", 0o644)
	r.file("f", "data", 0o644).symlink("l", "f").mkdir("e", 0o700).link("f2", "f")
	r.stamp("d/sub", clock).stamp("d", clock)
}

func scenarios() []scenario {
	one := []func(tree){base}
	return []scenario{
		{"nothing", one, func(tree) {}, nil, false},
		{"delete a file", one, func(r tree) { r.remove("d/a") }, []string{"5 d/", "0 d/.wh.a"}, false},
		{"delete at the root", one, func(r tree) { r.remove("l") }, []string{"0 .wh.l"}, false},
		{"delete a directory", one, func(r tree) { r.remove("d") }, []string{"0 .wh.d"}, false},
		{"replace a directory", one, func(r tree) { r.remove("d").mkdir("d", 0o700).file("d/n", "n", 0o600) }, []string{"5 d/", "0 d/.wh.a", "0 d/.wh.b", "0 d/n", "0 d/.wh.sub"}, false},
		{"replace a directory by the same", one, func(r tree) {
			r.remove("d").mkdir("d", 0o755).file("d/a", "a", 0o644).stamp("d", clock)
		}, []string{"5 d/", "0 d/.wh.b", "0 d/.wh.sub"}, false},
		{"replace a directory with depth", one, func(r tree) {
			r.remove("d").mkdir("d", 0o755).mkdir("d/sub", 0o750).file("d/sub/y", "y", 0o644).mkdir("d/a", 0o755)
		}, []string{"5 d/", "5 d/a/", "0 d/.wh.b", "5 d/sub/", "0 d/sub/.wh.x", "0 d/sub/y"}, false},
		{"replace a directory of two layers", []func(tree){base, func(r tree) {
			r.mkdir("d", 0o755).mknod("d/a", unix.S_IFCHR, 0).file("d/c", "c", 0o644).mkdir("d/sub", 0o750).file("d/sub/z", "", 0o644)
		}}, func(r tree) { r.remove("d").mkdir("d", 0o755).file("d/a", "", 0o644).mkdir("d/sub", 0o700) },
			[]string{"5 d/", "0 d/a", "0 d/.wh.b", "0 d/.wh.c", "5 d/sub/", "0 d/sub/.wh.x", "0 d/sub/.wh.z"}, false},
		{"replace a directory with hard links", one, func(r tree) {
			r.remove("d").mkdir("d", 0o755).file("d/a", "a", 0o644).link("d/a2", "d/a")
		}, []string{"5 d/", "0 d/a", "1 d/a2 -> d/a", "0 d/.wh.b", "0 d/.wh.sub"}, false},
		{"replace an empty directory", one, func(r tree) { r.remove("e").mkdir("e", 0o755).file("e/n", "", 0o600) }, []string{"5 e/", "0 e/n"}, false},
		{"replace an empty directory by the same", one, func(r tree) { r.remove("e").mkdir("e", 0o700) }, nil, false},
		{"replace a file by a directory", one, func(r tree) { r.remove("d/a").mkdir("d/a", 0o755).file("d/a/b", "", 0o644) }, []string{"5 d/", "5 d/a/", "0 d/a/b"}, false},
		{"replace a directory by a file", one, func(r tree) { r.remove("d").file("d", "", 0o644) }, []string{"0 d"}, false},
		{"replace a file by a link", one, func(r tree) { r.remove("f2").symlink("f2", "d") }, []string{"2 f2 -> d"}, false},
		{"new directory", one, func(r tree) { r.mkdir("n", 0o755).mkdir("n/m", 0o755).file("n/m/f", "", 0o644) }, []string{"5 n/", "5 n/m/", "0 n/m/f"}, false},
		{"change deep down", one, func(r tree) { r.file("d/sub/x", "y", 0o644).stamp("d/sub/x", clock+5) }, []string{"5 d/", "5 d/sub/", "0 d/sub/x"}, false},
		{"mode of a file", one, func(r tree) { r.mode("d/a", 0o600) }, []string{"5 d/", "0 d/a"}, false},
		{"mode of a directory", one, func(r tree) { r.mode("d", 0o700) }, []string{"5 d/"}, false},
		{"owner", one, func(r tree) { r.chown("f", 7, 8).chown("l", 9, 9) }, []string{"0 f", "2 l -> f"}, true},
		{"mode that was so", one, func(r tree) { r.mode("d/a", 0o644).chown("d/sub/x", 0, 0).chown("l", 0, 0).chown("e", 0, 0) }, nil, false},
		{"content of the same size and time", one, func(r tree) { r.file("d/a", "A", 0o644) }, []string{"5 d/", "0 d/a"}, false},
		{"time", one, func(r tree) { r.stamp("d/b", clock+1).stamp("e", clock+1) }, []string{"5 d/", "0 d/b"}, false},
		{"rename a file", one, func(r tree) { r.must(os.Rename(r.path("d/a"), r.path("e/z"))) }, []string{"5 d/", "0 d/.wh.a", "5 e/", "0 e/z"}, false},
		{"hard link to an old file", one, func(r tree) { r.link("e/f3", "d/b") }, []string{"5 e/", "0 e/f3"}, true},
		{"hard links of a new file", one, func(r tree) { r.file("d/n", "n", 0o644).link("d/m", "d/n").link("e/o", "d/n") }, []string{"5 d/", "0 d/m", "1 d/n -> d/m", "5 e/", "1 e/o -> d/m"}, false},
		{"attributes", one, func(r tree) {
			r.file("d/p", "", 0o755).attr("d/p", "security.capability", capability)
		}, []string{"5 d/", "0 d/p"}, false},
		{"devices", one, func(r tree) {
			r.mknod("e/null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3)).mknod("e/p", unix.S_IFIFO|0o600, 0)
		}, []string{"5 e/", "3 e/null", "6 e/p"}, false},
		{"file made and deleted", one, func(r tree) { r.file("d/t", "", 0o644).remove("d/t") }, nil, false},
		{"delete what two layers have", []func(tree){base, func(r tree) { r.mkdir("d", 0o755).file("d/a", "new", 0o644).stamp("d", clock) }}, func(r tree) { r.remove("d/a").remove("d/b") }, []string{"5 d/", "0 d/.wh.a", "0 d/.wh.b"}, false},
		{"replace what a layer emptied", []func(tree){base, func(r tree) {
			r.mkdir("e", 0o700)
			r.mkdir("d", 0o755).mkdir("d/sub", 0o750).mknod("d/sub/x", unix.S_IFCHR, 0).stamp("d/sub", clock)
		}}, func(r tree) { r.remove("d/sub").mkdir("d/sub", 0o755) }, []string{"5 d/", "5 d/sub/"}, false},
		{"new below an opaque layer", []func(tree){base, func(r tree) {
			r.mkdir("d", 0o755).attr("d", "trusted.overlay.opaque", "y").file("d/c", "c", 0o644).stamp("d", clock)
		}}, func(r tree) { r.file("d/a", "a", 0o644).remove("d/c") }, []string{"5 d/", "0 d/a", "0 d/.wh.c"}, false},
		{"new where a layer deleted", []func(tree){base, func(r tree) { r.mknod("d", unix.S_IFCHR, 0) }}, func(r tree) { r.mkdir("d", 0o755).file("d/a", "a", 0o644) }, []string{"5 d/", "0 d/a"}, false},
	}
}

// TestOverlay lets the kernel make the changes: the layer, put over the same
// lower directories, must show the same files.
func TestOverlay(t *testing.T) {
	testutil.Require(t, "root")
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			var lower []string
			for _, fill := range sc.lower {
				r := newTree(t)
				fill(r)
				lower = slices.Insert(lower, 0, r.dir)
			}
			upper, work := newTree(t), newTree(t)
			view, unmount := overlay(t, upper.dir, work.dir, lower...)
			sc.change(view)
			unmount()

			var buf bytes.Buffer
			l, err := Diff(t.Context(), &buf, Upper{Dir: upper.dir, Lower: lower}, plainTar)
			if err != nil {
				t.Fatal(err)
			}
			got := entries(t, buf.Bytes())
			if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(sc.want))) {
				t.Errorf("entries %q, want %q", got, sc.want)
			}
			if l.Entries != len(sc.want) {
				t.Errorf("counted %d entries", l.Entries)
			}
			want, _ := overlay(t, "", "", append([]string{upper.dir}, lower...)...)
			wanted := describe(t, want.dir)
			checkOver(t, buf.Bytes(), lower, wanted, sc.relinked)
			checkPlain(t, buf.Bytes(), lower, wanted, sc.relinked)
			checkMounted(t, buf.Bytes(), lower, wanted, sc.relinked)
		})
	}
}

// checkOver applies a layer in overlay form and mounts it over lower.
func checkOver(t *testing.T, tar []byte, lower []string, want map[string]string, relinked bool) {
	t.Helper()
	to := newTree(t)
	if _, err := Apply(t.Context(), to.open(), bytes.NewReader(tar), ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	view, _ := overlay(t, "", "", append([]string{to.dir}, lower...)...)
	compare(t, "mounted", describe(t, view.dir), want, relinked)
}

// checkPlain applies a layer to a copy of what lower shows.
func checkPlain(t *testing.T, tar []byte, lower []string, want map[string]string, relinked bool) {
	t.Helper()
	view, _ := overlay(t, "", "", lower...)
	var all bytes.Buffer
	root, err := os.Open(view.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := WriteTree(t.Context(), &all, root, plainTar); err != nil {
		t.Fatal(err)
	}
	to := newTree(t)
	for _, data := range [][]byte{all.Bytes(), tar} {
		if _, err := Apply(t.Context(), to.open(), bytes.NewReader(data), ApplyOptions{Plain: true}); err != nil {
			t.Fatal(err)
		}
	}
	compare(t, "plain", describe(t, to.dir), want, relinked)
}

// checkMounted applies a layer as a plain one to a mount of lower.
func checkMounted(t *testing.T, tar []byte, lower []string, want map[string]string, relinked bool) {
	t.Helper()
	view, _ := overlay(t, newTree(t).dir, newTree(t).dir, lower...)
	if _, err := Apply(t.Context(), view.open(), bytes.NewReader(tar), ApplyOptions{Plain: true}); err != nil {
		t.Fatal(err)
	}
	compare(t, "applied to a mount", describe(t, view.dir), want, relinked)
}

func compare(t *testing.T, what string, got, want map[string]string, relinked bool) {
	t.Helper()
	cut := func(m map[string]string) map[string]string {
		out := map[string]string{}
		for name, line := range m {
			if relinked {
				line, _, _ = strings.Cut(line, " links=")
			}
			if strings.HasPrefix(line, "4") { // a directory: changes below it are in its time
				line = strings.Join(strings.Fields(line)[:2], " ")
			}
			out[name] = line
		}
		return out
	}
	sameTree(t, what, cut(got), cut(want))
}

// TestDiffSockets: a socket is not in the layer, nor is what it replaced.
func TestDiffSockets(t *testing.T) {
	lower, upper := newTree(t), newTree(t)
	lower.mkdir("d", 0o755).file("d/a", "", 0o644)
	upper.mkdir("d", 0o755).mknod("d/a", unix.S_IFSOCK|0o600, 0).mknod("d/new", unix.S_IFSOCK|0o600, 0).mknod("s", unix.S_IFSOCK|0o600, 0)
	var buf bytes.Buffer
	if _, err := Diff(t.Context(), &buf, Upper{Dir: upper.dir, Lower: []string{lower.dir}}, plainTar); err != nil {
		t.Fatal(err)
	}
	if got, want := entries(t, buf.Bytes()), []string{"5 d/", "0 d/.wh.a"}; !slices.Equal(got, want) {
		t.Errorf("entries %q, want %q", got, want)
	}
}

func TestDiffWhole(t *testing.T) {
	lower, upper := newTree(t), newTree(t)
	lower.mkdir("d", 0o755).mkdir("d/e", 0o755)
	upper.mkdir("d", 0o755).mkdir("d/e", 0o755)
	for whole, want := range map[bool][]string{false: nil, true: {"5 d/", "5 d/e/"}} {
		opts := plainTar
		opts.Whole = whole
		var buf bytes.Buffer
		if _, err := Diff(t.Context(), &buf, Upper{Dir: upper.dir, Lower: []string{lower.dir}}, opts); err != nil {
			t.Fatal(err)
		}
		if got := entries(t, buf.Bytes()); !slices.Equal(got, want) {
			t.Errorf("whole %t: entries %q, want %q", whole, got, want)
		}
	}
	if whole := (Options{Whole: true}); whole.Key() == (Options{}).Key() {
		t.Error("a whole layer has the key of another")
	}
}

func TestDiffUserXattr(t *testing.T) {
	lower, upper := newTree(t), newTree(t)
	lower.mkdir("d", 0o755).file("d/a", "", 0o644).mkdir("e", 0o755).file("e/a", "", 0o644)
	upper.mkdir("d", 0o755).attr("d", "user.overlay.opaque", "y").attr("d", "user.other", "1")
	// Whiteouts of Linux 6.7, for file systems that have no devices.
	upper.mkdir("e", 0o755).attr("e", "user.overlay.opaque", "x").file("e/a", "", 0o644).attr("e/a", "user.overlay.whiteout", "")
	var buf bytes.Buffer
	if _, err := Diff(t.Context(), &buf, Upper{Dir: upper.dir, Lower: []string{lower.dir}, UserXattr: true}, plainTar); err != nil {
		t.Fatal(err)
	}
	want := []string{"5 d/", "0 d/.wh.a", "5 e/", "0 e/.wh.a"}
	if got := entries(t, buf.Bytes()); !slices.Equal(got, want) {
		t.Errorf("entries %q, want %q", got, want)
	}
	for _, hdr := range headers(t, buf.Bytes()) {
		if len(hdr.PAXRecords) > 0 {
			t.Errorf("%s has %q", hdr.Name, hdr.PAXRecords)
		}
	}
}

func TestDiffRefuses(t *testing.T) {
	testutil.Require(t, "root")
	for _, tc := range []struct {
		name string
		fill func(tree)
		want string
	}{
		{"redirect", func(r tree) { r.mkdir("d", 0o755).attr("d", "trusted.overlay.redirect", "/x") }, `read attributes of "d": overlayfs redirect_dir or metacopy`},
		{"metacopy", func(r tree) { r.file("f", "", 0o644).attr("f", "trusted.overlay.metacopy", "") }, `read attributes of "f": overlayfs redirect_dir or metacopy`},
		{"reserved name", func(r tree) { r.mkdir("d", 0o755).file("d/.wh.f", "", 0o644) }, `write "d/.wh.f": names that begin with ".wh."`},
		{"reserved directory", func(r tree) { r.mkdir(".wh..wh..opq", 0o755) }, `write ".wh..wh..opq": names that begin`},
	} {
		r := newTree(t)
		tc.fill(r)
		_, err := Diff(t.Context(), io.Discard, Upper{Dir: r.dir}, plainTar)
		if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s…", tc.name, err, tc.want)
		}
	}
	if _, err := Diff(t.Context(), io.Discard, Upper{Dir: "/no/such"}, plainTar); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// changer changes the tree when the first bytes of the layer come.
type changer struct{ change func() }

func (c *changer) Write(p []byte) (int, error) {
	if c.change != nil {
		c.change()
		c.change = nil
	}
	return len(p), nil
}

func TestChangedWhileRead(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(tree) error
		want   string
	}{
		{"shrunk", func(r tree) error { return os.Truncate(r.path("z"), 5) }, `read "z": file changed while it was read: `},
		{"grown", func(r tree) error { return os.Truncate(r.path("z"), 1<<30) }, `read "z": file changed while it was read: 1073741824 bytes`},
		{"touched", func(r tree) error { return os.Chtimes(r.path("z"), time.Unix(5, 0), time.Unix(5, 0)) }, `read "z": file changed while it was read: it has another`},
		{"gone", func(r tree) error { return os.Remove(r.path("z")) }, `open "z": file changed while it was read: no such file`},
		{"a link now", func(r tree) error {
			r.remove("z")
			return os.Symlink("/etc/passwd", r.path("z"))
		}, `open "z": file changed while it was read: too many levels`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newTree(t)
			// More before it than all the units under way can hold.
			r.file("a", "", 0o644).file("z", "zzzzzzzzzz", 0o644)
			r.must(os.Truncate(r.path("a"), 100<<20))
			c := &changer{change: func() { r.must(tc.change(r)) }}
			_, err := WriteTree(t.Context(), c, r.open(), plainTar)
			if !errors.Is(err, ErrChanged) || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("%v, want %s…", err, tc.want)
			}
		})
	}
}

// opens counts how often a file is opened, and not merely as a place.
func opens(t *testing.T, name string) func() int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, name, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	return func() int {
		// Equal events that follow each other are one.
		n, err := unix.Read(fd, make([]byte, 4096))
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		return max(n, 0) / unix.SizeofInotifyEvent
	}
}

// TestLive: what somebody puts in the place of a file is not opened.
func TestLive(t *testing.T) {
	const want = `open "z": file changed while it was read: it is no regular file now`
	live := Options{Compression: Uncompressed, Live: true}
	write := func(r tree, w io.Writer) error {
		_, err := WriteTree(t.Context(), w, r.open(), live)
		return err
	}
	for name, do := range map[string]func(r tree, w io.Writer) error{
		"tree": write,
		"upper directory": func(r tree, w io.Writer) error {
			_, err := Diff(t.Context(), w, Upper{Dir: r.dir, Lower: []string{newTree(t).dir}}, live)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTree(t)
			// More before it than all the units under way can hold.
			r.file("a", "", 0o644).file("z", "zzzzzzzzzz", 0o644).mknod("fifo", unix.S_IFIFO|0o644, 0)
			r.must(os.Truncate(r.path("a"), 100<<20))
			opened := opens(t, r.path("fifo"))
			c := &changer{change: func() { r.must(os.Rename(r.path("fifo"), r.path("z"))) }}
			if err := do(r, c); !errors.Is(err, ErrChanged) || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
			if n := opened(); n > 0 {
				t.Errorf("it was opened %d times", n)
			}
		})
	}
	// What is compared with a lower directory is opened in the same way.
	r := newTree(t).file("z", "z", 0o644)
	other := newTree(t).mknod("z", unix.S_IFIFO|0o644, 0)
	opened := opens(t, other.path("z"))
	w := &walker{live: true}
	dirs := []*os.File{r.open(), other.open()}
	for _, i := range []int{0, 1} {
		if _, err := w.sameData(int(dirs[i].Fd()), int(dirs[1-i].Fd()), "z"); !errors.Is(err, ErrChanged) {
			t.Errorf("compare: %v", err)
		}
	}
	if same, err := w.sameData(int(dirs[0].Fd()), int(dirs[0].Fd()), "z"); !same || err != nil {
		t.Errorf("compare with itself: %v, %v", same, err)
	}
	if n := opened(); n > 0 {
		t.Errorf("it was opened %d times", n)
	}
	// Nothing else is different.
	v := varied(t)
	var a, b bytes.Buffer
	r.must(write(v, &a))
	if _, err := WriteTree(t.Context(), &b, v.open(), plainTar); err != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Errorf("a live tree has another layer: %v", err)
	}
}

// failing fails its n-th write.
type failing struct {
	left int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.left--; f.left < 0 {
		return 0, f.err
	}
	return len(p), nil
}

func TestDiffEndsWithItsGoroutines(t *testing.T) {
	r := newTree(t)
	for i := range 50 {
		r.mkdir(fmt.Sprint(i), 0o755).file(fmt.Sprint(i, "/f"), "", 0o644)
		r.must(os.Truncate(r.path(fmt.Sprint(i, "/f")), 1<<20))
	}
	before := runtime.NumGoroutine()
	full := errors.New("no space")
	for n := range 20 {
		if _, err := WriteTree(t.Context(), &failing{n, full}, r.open(), Options{}); !errors.Is(err, full) {
			t.Errorf("write %d: %v", n, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		c := &changer{change: cancel}
		if n == 0 {
			cancel()
		}
		if _, err := WriteTree(ctx, c, r.open(), Options{}); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		cancel()
	}
	settled(t, before)
}

// settled waits until no more goroutines run than before.
func settled(t *testing.T, before int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}

func TestWriteTrees(t *testing.T) {
	testutil.Require(t, "root")
	at := time.Unix(1700000000, 0)
	a, b := varied(t), newTree(t)
	b.file("f", "data", 0o600)
	var buf bytes.Buffer
	l, err := WriteTrees(t.Context(), &buf, []Tree{{a.open(), "linux_amd64"}, {b.open(), "linux_arm64"}}, Options{Compression: Uncompressed, Time: &at})
	if err != nil {
		t.Fatal(err)
	}
	out := newTree(t)
	if _, err := Apply(t.Context(), out.open(), bytes.NewReader(buf.Bytes()), ApplyOptions{Plain: true}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"linux_amd64/bin/ping6", "linux_amd64/etc/passwd", "linux_amd64", "linux_arm64/f"} {
		fi, err := os.Stat(out.path(name))
		if err != nil {
			t.Fatal(err)
		}
		if !fi.ModTime().Equal(at) {
			t.Errorf("%s is of %s", name, fi.ModTime())
		}
	}
	var want bytes.Buffer
	alone, err := WriteTree(t.Context(), &want, a.open(), Options{Compression: Uncompressed, Time: &at})
	if err != nil {
		t.Fatal(err)
	}
	if n := alone.Entries + 3; l.Entries != n {
		t.Errorf("%d entries, want %d", l.Entries, n)
	}
	ping, err := os.Stat(out.path("linux_amd64/bin/ping"))
	if err != nil {
		t.Fatal(err)
	}
	if ping6, err := os.Stat(out.path("linux_amd64/bin/ping6")); err != nil || !os.SameFile(ping, ping6) {
		t.Errorf("hard link in a directory of its own is none (%v)", err)
	}
}
