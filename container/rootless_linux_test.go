// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os/exec"
	"path"
	"strconv"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// TestVacate hands a controller on from a group that has processes, as the one
// that is delegated to a user has.
func TestVacate(t *testing.T) {
	testutil.Require(t, "root", "sleep")
	root, err := openCgroup2()
	must(t, err)
	t.Cleanup(func() { root.Close() })
	text, err := readAllAt(root, "cgroup.controllers")
	must(t, err)
	all := strings.Fields(text)
	if len(all) == 0 {
		t.Skip("every controller is bound to version 1")
	}
	c := &cgroups{root: root, base: "builder-test-vacate", rootless: true}
	g, err := newCgroup(root, path.Join(c.base, defaultCgroupParent), "x")
	must(t, err)
	cmd := exec.Command("sleep", "1000")
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		must(t, g.remove())
		must(t, removeCgroup(root, c.base))
	})
	must(t, writeFileAt(root, c.base+"/cgroup.procs", strconv.Itoa(cmd.Process.Pid)))
	// As who delegates the group does it.
	must(t, writeFileAt(root, "cgroup.subtree_control", "+"+all[0]))
	must(t, c.enable(path.Dir(g.path), all[0]))
	if own, ok := cgroupOf(strconv.Itoa(cmd.Process.Pid)); !ok || own != path.Join(c.base, ownSuffix) {
		t.Errorf("the process is in %s", own)
	}
	if text, err := readAllAt(g.dir, "cgroup.controllers"); err != nil || !strings.Contains(text, all[0]) {
		t.Errorf("controllers %q, %v", text, err)
	}
}
