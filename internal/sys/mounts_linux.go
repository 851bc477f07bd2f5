// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// MountsIn returns where something is mounted: dir itself or below it, as this
// process sees it. dir is absolute, clean and without symbolic links
// (proc_pid_mountinfo(5)).
func MountsIn(dir string) ([]string, error) {
	table, err := MountTable("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var in []string
	for _, m := range table {
		if m.At == dir || strings.HasPrefix(m.At, strings.TrimSuffix(dir, "/")+"/") {
			in = append(in, m.At)
		}
	}
	return in, nil
}

// MountEntry is a line of a mount table.
type MountEntry struct {
	ID           string // see [MountID]
	Root         string // what of the file system is mounted
	At           string // where
	Type, Source string // of the file system
}

// MountTable reads a table as of proc_pid_mountinfo(5).
func MountTable(name string) ([]MountEntry, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var table []MountEntry
	for line := range strings.Lines(string(text)) {
		// Between the two parts is a number of optional fields.
		mount, fs, _ := strings.Cut(line, " - ")
		m, f := strings.Fields(mount), strings.Fields(fs)
		if len(m) < 5 || len(f) < 2 {
			continue
		}
		table = append(table, MountEntry{m[0], unescapeMount(m[3]), unescapeMount(m[4]), f[0], unescapeMount(f[1])})
	}
	return table, nil
}

// MountID is the number of the mount by which a file was opened. Its file system is not
// asked.
func MountID(f *os.File) (string, error) {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", errors.New("no mnt_id in fdinfo")
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
