// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"builder/container/internal/startlimit"
)

// rlimitNumbers are the resources by docker's names for them.
var rlimitNumbers = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
	"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
	"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// resolvedRlimit is a limit as the kernel takes it.
type resolvedRlimit struct {
	name     string
	resource int
	limit    unix.Rlimit
}

// resolveRlimits turns the limits asked for into ones that can be set. A hard
// limit above the caller's own needs CAP_SYS_RESOURCE; without it the caller's
// own is used instead, and warn is told.
func resolveRlimits(asked []Rlimit, caps capSet, warn func(string)) ([]resolvedRlimit, error) {
	// The Go runtime raises its own soft limit of open files when it starts;
	// what the user set is restored, as programs that close all descriptors
	// up to the limit take long over a high one.
	out := []resolvedRlimit{{name: "nofile", resource: unix.RLIMIT_NOFILE, limit: unix.Rlimit(startlimit.Nofile)}}
	for _, r := range asked {
		resource, ok := rlimitNumbers[strings.ToLower(r.Name)]
		if !ok {
			return nil, fmt.Errorf("unknown resource limit %q", r.Name)
		}
		if r.Soft < -1 || r.Hard < -1 {
			return nil, fmt.Errorf("resource limit %s: %d:%d is negative", r.Name, r.Soft, r.Hard)
		}
		limit := unix.Rlimit{Cur: uint64(r.Soft), Max: uint64(r.Hard)} // -1 becomes RLIM_INFINITY
		if limit.Cur > limit.Max {
			return nil, fmt.Errorf("resource limit %s: soft limit %d is above the hard limit %d", r.Name, r.Soft, r.Hard)
		}
		highest, err := highestRlimit(resource, caps)
		if err != nil {
			return nil, err
		}
		if limit.Max > highest {
			warn(fmt.Sprintf("resource limit %s: %s is more than this process may set, using %s",
				r.Name, rlimitText(limit.Max), rlimitText(highest)))
			limit.Max = highest
			limit.Cur = min(limit.Cur, highest)
		}
		next := resolvedRlimit{name: strings.ToLower(r.Name), resource: resource, limit: limit}
		if resource == unix.RLIMIT_NOFILE {
			out[0] = next
			continue
		}
		out = append(out, next)
	}
	return out, nil
}

// highestRlimit is the highest hard limit that can be set.
func highestRlimit(resource int, caps capSet) (uint64, error) {
	var own unix.Rlimit
	if err := unix.Getrlimit(resource, &own); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	if !caps.has(unix.CAP_SYS_RESOURCE) {
		return own.Max, nil
	}
	if resource != unix.RLIMIT_NOFILE {
		return math.MaxUint64, nil
	}
	// Not even root may go beyond fs.nr_open.
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return own.Max, nil
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return own.Max, nil
	}
	return max(n, own.Max), nil
}

func rlimitText(v uint64) string {
	if v == math.MaxUint64 {
		return "unlimited"
	}
	return strconv.FormatUint(v, 10)
}
