// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"
	"strconv"
	"strings"
)

// MountsIn returns where something is mounted: dir itself or below it, as this
// process sees it. dir is absolute, clean and without symbolic links
// (proc_pid_mountinfo(5)).
func MountsIn(dir string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var in []string
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if at := unescapeMount(f[4]); at == dir || strings.HasPrefix(at, strings.TrimSuffix(dir, "/")+"/") {
			in = append(in, at)
		}
	}
	return in, nil
}

// unescapeMount undoes the kernel's \OOO for blanks, backslashes and the like.
func unescapeMount(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out = append(out, byte(c))
				i += 3
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}
