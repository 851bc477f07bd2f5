// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestSubordinate(t *testing.T) {
	const text = "other:1:2\njoe:100000:65536\n# joe:1:1\n1000:300000:10\njoe:x:1\njoe:5\njoe:0:10\njoe:7:0\njoe:4294967290:100\n:9:9\n"
	if got, want := parseSubordinate(text, "joe", 1000), []idRange{{100000, 65536}, {300000, 10}}; !slices.Equal(got, want) {
		t.Errorf("ranges %v, want %v", got, want)
	}
	if got := parseSubordinate(text, "", 1); got != nil {
		t.Errorf("ranges of nobody: %v", got)
	}
	got := strings.Join(mapping(1000, []idRange{{100000, 65536}, {300000, 10}}), " ")
	if got != "0 1000 1 1 100000 65536 65537 300000 10" {
		t.Errorf("mapping %s", got)
	}
}

// FuzzSubordinate: whatever the file holds, what is taken from it are ids.
func FuzzSubordinate(f *testing.F) {
	f.Add("joe:100000:65536\n1000:1:1")
	f.Add("joe:4294967295:4294967295")
	f.Fuzz(func(t *testing.T, text string) {
		ranges := parseSubordinate(text, "joe", 1000)
		for _, r := range ranges {
			if r.first == 0 || r.count == 0 || r.first+r.count >= 1<<32 {
				t.Errorf("range %v", r)
			}
		}
		if args := mapping(1000, ranges); len(args) != 3*(len(ranges)+1) || args[1] != strconv.Itoa(1000) {
			t.Errorf("mapping %q", args)
		}
	})
}
