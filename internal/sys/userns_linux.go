// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// InUserNamespace says whether this process is in another user namespace than
// the machine's first: its root has no rights over what is not of the
// namespace.
var InUserNamespace = sync.OnceValue(func() bool {
	const first = "user:[4026531837]" // PROC_USER_INIT_INO of the kernel
	name, err := os.Readlink("/proc/self/ns/user")
	return err == nil && name != first
})

// MayMount says whether this process may make mounts: as root of the machine, of
// a user namespace or of a container that allows it.
var MayMount = sync.OnceValue(func() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && os.Geteuid() == 0 && data[0].Permitted&(1<<unix.CAP_SYS_ADMIN) != 0
})

// MayMapGroups says whether this process may change its supplementary groups:
// not so in a user namespace that has been made without privilege.
var MayMapGroups = sync.OnceValue(func() bool {
	text, err := os.ReadFile("/proc/self/setgroups")
	return err != nil || strings.TrimSpace(string(text)) != "deny"
})
