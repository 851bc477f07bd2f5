// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The real-time signals that programs may use: glibc keeps the two below
// SIGRTMIN for itself.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal reads a signal's number or name, with or without SIG, in any
// case, real-time signals (RTMIN, RTMIN+3, RTMAX-1) included.
func ParseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n > 0 && n <= sigRTMax {
			return syscall.Signal(n), nil
		}
		return 0, fmt.Errorf("invalid signal: %s", s)
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n, nil
	}
	for edge, base := range map[string]int{"RTMIN": sigRTMin, "RTMAX": sigRTMax} {
		rest, ok := strings.CutPrefix(name, edge)
		if !ok {
			continue
		}
		n := 0
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(rest); err != nil {
				break
			}
		}
		if n += base; n >= sigRTMin && n <= sigRTMax {
			return syscall.Signal(n), nil
		}
	}
	return 0, fmt.Errorf("invalid signal: %s", s)
}
