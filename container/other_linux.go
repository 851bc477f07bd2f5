// SPDX-License-Identifier: Apache-2.0

//go:build !amd64

package container

import "golang.org/x/sys/unix"

// Other machines have no trampoline and no system call tables: newHost says so
// before any of this is used.

func trampolineAddrs() (exec, init uintptr) { return 0, 0 }

func fastCarrier(*plan) (child, error) { return child{}, unix.ENOSYS }

func copyingCarrier(*plan) (child, error) { return child{}, unix.ENOSYS }

func walkerAddr() uintptr { return 0 }
