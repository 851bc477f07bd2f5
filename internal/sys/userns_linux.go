// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"
	"slices"
	"strings"
	"sync"
)

// InUserNamespace says whether this process is in another user namespace than
// the machine's first: its root has no rights over what is not of the
// namespace.
var InUserNamespace = sync.OnceValue(func() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
})

// MayMapGroups says whether this process may change its supplementary groups:
// not so in a user namespace that has been made without privilege.
var MayMapGroups = sync.OnceValue(func() bool {
	text, err := os.ReadFile("/proc/self/setgroups")
	return err != nil || strings.TrimSpace(string(text)) != "deny"
})
