// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// TestDoctorDumpable: doctor warns of the one unsafe value, with the fix.
func TestDoctorDumpable(t *testing.T) {
	for value, bad := range map[string]bool{"0\n": false, "1\n": true, "2\n": false, "": false} {
		f := found("hidden memory", false, "yes", "the fix", checkDumpable(value))
		if f.OK == bad || (f.Fix == "the fix") != bad || strings.Contains(f.Result, "suid_dumpable is 1") != bad {
			t.Errorf("%q: %+v", value, f)
		}
	}
	w := newBench(t)
	want := "true\n"
	if checkDumpable(fileText("/proc/sys/fs/suid_dumpable")) != nil {
		want = "false\n"
	}
	if out := w.ok("doctor", "--format", `{{if eq .Probe "hidden memory"}}{{.OK}}{{end}}`); !strings.Contains(out, want) {
		t.Errorf("doctor: %q", out)
	}
}
