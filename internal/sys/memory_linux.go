// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"sync"

	"golang.org/x/sys/unix"
)

// memory counts for how many this process's memory is hidden.
var memory struct {
	mu     sync.Mutex
	hidden int
	before int // PR_GET_DUMPABLE
}

// HideMemory keeps other processes, also of this user, out of this one's memory and
// descriptors until [ShowMemory] has been called as often. The kernel does so by
// itself when a thread's user changes, but never undoes it.
func HideMemory() {
	memory.mu.Lock()
	defer memory.mu.Unlock()
	if memory.hidden++; memory.hidden == 1 {
		// These calls fail only for bad arguments.
		memory.before, _ = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
}

// ShowMemory undoes [HideMemory].
func ShowMemory() {
	memory.mu.Lock()
	defer memory.mu.Unlock()
	if memory.hidden--; memory.hidden == 0 && memory.before == 1 {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	}
}
