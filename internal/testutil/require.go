// SPDX-License-Identifier: Apache-2.0

// Package testutil holds what tests of several packages share.
package testutil

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Require skips the test unless this process has everything that it needs:
// "root" (user id 0 and the right to mount) or the name of a program, as
// "skopeo". What the variable BUILDER_TEST_REQUIRE lists, separated by commas
// ("all" for everything), must not be missing: then the test fails instead of
// being skipped, so that a run meant to be whole can't pass by skipping.
func Require(t testing.TB, needs ...string) {
	t.Helper()
	required := strings.Split(os.Getenv("BUILDER_TEST_REQUIRE"), ",")
	for _, need := range needs {
		if have(need) {
			continue
		}
		if slices.Contains(required, need) || slices.Contains(required, "all") {
			t.Fatalf("this run must have %q, and it is missing", need)
		}
		t.Skipf("needs %s", need)
	}
}

func have(need string) bool {
	if need == "root" {
		return os.Geteuid() == 0
	}
	_, err := exec.LookPath(need)
	return err == nil
}
