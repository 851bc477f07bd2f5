// SPDX-License-Identifier: Apache-2.0

package names

import (
	"regexp"
	"testing"
)

// FuzzValid compares with docker's regular expression (daemon/names).
func FuzzValid(f *testing.F) {
	want := regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
	for _, s := range []string{"", "a", "A9", "_a", ".", "-", "a_", "a.b-c_d", "a b", "a/b", "a\n", "é", "\xff", "aé", "a\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if Valid(s) != want.MatchString(s) {
			t.Errorf("%q is a name: %t", s, Valid(s))
		}
	})
}
