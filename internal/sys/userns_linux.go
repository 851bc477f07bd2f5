// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"
	"strings"
	"sync"
)

// InUserNamespace says whether this process is in another user namespace than
// the machine's first: its root has no rights over what is not of the
// namespace.
var InUserNamespace = sync.OnceValue(func() bool {
	const first = "user:[4026531837]" // PROC_USER_INIT_INO of the kernel
	name, err := os.Readlink("/proc/self/ns/user")
	return err == nil && name != first
})

// MayMapGroups says whether this process may change its supplementary groups:
// not so in a user namespace that has been made without privilege.
var MayMapGroups = sync.OnceValue(func() bool {
	text, err := os.ReadFile("/proc/self/setgroups")
	return err != nil || strings.TrimSpace(string(text)) != "deny"
})
