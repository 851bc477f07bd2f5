// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"builder/mount"
)

// TestEditEtc edits resolv.conf of containers that are made in all kinds of ways, and
// of some that have put something else in its place.
func TestEditEtc(t *testing.T) {
	const text, edited = "nameserver 192.0.2.1\n", "# none\n"
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte(text), 0o644))
	ready := []string{"echo", "ready", ";", "sleep", "1000"}
	plain := func() Spec { return newSpec(t, ready...) }
	bound := func(spec Spec, target string) Spec {
		spec.Mounts = []mount.Mount{{Type: mount.Bind, Source: outside, Target: target}}
		return spec
	}
	readOnly, privileged := plain(), plain()
	readOnly.ReadOnly, privileged.Privileged = true, true
	mapped, _ := mappedSpec(t, ready...)
	mappedReadOnly, _ := mappedSpec(t, ready...)
	mappedReadOnly.ReadOnly = true
	linked := image(t)
	must(t, os.Symlink("../data/resolv.conf", filepath.Join(linked, "etc/resolv.conf")))
	link := plain()
	link.Root, _ = rootOf(t, linked)
	bare := image(t)
	must(t, os.RemoveAll(filepath.Join(bare, "etc")))
	moved := bound(plain(), "/outside")
	moved.Root, _ = rootOf(t, bare)
	for _, tt := range []struct {
		name string
		spec Spec
		does string // what the container does before
		file string // where it sees the file then; "" if that isn't edited
	}{
		{"plain", plain(), "", "/etc/resolv.conf"},
		{"read-only", readOnly, "", "/etc/resolv.conf"},
		{"in a user namespace", mapped, "", "/etc/resolv.conf"},
		{"read-only, in a user namespace", mappedReadOnly, "", "/etc/resolv.conf"},
		{"a link in the image", link, "", "/data/resolv.conf"},
		{"moved away, and a link in its place", moved, "rename /etc /moved ; mkdir /etc ; symlink /outside /etc/resolv.conf", "/moved/resolv.conf"},
		{"a user's mount", bound(plain(), "/etc/resolv.conf"), "", ""},
		{"something mounted above it", privileged, "mount tmpfs /etc", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.ResolvConf = []byte(text)
			p, target := startTarget(t, tt.spec)
			if tt.does != "" {
				if out, err := execOutput(t, target, ExecSpec{Args: strings.Fields(tt.does)}); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			edit := func(to string) (called bool, err error) {
				err = EditEtc(target, "resolv.conf", func(have []byte) []byte {
					if called = true; string(have) != text {
						t.Errorf("it was %q", have)
					}
					return []byte(to)
				})
				return called, err
			}
			id := target.Spec.ID
			target.Spec.ID = "another's"
			if called, err := edit(edited); err != nil || called {
				t.Errorf("another container's file is edited: %v, %v", called, err)
			}
			target.Spec.ID = id
			if called, err := edit(edited); err != nil || called != (tt.file != "") {
				t.Errorf("called: %v, %v", called, err)
			}
			if have, err := os.ReadFile(outside); err != nil || string(have) != text {
				t.Errorf("the file of the machine is %q (%v)", have, err)
			}
			if tt.file != "" {
				if out, err := execOutput(t, target, ExecSpec{Args: []string{"cat", tt.file}}); err != nil || out != edited {
					t.Errorf("the container has %q (%v)", out, err)
				}
			}
			p.Kill()
			p.Wait()
			if called, err := edit(edited); called || !errors.Is(err, ErrGone) {
				t.Errorf("after its end called: %v, %v", called, err)
			}
		})
	}
}

func TestWithAddresses(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}
	lines := func(l ...string) string { return strings.Join(l, "\n") + "\n" }
	for _, tt := range []struct{ have, want string }{
		{"", lines("10.0.0.2\tbox", "fd00::2\tbox")},
		{"127.0.0.1 box", lines("127.0.0.1 box", "10.0.0.2\tbox", "fd00::2\tbox")},
		{lines("10.0.0.1\tbox", "fd00::2\tbox", "10.0.0.9\tother"), lines("fd00::2\tbox", "10.0.0.9\tother", "10.0.0.2\tbox")},
		{lines("10.0.0.1 box box.lan", "# 10.0.0.1 box"), lines("10.0.0.1 box box.lan", "# 10.0.0.1 box", "10.0.0.2\tbox", "fd00::2\tbox")},
	} {
		got := string(WithAddresses([]byte(tt.have), Host{Name: "box"}, addrs))
		if again := string(WithAddresses([]byte(got), Host{Name: "box"}, addrs)); got != tt.want || again != got {
			t.Errorf("%q becomes %q, then %q, want %q", tt.have, got, again, tt.want)
		}
	}
}
