// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// capNames are the capabilities in the order of their numbers (capability.h).
var capNames = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
	"IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
	"SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
	"LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
	"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// defaultCaps is docker's default set: CHOWN DAC_OVERRIDE FOWNER FSETID KILL
// SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE
// SETFCAP.
const defaultCaps capSet = 0xa80425fb

// capSet is a set of capabilities, a bit for each.
type capSet uint64

func (s capSet) has(c int) bool { return s&(1<<c) != 0 }

// names lists the set as seccomp profiles and messages spell it.
func (s capSet) names() []string {
	var out []string
	for c, name := range capNames {
		if s.has(c) {
			out = append(out, "CAP_"+name)
		}
	}
	return out
}

// parseCaps reads names, with or without CAP_ and in any case; all says that
// ALL is among them.
func parseCaps(names []string) (set capSet, all bool, err error) {
	for _, name := range names {
		short := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		if short == "ALL" {
			all = true
			continue
		}
		c := slices.Index(capNames[:], short)
		if c < 0 {
			return 0, false, fmt.Errorf("unknown capability %q", name)
		}
		set |= 1 << c
	}
	return set, all, nil
}

// CheckCaps reports the first of names that is no capability.
func CheckCaps(names []string) error {
	_, _, err := parseCaps(names)
	return err
}

// wantedCaps applies CapAdd and CapDrop as docker does.
func wantedCaps(spec *Spec) (capSet, error) {
	const every capSet = 1<<len(capNames) - 1
	add, addAll, err := parseCaps(spec.CapAdd)
	if err != nil {
		return 0, err
	}
	drop, dropAll, err := parseCaps(spec.CapDrop)
	if err != nil {
		return 0, err
	}
	switch {
	case spec.Privileged:
		return every, nil
	case addAll:
		return every &^ drop, nil
	case dropAll: // "--cap-drop ALL --cap-add X" says "only X"
		return add, nil
	}
	return defaultCaps&^drop | add, nil
}

// ownCaps is what this process may hand on, its permitted set within its
// bounding set, and the bounding set.
func ownCaps() (own, bounding capSet, err error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, 0, os.NewSyscallError("capget", err)
	}
	for c := range 64 {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil {
			break // beyond the last one that the kernel knows
		}
		bounding |= capSet(in) << c
	}
	own = capSet(data[0].Permitted) | capSet(data[1].Permitted)<<32
	return own & bounding, bounding, nil
}

// lastCap is the highest capability that the running kernel knows.
func lastCap() int {
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && n < 64 {
			return n
		}
	}
	return len(capNames) - 1
}
