// SPDX-License-Identifier: Apache-2.0

// Package startlimit remembers the limit of open files that the process was
// started with.
//
// Package syscall raises the soft limit to the hard one while it is
// initialized, and what it was can't be asked for afterwards. This package
// imports nothing, so it is initialized before it: since Go 1.21 packages
// whose imports are ready are initialized in the order of their paths. A test
// of package container holds that.
package startlimit

// Limit is laid out as the kernel's struct rlimit64.
type Limit struct {
	Cur, Max uint64
}

// Nofile is RLIMIT_NOFILE as it was when the process started.
var Nofile = read()

func read() Limit {
	var l Limit
	if prlimit(&l) != 0 {
		return Limit{Cur: 1024, Max: 4096} // what Linux starts with
	}
	return l
}

// prlimit is prlimit64(0, RLIMIT_NOFILE, NULL, old).
//
//go:noescape
func prlimit(old *Limit) (errno uintptr)
