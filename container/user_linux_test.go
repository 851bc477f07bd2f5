// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/internal/testutil"
)

// account makes a root with the account files given, as text or as made by a
// function.
func account(t testing.TB, passwd, group any) *os.File {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/etc", 0o755))
	for name, v := range map[string]any{"passwd": passwd, "group": group} {
		name = filepath.Join(dir, "etc", name)
		switch v := v.(type) {
		case string:
			must(t, os.WriteFile(name, []byte(v), 0o644))
		case func(string) error:
			must(t, v(name))
		}
	}
	root, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

const (
	passwdText = "# accounts\n\n  root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001:Ada:/home/ada:/bin/sh\nada:x:5:5:second:/:\n" +
		"short:x:7:8\nbad:x:zero:0::/:\nneg:x:-1:0::/:\nbig:x:4294967295:0::/:\nbiggid:x:9:4294967295::/:\n1234:x:77:77::/n:\nlead:x:0042:0042::/l:\n"
	groupText = "root:x:0:root\nada:x:1001:\nwheel:x:10:root,ada\naudio:x:63:ada,root\nada2:x:64:adalbert\nbad:x:gid:\n1234:x:88:\nshort:x\n"
)

func TestLookupUser(t *testing.T) {
	root := account(t, passwdText, groupText)
	for _, tc := range []struct {
		spec string
		add  []string
		want User
		err  string
	}{
		{spec: "", want: User{Name: "root", Home: "/root", Groups: []uint32{0, 10, 63}}},
		{spec: "root", want: User{Name: "root", Home: "/root", Groups: []uint32{0, 10, 63}}},
		{spec: "0", want: User{Name: "root", Home: "/root", Groups: []uint32{0, 10, 63}}},
		{spec: "0:0", want: User{Name: "root", Home: "/root"}},
		{spec: "ada", want: User{UID: 1000, GID: 1001, Name: "ada", Home: "/home/ada", Groups: []uint32{10, 63}}},
		{spec: "ada:", want: User{UID: 1000, GID: 1001, Name: "ada", Home: "/home/ada", Groups: []uint32{10, 63}}},
		{spec: "1000", want: User{UID: 1000, GID: 1001, Name: "ada", Home: "/home/ada", Groups: []uint32{10, 63}}},
		{spec: "ada:wheel", want: User{UID: 1000, GID: 10, Name: "ada", Home: "/home/ada"}},
		{spec: "ada:55", want: User{UID: 1000, GID: 55, Name: "ada", Home: "/home/ada"}},
		{spec: ":wheel", want: User{GID: 10, Name: "root", Home: "/root"}},
		{spec: "4242", want: User{UID: 4242, Home: "/"}},
		{spec: "4242:audio", want: User{UID: 4242, GID: 63, Home: "/"}},
		{spec: "42", want: User{UID: 42, GID: 42, Name: "lead", Home: "/l"}},
		{spec: "1234", want: User{UID: 1234, Home: "/"}},                     // a number is an id, not a name
		{spec: "0:1234", want: User{GID: 1234, Name: "root", Home: "/root"}}, // the same for groups
		{spec: "4294967294", want: User{UID: 4294967294, Home: "/"}},
		{spec: "short", want: User{UID: 7, GID: 8, Name: "short", Home: "/"}},
		{spec: "ada", add: []string{"ada", "63", "500"}, want: User{UID: 1000, GID: 1001, Name: "ada", Home: "/home/ada", Groups: []uint32{10, 63, 1001, 500}}},
		{spec: "nobody", err: "no such name"},
		{spec: "ada:nobody", err: `no group "nobody"`},
		{spec: "ada", add: []string{"nobody"}, err: `no group "nobody"`},
		{spec: "bad", err: "no numeric user and group id"},
		{spec: "neg", err: "no numeric user"},
		{spec: "big", err: "out of range"},
		{spec: "biggid", err: "out of range"},
		{spec: "4294967295", err: "out of range"},
		{spec: "99999999999999999999", err: "out of range"},
		{spec: "0:4294967295", err: "out of range"},
		{spec: "ada:bad", err: "no numeric group id"},
		{spec: "ada:short", err: "no numeric group id"},
		{spec: "-1", err: "no such name"},
		{spec: "ada:wheel:x", err: `no group "wheel:x"`},
	} {
		got, err := LookupUser(root, tc.spec, tc.add)
		switch {
		case tc.err == "" && err != nil:
			t.Errorf("%q: %v", tc.spec, err)
		case tc.err != "":
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q: error %v, want %q", tc.spec, err, tc.err)
			}
		case !reflect.DeepEqual(got, tc.want):
			t.Errorf("%q: %+v, want %+v", tc.spec, got, tc.want)
		}
	}
}

