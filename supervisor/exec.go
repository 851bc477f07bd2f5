// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"fmt"
	"os"
	"path/filepath"

	"builder/container"
)

// Commands that were executed in a running container are noted by names of files:
// their IDs, with process and start time. They hold as long as that process lives.

func (r Records) execDir(id string) string { return filepath.Join(r.Dir(id), "exec") }

// NoteExec notes that a process runs in a container besides its own, until forget is
// called or it ends. What can't be written is not known: nothing else depends on it.
func (r Records) NoteExec(c Config, id string, pid int) (forget func()) {
	dir, start := r.execDir(c.ID), container.StartTime(pid)
	if start == 0 {
		return func() {} // it has ended
	}
	r.Execs(c) // nobody else may take away those that have ended
	name := filepath.Join(dir, fmt.Sprintf("%s-%d-%d", id, pid, start))
	_ = os.Mkdir(dir, 0o700)
	_ = os.WriteFile(name, nil, 0o600)
	return func() { _ = os.Remove(name) }
}

// Execs are the IDs of what was executed in a container and runs.
func (r Records) Execs(c Config) []string {
	ids := []string{}
	entries, _ := os.ReadDir(r.execDir(c.ID)) // there may have been none
	for _, e := range entries {
		var id string
		var pid int
		var start uint64
		if _, err := fmt.Sscanf(e.Name(), "%64s-%d-%d", &id, &pid, &start); err != nil {
			continue
		}
		if isProcess(pid, start) {
			ids = append(ids, id)
			continue
		}
		_ = os.Remove(filepath.Join(r.execDir(c.ID), e.Name()))
	}
	return ids
}
