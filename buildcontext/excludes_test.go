// SPDX-License-Identifier: Apache-2.0

package buildcontext

import "testing"

func TestExcludes(t *testing.T) {
	tests := []struct {
		patterns []string
		name     string
		want     bool
	}{
		{nil, "a", false},
		{[]string{"a"}, "a", true},
		{[]string{"a"}, "a/b", true},
		{[]string{"a/b"}, "a", false},
		{[]string{"a", "!a/b"}, "a", false},
		{[]string{"*.txt"}, "x.txt", true},
		{[]string{"*.txt"}, "*.txt", true},
		{[]string{"a"}, "/a", false},
		{[]string{"a"}, ".", false},
		{[]string{"*"}, ".", true},
		{[]string{"**"}, "/", true},
		{[]string{"**/*"}, ".", true},
		{[]string{"*", "!x"}, ".", false},
	}
	for _, tt := range tests {
		tree, err := Open(t.TempDir(), Options{Ignore: tt.patterns})
		if err != nil {
			t.Fatal(err)
		}
		if got := tree.Excludes(tt.name); got != tt.want {
			t.Errorf("%q exclude %q: %t, want %t", tt.patterns, tt.name, got, tt.want)
		}
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	}
}
