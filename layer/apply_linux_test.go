// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"builder/internal/testutil"

	"golang.org/x/sys/unix"
)

// jail is a directory to unpack into, with something beside it that must stay
// as it is.
type jail struct {
	tree
	canary tree
	before map[string]string
}

func newJail(t testing.TB) jail {
	outer := newTree(t)
	outer.mkdir("root", 0o755).mkdir("canary", 0o755).file("canary/f", "untouched", 0o644).mkdir("canary/d", 0o700)
	outer.stamp("canary", clock)
	j := jail{tree: tree{t, outer.path("root")}, canary: tree{t, outer.path("canary")}}
	j.before = describe(t, j.canary.dir)
	return j
}

// check fails the test if anything but the root has changed.
func (j jail) check() {
	j.t.Helper()
	sameTree(j.t, "outside of the root", describe(j.t, j.canary.dir), j.before)
	names, err := os.ReadDir(filepath.Dir(j.dir))
	j.must(err)
	if len(names) != 2 {
		j.t.Errorf("beside the root: %v", names)
	}
}

func (j jail) apply(data []byte, opts ApplyOptions) (Applied, error) {
	j.t.Helper()
	f, err := os.Open(j.dir)
	j.must(err)
	defer f.Close()
	return Apply(j.t.Context(), f, bytes.NewReader(data), opts)
}

