// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// reference writes h with archive/tar in the way that containerd does.
func reference(h *header) ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	th := &tar.Header{
		Name: h.name, Linkname: h.link, Typeflag: h.typeflag, Mode: int64(h.mode),
		Uid: int(h.uid), Gid: int(h.gid), Size: h.size, ModTime: time.Unix(h.mtime, 0),
		Devmajor: int64(h.devMajor), Devminor: int64(h.devMinor), Format: tar.FormatPAX,
	}
	if len(h.xattrs) > 0 {
		th.PAXRecords = map[string]string{}
		for _, x := range h.xattrs {
			th.PAXRecords[paxXattr+x.name] = x.value
		}
	}
	if err := tw.WriteHeader(th); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func TestHeaderIsArchiveTars(t *testing.T) {
	long := strings.Repeat("d/", 40)
	for _, tc := range []struct {
		name string
		h    header
	}{
		{"file", header{name: "etc/passwd", typeflag: typeReg, mode: 0o644, size: 1234, mtime: 1700000000}},
		{"setuid", header{name: "bin/su", typeflag: typeReg, mode: 0o4755}},
		{"dir", header{name: "etc/", typeflag: typeDir, mode: 0o1777, uid: 7, gid: 8}},
		{"symlink", header{name: "lib", link: "usr/lib", typeflag: typeSymlink, mode: 0o777}},
		{"hard link", header{name: "b", link: "a", typeflag: typeLink, mode: 0o600}},
		{"device", header{name: "dev/sda1", typeflag: typeBlock, mode: 0o660, devMajor: 8, devMinor: 1}},
		{"char device", header{name: "dev/null", typeflag: typeChar, mode: 0o666, devMajor: 1, devMinor: 3}},
		{"fifo", header{name: "run/f", typeflag: typeFifo, mode: 0o600}},
		{"whiteout", header{name: "etc/.wh.passwd", typeflag: typeReg}},
		{"name of 100", header{name: strings.Repeat("n", 100), typeflag: typeReg}},
		{"name of 101", header{name: strings.Repeat("n", 101), typeflag: typeReg}},
		{"dir of 101", header{name: strings.Repeat("n", 100) + "/", typeflag: typeDir}},
		{"name that splits", header{name: long + strings.Repeat("n", 90), typeflag: typeReg}},
		{"dir that splits", header{name: long + strings.Repeat("n", 90) + "/", typeflag: typeDir}},
		{"name of 256", header{name: strings.Repeat("p", 155) + "/" + strings.Repeat("n", 100), typeflag: typeReg}},
		{"name of 257", header{name: strings.Repeat("p", 156) + "/" + strings.Repeat("n", 100), typeflag: typeReg}},
		{"name of 300", header{name: strings.Repeat("n", 300), typeflag: typeReg}},
		{"cut at a slash", header{name: strings.Repeat("n", 99) + "/" + strings.Repeat("m", 200), typeflag: typeReg}},
		{"cut at slashes", header{name: strings.Repeat("n", 97) + "/x/" + strings.Repeat("m", 200), typeflag: typeReg}},
		{"splits but big id", header{name: long + strings.Repeat("n", 90), typeflag: typeReg, uid: 1 << 22}},
		{"long link", header{name: "l", link: strings.Repeat("t", 200), typeflag: typeSymlink}},
		{"unicode", header{name: "ж/日本/é", typeflag: typeReg}},
		{"not UTF-8", header{name: "a\xff\xfeb\xe2x", link: "\xff", typeflag: typeSymlink}},
		{"unicode long dir", header{name: strings.Repeat("é", 90) + "/x/", typeflag: typeDir}},
		{"big ids", header{name: "f", typeflag: typeReg, uid: 2097152, gid: 4294967294}},
		{"largest ids of a block", header{name: "f", typeflag: typeReg, uid: 2097151, gid: 2097151}},
		{"8 GiB", header{name: "f", typeflag: typeReg, size: 8 << 30}},
		{"8 GiB less one", header{name: "f", typeflag: typeReg, size: 8<<30 - 1}},
		{"before 1970", header{name: "f", typeflag: typeReg, mtime: -5}},
		{"after 2242", header{name: "f", typeflag: typeReg, mtime: 1 << 33}},
		{"capability", header{name: "bin/ping", typeflag: typeReg, xattrs: []xattr{{"security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00"}}}},
		{"two attributes", header{name: "f", typeflag: typeReg, gid: 1 << 30, xattrs: []xattr{{"security.capability", "x"}, {"user.a", "b=c\n"}}}},
		{"record of 99 bytes", header{name: strings.Repeat("é", 45) + "n", typeflag: typeReg}},
		{"record of 100 bytes", header{name: strings.Repeat("é", 46), typeflag: typeReg}},
		{"record of 999 bytes", header{name: strings.Repeat("n", 988), typeflag: typeReg}},
		{"record of 1000 bytes", header{name: strings.Repeat("n", 989), typeflag: typeReg}},
		{"record of 1001 bytes", header{name: strings.Repeat("n", 990), typeflag: typeReg}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := appendHeader(nil, &tc.h)
			if err != nil {
				t.Fatal(err)
			}
			want, err := reference(&tc.h)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("bytes differ from archive/tar's:\n got %q\nwant %q", got, want)
			}
		})
	}
}

func TestHeaderRefusals(t *testing.T) {
	for _, tc := range []struct {
		name string
		h    header
		want error
	}{
		{"attribute name", header{name: "f", typeflag: typeReg, xattrs: []xattr{{"user.a=b", ""}}}, errAttrName},
		{"attributes of 1 MiB", header{name: "f", typeflag: typeReg, xattrs: []xattr{{"user.a", strings.Repeat("x", 1<<20)}}}, errPAXSize},
	} {
		if _, err := appendHeader(nil, &tc.h); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

// FuzzHeader holds the header writer to archive/tar: the same bytes for
// whatever it accepts, and its reader gets back what was written.
func FuzzHeader(f *testing.F) {
	f.Add("etc/passwd", "", byte(typeReg), uint32(0o644), uint32(0), uint32(0), int64(10), int64(1e9), "", "")
	f.Add(strings.Repeat("a/", 90), strings.Repeat("ü", 60), byte(typeSymlink), uint32(0o777), uint32(1<<31), uint32(9), int64(0), int64(-9), "security.capability", "\x00")
	f.Fuzz(func(t *testing.T, name, link string, typeflag byte, mode, uid, gid uint32, size, mtime int64, key, value string) {
		if strings.Contains(name+link+key, "\x00") || name == "" || strings.Contains(key, "=") || size < 0 {
			return // a kernel has no such names
		}
		h := header{name: name, link: link, mode: mode & 0o7777, uid: uid, gid: gid, mtime: mtime}
		h.typeflag = []byte{typeReg, typeLink, typeSymlink, typeChar, typeBlock, typeDir, typeFifo}[typeflag%7]
		if h.typeflag == typeReg {
			h.size = size
		}
		if key != "" {
			h.xattrs = []xattr{{key, value}}
		}
		want, err := reference(&h)
		if err != nil {
			return
		}
		got, err := appendHeader(nil, &h)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("bytes differ from archive/tar's:\n%q\n%q", got, want)
		}
		back, err := tar.NewReader(bytes.NewReader(got)).Next()
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("archive/tar doesn't read it: %v", err)
		}
		if back.Name != name || back.ModTime.Unix() != mtime {
			t.Fatalf("read back %q %v", back.Name, back.ModTime)
		}
	})
}
