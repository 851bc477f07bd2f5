// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"builder/internal/testutil"
)

// TestIdentityIsTheKernels makes calls that change users and groups, at random, on
// threads of their own, and compares what the kernel makes of them with what a
// recorder does.
func TestIdentityIsTheKernels(t *testing.T) {
	testutil.Require(t, "root")
	calls := []int32{
		unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID,
		unix.SYS_SETFSUID, unix.SYS_SETFSGID,
	}
	ids := []uint64{0, 1, 2, uint64(leaveID)}
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	for range 300 {
		failed := make(chan string)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends
			var id identity
			var story strings.Builder
			for range 12 {
				n := &notification{nr: calls[random.IntN(len(calls))]}
				for i := range 3 {
					n.args[i] = ids[random.IntN(len(ids))]
				}
				fmt.Fprintf(&story, "call %d of %d %d %d\n", n.nr, int32(n.args[0]), int32(n.args[1]), int32(n.args[2]))
				value, err := id.call(n)
				r, _, errno := unix.RawSyscall(uintptr(n.nr), uintptr(n.args[0]), uintptr(n.args[1]), uintptr(n.args[2]))
				if (err == nil) != (errno == 0) || err == nil && value != int64(r) {
					failed <- fmt.Sprintf("%s: the kernel says %d %v, we %d %v", story.String(), r, errno, value, err)
					return
				}
				user, group := threadIDs(unix.SYS_GETRESUID), threadIDs(unix.SYS_GETRESGID)
				if user != id.user || group != id.group {
					failed <- fmt.Sprintf("%s: the kernel has %v %v, we %v %v", story.String(), user, group, id.user, id.group)
					return
				}
			}
			failed <- ""
		}()
		if why := <-failed; why != "" {
			t.Fatal(why)
		}
	}
}

// threadIDs are the real, effective and saved id of this thread.
func threadIDs(nr uintptr) (ids [3]uint32) {
	unix.RawSyscall(nr, uintptr(unsafe.Pointer(&ids[0])), uintptr(unsafe.Pointer(&ids[1])), uintptr(unsafe.Pointer(&ids[2])))
	return ids
}