func TestApplyHostile(t *testing.T) {
	testutil.Require(t, "root")
	dev := func(major, minor int64) tarEntry {
		return tarEntry{Header: tar.Header{Name: "dev", Typeflag: tar.TypeChar, Devmajor: major, Devminor: minor}}
	}
	owner := func(uid, gid int) tarEntry {
		return tarEntry{Header: tar.Header{Name: "f", Uid: uid, Gid: gid, Format: tar.FormatGNU}}
	}
	pax := func(key, value string) tarEntry {
		return tarEntry{Header: tar.Header{Name: "f", PAXRecords: map[string]string{key: value}}}
	}
	for _, tc := range []struct {
		name string
		tar  []tarEntry
		want string // the error, "" if it is unpacked
		have []string
	}{
		{"dot dot", []tarEntry{fileEntry("../../etc/x", "")}, `unpack "../../etc/x": the name leads out of the root with ".."`, nil},
		{"dot dot later", []tarEntry{fileEntry("a/../../canary/f", "")}, `unpack "a/../../canary/f": the name leads out of the root with ".."`, nil},
		{"only dot dot", []tarEntry{dirEntry("..")}, `unpack "..": the name leads out`, nil},
		{"dot dot inside", []tarEntry{fileEntry("a/../b", "")}, "", []string{"b"}},
		{"absolute", []tarEntry{fileEntry("/etc/x", "")}, "", []string{"etc", "etc/x"}},
		{"absolute dot dot", []tarEntry{fileEntry("/../../x", "")}, "", []string{"x"}},
		{"untidy", []tarEntry{fileEntry("./a//b/./c", ""), dirEntry("./")}, "", []string{"a", "a/b", "a/b/c"}},
		{"root as a file", []tarEntry{fileEntry("./.", "x")}, `unpack "./.": the root is not a directory`, nil},
		{"root as a link", []tarEntry{linkEntry(tar.TypeSymlink, "/", "/etc")}, `unpack "/": the root is not a directory`, nil},
		{"long name", []tarEntry{fileEntry(strings.Repeat("a/", 3000)+"b", "")}, `unpack "a/a/`, nil},
		{"long element", []tarEntry{fileEntry(strings.Repeat("a", 256), "")}, `unpack "` + strings.Repeat("a", 256) + `": stat: file name too long`, nil},
		{"deep through a link", []tarEntry{dirEntry(strings.Repeat("a/", 2000)), linkEntry(tar.TypeSymlink, "l", strings.Repeat("a/", 2000)), fileEntry("l/"+strings.Repeat("b/", 100)+"f", "")}, `unpack "l/b/b`, nil},

		{"link out, absolute", []tarEntry{linkEntry(tar.TypeSymlink, "l", "/canary"), fileEntry("l/f", "x")}, "", []string{"canary", "canary/f", "l"}},
		{"link out, relative", []tarEntry{linkEntry(tar.TypeSymlink, "l", "../canary"), fileEntry("l/f", "x")}, "", []string{"canary", "canary/f", "l"}},
		{"link out, through a directory", []tarEntry{dirEntry("d"), linkEntry(tar.TypeSymlink, "d/l", "../../../canary"), fileEntry("d/l/f", "x")}, "", []string{"canary", "canary/f", "d", "d/l"}},
		{"link to dot dot", []tarEntry{linkEntry(tar.TypeSymlink, "l", ".."), fileEntry("l/l/l/x", "x")}, "", nil},
		{"link over the last name", []tarEntry{linkEntry(tar.TypeSymlink, "l", "../canary/f"), fileEntry("l", "x")}, "", []string{"l"}},
		{"directory over a link", []tarEntry{linkEntry(tar.TypeSymlink, "l", "../canary"), dirEntry("l"), fileEntry("l/f", "")}, "", []string{"l", "l/f"}},
		{"link over a directory in use", []tarEntry{dirEntry("d"), fileEntry("d/f", "x"), linkEntry(tar.TypeSymlink, "d", "../canary"), fileEntry("d/f", "y")}, "", []string{"canary", "canary/f", "d"}},
		{"loop", []tarEntry{linkEntry(tar.TypeSymlink, "l", "l/x"), fileEntry("l/f", "")}, `unpack "l/f": too many levels of symbolic links`, nil},
		{"loop of two", []tarEntry{linkEntry(tar.TypeSymlink, "a", "b"), linkEntry(tar.TypeSymlink, "b", "/a"), fileEntry("a/f", "")}, `unpack "a/f": too many levels of symbolic links`, nil},
		{"below a file", []tarEntry{fileEntry("f", ""), fileEntry("f/g", "")}, `unpack "f/g": a parent is not a directory`, nil},
		{"below a link to a file", []tarEntry{fileEntry("f", ""), linkEntry(tar.TypeSymlink, "l", "f"), fileEntry("l/g", "")}, `unpack "l/g": a parent is not a directory`, nil},
		{"link to nothing", []tarEntry{linkEntry(tar.TypeSymlink, "l", "")}, `unpack "l": symlink: no such file`, nil},

		{"hard link out", []tarEntry{linkEntry(tar.TypeLink, "h", "../canary/f")}, `unpack "h": hard link to "../canary/f": the name leads out`, nil},
		{"hard link out, absolute", []tarEntry{linkEntry(tar.TypeLink, "h", "/canary/f")}, `unpack "h": hard link to a file that is not in this layer: "/canary/f"`, nil},
		{"hard link through a link", []tarEntry{linkEntry(tar.TypeSymlink, "l", "../canary"), linkEntry(tar.TypeLink, "h", "l/f")}, `unpack "h": hard link to a file that is not in this layer: "l/f"`, nil},
		{"hard link to a link out", []tarEntry{linkEntry(tar.TypeSymlink, "l", "../canary/f"), linkEntry(tar.TypeLink, "h", "l")}, "", []string{"h", "l"}},
		{"hard link and write", []tarEntry{linkEntry(tar.TypeSymlink, "l", "../canary/f"), linkEntry(tar.TypeLink, "h", "l"), fileEntry("h", "x")}, "", []string{"h", "l"}},
		{"hard link to nothing", []tarEntry{linkEntry(tar.TypeLink, "h", "")}, `unpack "h": hard link to a directory`, nil},
		{"hard link to a directory", []tarEntry{dirEntry("d"), linkEntry(tar.TypeLink, "h", "d")}, `unpack "h": hard link to a directory`, nil},
		{"hard link to itself", []tarEntry{fileEntry("f", "x"), linkEntry(tar.TypeLink, "f", "./f")}, `unpack "f": hard link to itself`, nil},
		{"hard link to a whiteout", []tarEntry{fileEntry(".wh.f", ""), linkEntry(tar.TypeLink, "h", "f")}, `unpack "h": hard link to a file that is not in this layer: "f"`, nil},
		{"hard link over its target's directory", []tarEntry{dirEntry("d"), fileEntry("d/f", ""), linkEntry(tar.TypeLink, "d", "d/f")}, `unpack "d": link: no such file`, nil},
		{"hard link that is there", []tarEntry{fileEntry("f", "x"), linkEntry(tar.TypeLink, "h", "f"), linkEntry(tar.TypeLink, "h", "f")}, "", []string{"f", "h"}},

		{"whiteout of nothing", []tarEntry{fileEntry(".wh.", "")}, `unpack ".wh.": not a valid name of a whiteout`, nil},
		{"whiteout of dot", []tarEntry{fileEntry("d/.wh..", "")}, `unpack "d/.wh..": not a valid name of a whiteout`, nil},
		{"whiteout of dot dot", []tarEntry{fileEntry("d/.wh...", "")}, `unpack "d/.wh...": not a valid name of a whiteout`, nil},
		{"below a whiteout", []tarEntry{fileEntry(".wh.d/f", "")}, `unpack ".wh.d/f": names that begin with ".wh."`, nil},
		{"records of AUFS", []tarEntry{dirEntry(".wh..wh.plnk"), fileEntry(".wh..wh.plnk/1.2", "x"), fileEntry(".wh..wh.aufs", "")}, "", []string{}},
		{"whiteout device", []tarEntry{dev(0, 0)}, `unpack "dev": a device 0/0`, nil},
		{"device of large numbers", []tarEntry{dev(1<<12, 0)}, `unpack "dev": device 4096/0 is not possible`, nil},

		{"owner of -1", []tarEntry{owner(-1, 0)}, `unpack "f": owner -1:0 is not possible`, nil},
		{"owner of 2^32-1", []tarEntry{owner(0, 1<<32-1)}, `unpack "f": owner 0:4294967295 is not possible`, nil},
		{"overlay's marks", []tarEntry{pax("SCHILY.xattr.trusted.overlay.opaque", "y")}, "", []string{"f"}},
		{"overlay's user marks", []tarEntry{pax("SCHILY.xattr.user.overlay.redirect", "/")}, "", []string{"f"}},
		{"trusted attribute", []tarEntry{pax("SCHILY.xattr.trusted.x", "y")}, "", []string{"f"}},
		{"unknown attribute", []tarEntry{pax("SCHILY.xattr.nonsense", "y")}, "", []string{"f"}},
		{"huge attribute", []tarEntry{pax("SCHILY.xattr.user.x", strings.Repeat("x", 70000))}, `unpack "f": set attribute "user.x": argument list too long`, nil},
		{"bad capability", []tarEntry{pax("SCHILY.xattr.security.capability", "x")}, `unpack "f": set attribute "security.capability": invalid argument`, nil},
		{"unknown type", []tarEntry{{Header: tar.Header{Name: "f", Typeflag: 'D'}}}, `unpack "f": entry type 'D' is not supported`, nil},
		{"global header", []tarEntry{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"path": "x", "SCHILY.xattr.user.x": "y"}}}, fileEntry("f", "")}, "", []string{"f"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, opts := range []ApplyOptions{{}, {Plain: true}, {UserXattr: true}} {
				j := newJail(t)
				_, err := j.apply(makeTar(t, tc.tar...), opts)
				j.check()
				if !strings.HasPrefix(errorText(err), tc.want) || tc.want == "" && err != nil {
					t.Errorf("%+v: %v, want %s", opts, err, or(tc.want, "no error"))
				}
				if tc.have == nil {
					continue
				}
				if have := slices.Sorted(maps.Keys(describe(t, j.dir))); !slices.Equal(have, tc.have) {
					t.Errorf("%+v: unpacked %q, want %q", opts, have, tc.have)
				}
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestApplyBrokenTar(t *testing.T) {
	testutil.Require(t, "root")
	good := makeTar(t, dirEntry("d/"), fileEntry("d/f", strings.Repeat("x", 300000)), fileEntry("g", "y"))
	sized := func(size string) []byte { // a file that says it has another size
		b := slices.Clone(makeTar(t, fileEntry("f", "data")))
		copy(b[124:136], size)
		var blk [blockSize]byte
		copy(blk[:], b)
		seal(&blk)
		copy(b, blk[:])
		return b
	}
	for _, tc := range []struct {
		name string
		data []byte
		opts ApplyOptions
		want string
		is   error
	}{
		{"cut in a header", good[:600], ApplyOptions{}, `read tar: unexpected EOF`, io.ErrUnexpectedEOF},
		{"cut in data", good[:5000], ApplyOptions{}, `unpack "d/f": read tar: unexpected EOF`, io.ErrUnexpectedEOF},
		{"no tar", bytes.Repeat([]byte("no tar "), 100), ApplyOptions{}, `read tar: archive/tar: invalid tar header`, tar.ErrHeader},
		{"bad checksum", append([]byte("x"), good[1:]...), ApplyOptions{}, `read tar: archive/tar: invalid tar header`, tar.ErrHeader},
		{"size beyond the end", sized("00000010000\x00"), ApplyOptions{}, `unpack "f": read tar: unexpected EOF`, io.ErrUnexpectedEOF},
		{"size of 8 EiB", sized("\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"), ApplyOptions{}, `unpack "f": read tar: unexpected EOF`, io.ErrUnexpectedEOF},
		{"size of 8 EiB, limited", sized("\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"), ApplyOptions{MaxBytes: 1 << 20}, `unpack "f": layer is larger than allowed: more than 1048576 bytes of files`, ErrTooLarge},
		{"negative size", sized("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), ApplyOptions{}, `read tar: archive/tar: invalid tar header`, tar.ErrHeader},
		{"too large", good, ApplyOptions{MaxBytes: 200000}, `read tar: layer is larger than allowed: more than 200000 bytes of tar`, ErrTooLarge},
		{"too large after its end", append(slices.Clone(good), make([]byte, 1<<20)...), ApplyOptions{MaxBytes: 400000}, ``, ErrTooLarge},
		{"device where none can be", makeTar(t, tarEntry{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}), ApplyOptions{NoDevices: true}, `unpack "null": device nodes can't be made here`, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := newJail(t)
			_, err := j.apply(tc.data, tc.opts)
			if !strings.HasPrefix(errorText(err), tc.want) || err == nil || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("%v, want %s (%v)", err, tc.want, tc.is)
			}
		})
	}
}

func TestApplyLaterWins(t *testing.T) {
	testutil.Require(t, "root")
	big := strings.Repeat("0123456789", 50000)
	var list []tarEntry
	for range 20 { // so that some are under way when their names come again
		list = append(list,
			fileEntry("f", big), fileEntry("f", "second"),
			fileEntry("a", "file"), dirEntry("a"), fileEntry("a/x", "x"),
			dirEntry("b"), fileEntry("b/x", "x"), fileEntry("b", "file"),
			fileEntry("h1", big), linkEntry(tar.TypeLink, "h2", "h1"),
			linkEntry(tar.TypeSymlink, "s", "f"), fileEntry("s", "no link"),
			linkEntry(tar.TypeSymlink, "p", "q"), fileEntry("p/in", "through"),
		)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, procs := range []int{1, 8} {
		runtime.GOMAXPROCS(procs)
		checkLaterWins(t, makeTar(t, list...), len(list), big)
	}
}

func checkLaterWins(t *testing.T, data []byte, n int, big string) {
	t.Helper()
	j := newJail(t)
	a, err := j.apply(data, ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"f": "second", "a/x": "x", "b": "file", "h1": big, "h2": big, "s": "no link", "q/in": "through"} {
		got, err := os.ReadFile(j.path(name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %.20q (%v), want %.20q", name, got, err, want)
		}
	}
	if a.Entries != n || !slices.Equal(a.Implied, []string{"q"}) {
		t.Errorf("%d entries, implied %q", a.Entries, a.Implied)
	}
}

func TestApplyImplied(t *testing.T) {
	testutil.Require(t, "root")
	j := newJail(t)
	a, err := j.apply(makeTar(t, fileEntry("a/b/c/f", ""), dirEntry("a/b"), fileEntry("d/.wh.x", "")), ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "a/b/c", "d"}; !slices.Equal(a.Implied, want) {
		t.Errorf("implied %q, want %q", a.Implied, want)
	}
	got := describe(t, j.dir)
	for name, want := range map[string]string{"a": "40755 0:0 t=0", "a/b": "40755 0:0 t=1672531205", "d": "40755 0:0 t=0"} {
		if got[name] != want {
			t.Errorf("%s: %s, want %s", name, got[name], want)
		}
	}
}

// marks lists whiteouts and opaque directories below dir.
func marks(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	for name, line := range describe(t, dir) {
		if strings.Contains(line, "dev 0/0") {
			out = append(out, "whiteout "+name)
		}
		buf := make([]byte, 8)
		for _, prefix := range []string{trustedOverlay, userOverlay} {
			if n, err := unix.Lgetxattr(filepath.Join(dir, name), prefix+"opaque", buf); err == nil {
				out = append(out, prefix+"opaque="+string(buf[:n])+" "+name)
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestApplyWhiteouts(t *testing.T) {
	testutil.Require(t, "root")
	for _, tc := range []struct {
		name  string
		tar   []tarEntry
		opts  ApplyOptions
		marks []string
		plain []string // what is left of d/{a,b/c} and f in a plain directory
	}{
		{"file", []tarEntry{fileEntry("d/.wh.a", "")}, ApplyOptions{}, []string{"whiteout d/a"}, []string{"d", "d/b", "d/b/c", "f"}},
		{"directory", []tarEntry{fileEntry(".wh.d", "")}, ApplyOptions{}, []string{"whiteout d"}, []string{"f"}},
		{"opaque", []tarEntry{dirEntry("d"), fileEntry("d/.wh..wh..opq", "")}, ApplyOptions{}, []string{"trusted.overlay.opaque=y d"}, []string{"d", "f"}},
		{"opaque, rootless", []tarEntry{fileEntry("d/.wh..wh..opq", "")}, ApplyOptions{UserXattr: true}, []string{"user.overlay.opaque=y d"}, []string{"d", "f"}},
		{"opaque after its siblings", []tarEntry{fileEntry("d/b/n", ""), fileEntry("d/n", ""), fileEntry("d/.wh..wh..opq", "")}, ApplyOptions{}, []string{"trusted.overlay.opaque=y d"}, []string{"d", "d/b", "d/b/n", "d/n", "f"}},
		{"opaque root", []tarEntry{fileEntry("n", ""), fileEntry(".wh..wh..opq", "")}, ApplyOptions{}, nil, []string{"n"}},
		{"whiteout, then the file", []tarEntry{fileEntry(".wh.f", ""), fileEntry("f", "")}, ApplyOptions{}, nil, []string{"d", "d/a", "d/b", "d/b/c", "f"}},
		{"the file, then whiteout", []tarEntry{fileEntry("f", ""), fileEntry(".wh.f", "")}, ApplyOptions{}, nil, []string{"d", "d/a", "d/b", "d/b/c", "f"}},
		{"whiteout, then a directory", []tarEntry{fileEntry(".wh.d", ""), dirEntry("d"), fileEntry("d/n", "")}, ApplyOptions{}, []string{"trusted.overlay.opaque=y d"}, []string{"d", "d/n", "f"}},
		{"whiteout, then something in it", []tarEntry{fileEntry(".wh.d", ""), fileEntry("d/n", "")}, ApplyOptions{}, []string{"trusted.overlay.opaque=y d"}, []string{"d", "d/n", "f"}},
		{"a directory, then whiteout", []tarEntry{dirEntry("d"), fileEntry("d/n", ""), fileEntry(".wh.d", "")}, ApplyOptions{}, []string{"trusted.overlay.opaque=y d"}, []string{"d", "d/n", "f"}},
		{"a file, then a directory", []tarEntry{fileEntry("d", ""), dirEntry("d")}, ApplyOptions{}, []string{"trusted.overlay.opaque=y d"}, []string{"d", "f"}},
		{"twice", []tarEntry{fileEntry(".wh.f", ""), fileEntry(".wh.f", "")}, ApplyOptions{}, []string{"whiteout f"}, []string{"d", "d/a", "d/b", "d/b/c"}},
		{"with contents", []tarEntry{fileEntry(".wh.f", "ignored")}, ApplyOptions{}, []string{"whiteout f"}, []string{"d", "d/a", "d/b", "d/b/c"}},
		{"of what isn't there", []tarEntry{fileEntry("d/.wh.z", "")}, ApplyOptions{}, []string{"whiteout d/z"}, []string{"d", "d/a", "d/b", "d/b/c", "f"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := newJail(t)
			a, err := j.apply(makeTar(t, tc.tar...), tc.opts)
			if err != nil {
				t.Fatal(err)
			}
			if got := marks(t, j.dir); !slices.Equal(got, tc.marks) {
				t.Errorf("marks %q, want %q", got, tc.marks)
			}
			if want := tc.name == "opaque root"; a.OpaqueRoot != want {
				t.Errorf("opaque root: %v", a.OpaqueRoot)
			}

			j = newJail(t)
			j.mkdir("d", 0o755).file("d/a", "", 0o644).mkdir("d/b", 0o755).file("d/b/c", "", 0o644).file("f", "old", 0o644)
			tc.opts.Plain = true
			if _, err := j.apply(makeTar(t, tc.tar...), tc.opts); err != nil {
				t.Fatal(err)
			}
			j.check()
			if got := slices.Sorted(maps.Keys(describe(t, j.dir))); !slices.Equal(got, tc.plain) {
				t.Errorf("plain: %q, want %q", got, tc.plain)
			}
			if got := marks(t, j.dir); len(got) > 0 {
				t.Errorf("plain: marks %q", got)
			}
		})
	}
}

func TestApplyPlainLinksToOldFiles(t *testing.T) {
	testutil.Require(t, "root")
	j := newJail(t)
	j.file("old", "x", 0o600)
	data := makeTar(t, linkEntry(tar.TypeLink, "new", "old"))
	if _, err := j.apply(data, ApplyOptions{Plain: true}); err != nil {
		t.Fatal(err)
	}
	// The link's entry sets the attributes of the file.
	if got, want := describe(t, j.dir)["old"], `100644 `; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, `links=["new" "old"]`) {
		t.Errorf("old: %s", got)
	}
	if _, err := newJail(t).apply(data, ApplyOptions{}); !errors.Is(err, ErrMissingLinkTarget) {
		t.Errorf("overlay form: %v", err)
	}
}

// TestApplyForeignTars unpacks what other tools write: GNU's long names, sparse
// files of both kinds, large numbers.
func TestApplyForeignTars(t *testing.T) {
	testutil.Require(t, "root", "tar")
	from := varied(t).remove("fifo2") // GNU tar doesn't see that it is a link
	from.file("sparse", "", 0o644)
	from.must(os.Truncate(from.path("sparse"), 10<<20))
	f, err := os.OpenFile(from.path("sparse"), os.O_WRONLY, 0)
	from.must(err)
	_, err = f.WriteAt([]byte("in the middle"), 5<<20)
	from.must(err)
	from.must(f.Close())
	from.stamp("sparse", clock)
	want := describe(t, from.dir)
	for _, format := range [][]string{{"--format=gnu"}, {"--format=gnu", "-S"}, {"--format=pax"}, {"--format=pax", "-S"}, {"--format=pax", "-S", "--sparse-version=0.1"}, {"--format=pax", "-S", "--sparse-version=0.0"}} {
		t.Run(strings.Join(format, " "), func(t *testing.T) {
			args := append([]string{"tar", "-cf", "-", "-C", from.dir}, format...)
			if format[0] == "--format=pax" {
				args = append(args, "--xattrs", "--xattrs-include=*")
			}
			data := run(t, append(args, ".")...)
			j := newJail(t)
			a, err := j.apply(data, ApplyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if a.Size != int64(len(data)) {
				t.Errorf("size %d of %d", a.Size, len(data))
			}
			got := describe(t, j.dir)
			if format[0] == "--format=gnu" { // which has no attributes
				for _, name := range []string{"bin/ping", "bin/ping6"} {
					got[name] = want[name]
				}
			}
			sameTree(t, "unpacked", got, want)
			var st unix.Stat_t
			if err := unix.Lstat(j.path("sparse"), &st); err != nil || slices.Contains(format, "-S") && st.Blocks > 2048 {
				t.Errorf("sparse file takes %d blocks (%v)", st.Blocks, err)
			}
		})
	}
}

func TestApplyFullDisk(t *testing.T) {
	testutil.Require(t, "root")
	j := newJail(t)
	j.must(unix.Mount("tmpfs", j.dir, "tmpfs", 0, "size=1m"))
	defer unix.Unmount(j.dir, unix.MNT_DETACH)
	for _, list := range [][]tarEntry{
		{fileEntry("big", strings.Repeat("x", 2<<20))},
		{fileEntry("a", strings.Repeat("x", 100000)), fileEntry("b", strings.Repeat("x", 100000)), fileEntry("c", strings.Repeat("x", 2<<20))},
	} {
		if _, err := j.apply(makeTar(t, list...), ApplyOptions{}); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), ": write: no space left on device") {
			t.Errorf("%v", err)
		}
	}
}

func TestApplyEndsWithItsGoroutines(t *testing.T) {
	testutil.Require(t, "root")
	var list []tarEntry
	for i := range 200 {
		list = append(list, fileEntry(strings.Repeat("d/", i%7)+strings.Repeat("f", i+1), strings.Repeat("x", 10000)))
	}
	list = append(list, fileEntry("big", strings.Repeat("x", 20<<20)))
	data := makeTar(t, list...)
	before, fds := runtime.NumGoroutine(), openFiles(t)
	for n := range 30 {
		j := newJail(t)
		f, err := os.Open(j.dir)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		broken := errors.New("broken pipe")
		// Even: the stream breaks; odd: the caller gives up.
		r := io.MultiReader(bytes.NewReader(data[:len(data)*n/30]), readerFunc(func([]byte) (int, error) {
			if n%2 == 1 {
				cancel()
				return 0, nil
			}
			return 0, broken
		}))
		_, err = Apply(ctx, f, r, ApplyOptions{})
		if want := broken; n%2 == 0 && !errors.Is(err, want) {
			t.Errorf("broken at %d: %v", n, err)
		}
		if n%2 == 1 && err == nil {
			t.Errorf("cancelled at %d: no error", n)
		}
		cancel()
		f.Close()
	}
	settled(t, before)
	if after := openFiles(t); after > fds {
		t.Errorf("%d open files, %d before", after, fds)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// FuzzApply holds Apply to its promise: whatever the tar, it neither panics nor
// touches anything outside the root, and no mark of overlayfs gets in but those
// that whiteouts stand for.
func FuzzApply(f *testing.F) {
	now := time.Unix(clock, 0)
	add := func(list ...tarEntry) {
		for i := range list {
			list[i].ModTime = now
		}
		f.Add(makeTar(f, list...), uint8(0))
		f.Add(makeTar(f, list...), uint8(1))
	}
	add(dirEntry("d"), fileEntry("d/f", "data"), linkEntry(tar.TypeSymlink, "l", "../canary"), fileEntry("l/f", "x"))
	add(linkEntry(tar.TypeSymlink, "a", "/"), linkEntry(tar.TypeSymlink, "a/b", ".."), fileEntry("a/b/canary/f", "x"))
	add(fileEntry("f", "x"), linkEntry(tar.TypeLink, "h", "f"), fileEntry(".wh.f", ""), fileEntry("d/.wh..wh..opq", ""))
	add(tarEntry{Header: tar.Header{Name: "x", Typeflag: tar.TypeChar, Devmajor: 1}}, tarEntry{Header: tar.Header{Name: "p", Typeflag: tar.TypeFifo}})
	add(tarEntry{Header: tar.Header{Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.metacopy": "", "SCHILY.xattr.user.x": "y"}}})
	add(dirEntry("d"), linkEntry(tar.TypeSymlink, "d", "../canary"), dirEntry("d/n"), fileEntry("../canary/f", "x"))
	add(fileEntry(strings.Repeat("é", 90), "x"), fileEntry(strings.Repeat("n/", 150)+"n", strings.Repeat("data", 1000)))
	f.Fuzz(func(t *testing.T, data []byte, how uint8) {
		j := newJail(t)
		opts := ApplyOptions{MaxBytes: 16 << 20, Plain: how&1 != 0, UserXattr: how&2 != 0, NoDevices: how&4 != 0}
		a, err := j.apply(data, opts)
		j.check()
		if err == nil && a.Size != int64(len(data)) {
			t.Errorf("read %d bytes of %d", a.Size, len(data))
		}
		checkMarks(t, j.dir, opts)
	})
}

// checkMarks fails the test if anything below dir has a mark of overlayfs that
// Apply doesn't set.
func checkMarks(t *testing.T, dir string, opts ApplyOptions) {
	t.Helper()
	err := filepath.WalkDir(dir+"/.", func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if isWhiteoutDevice(&st) && (opts.Plain || st.Mode&0o7777 != 0) {
			t.Errorf("%s: whiteout that no whiteout entry made", path)
		}
		buf := make([]byte, 64<<10)
		n, err := unix.Llistxattr(path, buf)
		if err != nil {
			return err
		}
		for _, attr := range strings.Split(string(buf[:n]), "\x00") {
			own := !opts.Plain && attr == overlayPrefix(opts.UserXattr)+"opaque"
			if !own && (strings.HasPrefix(attr, "trusted.") || strings.HasPrefix(attr, userOverlay)) {
				t.Errorf("%s has %s", path, attr)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
