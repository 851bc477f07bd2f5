// SPDX-License-Identifier: Apache-2.0

package sys

import "golang.org/x/sys/unix"

// Machine is the machine's hardware name, such as x86_64 (uname(2)), or "" where the
// kernel doesn't tell.
func Machine() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Machine[:])
}
