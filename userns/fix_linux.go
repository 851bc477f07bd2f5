// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"os"
	"strings"
)

// switches are what machines keep ordinary users from user namespaces with.
var switches = []struct{ file, off, fix string }{
	{"/proc/sys/user/max_user_namespaces", "0", "as root: sysctl user.max_user_namespaces=15000"},
	{"/proc/sys/kernel/unprivileged_userns_clone", "0", "as root: sysctl kernel.unprivileged_userns_clone=1"},
	{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "as root: an AppArmor profile for builder with the rule userns, or sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
}

// fixNamespace says what would allow user namespaces.
func fixNamespace() string {
	for _, s := range switches {
		if text, err := os.ReadFile(s.file); err == nil && strings.TrimSpace(string(text)) == s.off {
			return s.fix
		}
	}
	return "this is a container whose seccomp profile forbids it: start that with --security-opt seccomp=unconfined --security-opt systempaths=unconfined, or run builder outside of it"
}