// Account files that are none.
func TestLookupUserHostile(t *testing.T) {
	testutil.Require(t, "root")
	outside := filepath.Join(t.TempDir(), "passwd")
	must(t, os.WriteFile(outside, []byte("evil:x:666:666::/:\n"), 0o644))
	for name, v := range map[string]any{
		"missing":    nil,
		"FIFO":       func(name string) error { return unix.Mkfifo(name, 0o644) },
		"device":     func(name string) error { return unix.Mknod(name, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) },
		"directory":  func(name string) error { return os.Mkdir(name, 0o755) },
		"link out":   func(name string) error { return os.Symlink(outside, name) },
		"dots out":   func(name string) error { return os.Symlink(strings.Repeat("../", 30)+outside, name) },
		"loop":       func(name string) error { return os.Symlink(filepath.Base(name), name) },
		"magic link": func(name string) error { return os.Symlink("/proc/self/fd/0", name) },
		"huge":       func(name string) error { return sparse(name, 1<<40) },
		"no newline": strings.Repeat("x", 9<<20),
	} {
		t.Run(name, func(t *testing.T) {
			root := account(t, v, v)
			for _, spec := range []string{"evil", "0:evil"} {
				if u, err := LookupUser(root, spec, nil); err == nil {
					t.Errorf("%s: %+v", spec, u)
				}
			}
			for _, spec := range []string{"", "7", "7:7"} {
				if _, err := LookupUser(root, spec, []string{"5"}); err != nil && name != "no newline" {
					t.Errorf("%q: %v", spec, err)
				}
			}
		})
	}
	// A file that the kernel makes up may be the machine's.
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "p"), 0o755))
	must(t, os.Symlink("/p/version", filepath.Join(dir, "etc/passwd")))
	must(t, unix.Mount("/proc", filepath.Join(dir, "p"), "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(filepath.Join(dir, "p"), unix.MNT_DETACH)) }()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	if u, err := LookupUser(f, "evil", nil); err == nil || !strings.Contains(err.Error(), "is a file of the kernel's") {
		t.Errorf("%+v, %v", u, err)
	}
	// Within the root links are fine.
	root := account(t, func(name string) error { return os.Symlink("/etc/../etc/group", name) }, "in:x:3:4::/in:\n")
	if u, err := LookupUser(root, "in", nil); err != nil || u.UID != 3 {
		t.Errorf("%+v, %v", u, err)
	}
}

func sparse(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(size)
}

// Whatever the files say, a lookup ends, and an id that is found is one that
// the kernel takes for what it says.
func FuzzLookupUser(f *testing.F) {
	f.Add(passwdText, groupText, "ada:wheel")
	f.Add(passwdText, groupText, "")
	f.Add("a:x:1:1", "", "a")
	f.Add(":::::::\n", ":::\n", ":")
	f.Add("root:x:0:0", "g:x:9:root,root", "root")
	f.Fuzz(func(t *testing.T, passwd, group, spec string) {
		root := account(t, passwd, group)
		u, err := LookupUser(root, spec, nil)
		if err != nil {
			return
		}
		for _, id := range append([]uint32{u.UID, u.GID}, u.Groups...) {
			if id > maxID {
				t.Errorf("id %d of %q", id, spec)
			}
		}
		// An id of 0 was asked for, or is written down as such.
		name, _, _ := strings.Cut(spec, ":")
		if u.UID == 0 && name != "" && strings.Trim(name, "0") != "" && !strings.Contains(passwd, ":0") {
			t.Errorf("%q is user 0", spec)
		}
	})
}
