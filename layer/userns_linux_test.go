// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"builder/internal/testutil"
)

// userNamespaceDir tells the test below that it runs in a user namespace, and
// where it may write.
const userNamespaceDir = "BUILDER_TEST_USERNS_DIR"

// TestUserNamespace does in a user namespace, as rootless builds do, what needs
// rights that root has only outside.
func TestUserNamespace(t *testing.T) {
	if dir := os.Getenv(userNamespaceDir); dir != "" {
		inUserNamespace(t, dir)
		return
	}
	testutil.Require(t, "root")
	dir := newTree(t)
	const first = 100000
	dir.chown(".", first, first)
	dir.must(os.Chmod(filepath.Dir(dir.dir), 0o755))
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 65536}}
	// The binary itself lies where only root may look.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestUserNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), userNamespaceDir+"="+dir.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{}, // root, inside
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func inUserNamespace(t *testing.T, dir string) {
	root := tree{t, dir}
	opts := ApplyOptions{UserXattr: true, NoDevices: true}
	apply := func(list ...tarEntry) error {
		_, err := Apply(t.Context(), root.open(), bytes.NewReader(makeTar(t, list...)), opts)
		return err
	}
	err := apply(
		dirEntry("d"), fileEntry("d/.wh..wh..opq", ""), fileEntry("d/.wh.gone", ""),
		tarEntry{Header: tar.Header{Name: "d/ping", Mode: 0o4755, Uid: 1000, Gid: 65535, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": capability,
			"SCHILY.xattr.security.selinux":    "label",
			"SCHILY.xattr.user.x":              "y",
		}}},
		linkEntry(tar.TypeSymlink, "l", "d"), tarEntry{Header: tar.Header{Name: "p", Typeflag: tar.TypeFifo, Uid: 7}},
	)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := marks(t, dir), []string{"user.overlay.opaque=y d", "whiteout d/gone"}; !slices.Equal(got, want) {
		t.Errorf("marks %q, want %q", got, want)
	}
	var buf bytes.Buffer
	if _, err := Diff(t.Context(), &buf, Upper{Dir: dir, UserXattr: true}, plainTar); err != nil {
		t.Fatal(err)
	}
	for _, hdr := range headers(t, buf.Bytes()) {
		if hdr.Name == "d/ping" && (hdr.Mode != 0o4755 || hdr.Uid != 1000 || hdr.Gid != 65535 || hdr.PAXRecords["SCHILY.xattr.security.capability"] == "") {
			t.Errorf("written again: %+v", hdr)
		}
	}
	if got, want := entries(t, buf.Bytes()), []string{"5 d/", "0 d/ping", "2 l -> d", "6 p"}; !slices.Equal(got, want) {
		t.Errorf("entries %q, want %q", got, want)
	}
	if err := apply(tarEntry{Header: tar.Header{Name: "f", Uid: 70000}}); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "id mapped") {
		t.Errorf("owner that is not mapped: %v", err)
	}
	if err := apply(tarEntry{Header: tar.Header{Name: "n", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}); !errors.Is(err, errDevice) {
		t.Errorf("device: %v", err)
	}
}
