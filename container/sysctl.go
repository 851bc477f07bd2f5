// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// sysctl is a kernel parameter to be set in a container.
type sysctl struct {
	name  string // net.ipv4.ip_forward
	path  string // below /proc/sys
	value string

	optional bool // it may be impossible
}

// ownSysctls are the kernel parameters that belong to a namespace of IPC or of
// the host's name; those of a network's are all below net.
var ownSysctls = []string{
	"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/msg_next_id",
	"kernel/sem", "kernel/sem_next_id",
	"kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced", "kernel/shm_next_id",
}

const domainname = "kernel/domainname"

// resolveSysctls checks that the container has parameters of its own and not the
// machine's.
func resolveSysctls(spec *Spec) ([]sysctl, error) {
	var out []sysctl
	for _, name := range slices.Sorted(maps.Keys(spec.Sysctls)) {
		s := sysctl{name: name, path: sysctlPath(name), value: spec.Sysctls[name]}
		for part := range strings.SplitSeq(s.path, "/") {
			if part == "" || part == "." || part == ".." || strings.ContainsRune(part+s.value, 0) {
				return nil, fmt.Errorf("sysctl %q is no name of a kernel parameter", name)
			}
		}
		if err := s.check(spec); err != nil {
			return nil, fmt.Errorf("sysctl %s: %w", name, err)
		}
		out = append(out, s)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.SysctlDefaults)) {
		s := sysctl{name: name, path: sysctlPath(name), value: spec.SysctlDefaults[name], optional: true}
		if !slices.ContainsFunc(out, func(have sysctl) bool { return have.path == s.path }) {
			out = append(out, s)
		}
	}
	return out, nil
}

// check says why the parameter is not one of the container's own.
func (s sysctl) check(spec *Spec) error {
	shared := func(what string) error {
		return fmt.Errorf("it is the machine's, whose %s the container has", what)
	}
	switch {
	case strings.HasPrefix(s.path, "net/"):
		if spec.Network == "" || spec.Network == NetworkHost {
			return shared("network")
		}
	case slices.Contains(ownSysctls, s.path), strings.HasPrefix(s.path, "fs/mqueue/"):
		if spec.IPC.With == ShareHost {
			return shared("IPC namespace")
		}
	case s.path == domainname:
		if spec.UTS.With == ShareHost {
			return shared("name")
		}
	default:
		return fmt.Errorf("it holds for the whole machine: a container can set kernel.msg*, kernel.sem, kernel.shm*, kernel.domainname, fs.mqueue.* and net.*")
	}
	return nil
}

// sysctlPath is the parameter's path: its name has either dots and slashes for
// dots, or slashes (sysctl(8)).
func sysctlPath(name string) string {
	first := strings.IndexAny(name, "./")
	if first < 0 || name[first] == '/' {
		return name
	}
	return strings.NewReplacer(".", "/", "/", ".").Replace(name)
}

// CheckSysctl reports a kernel parameter that no container has of its own.
func CheckSysctl(name string) error {
	_, err := resolveSysctls(&Spec{Network: NetworkPrivate, Sysctls: map[string]string{name: ""}})
	return err
}
