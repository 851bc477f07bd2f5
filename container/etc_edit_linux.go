// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// maxEtc bounds the files that are edited, in bytes.
const maxEtc = 1 << 20

// EditEtc changes one of the files that a running container has of [Start], "hosts" or
// "resolv.conf": edit is given its text and returns another one, or nil to leave it. It
// is not called if the container has none of ours there, but a mount of its own perhaps.
// It is written in one piece: whoever reads the file meanwhile, and a kill, may find empty
// lines at its end. The error wraps [ErrGone] if the container has ended.
func EditEtc(t Target, name string, edit func(text []byte) []byte) error {
	f, err := openEtcOf(t, name)
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	old, err := io.ReadAll(io.LimitReader(f, maxEtc+1))
	if err != nil || len(old) > maxEtc {
		return err
	}
	text := edit(old)
	if text == nil || bytes.Equal(text, old) {
		return nil
	}
	padding := bytes.Repeat([]byte("\n"), max(0, len(old)-len(text)))
	if _, err := f.WriteAt(slices.Concat(text, padding), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(text)))
}

// openEtcOf opens a file of [EditEtc], nil if it isn't there. The container may have put
// anything in its place: where ours is the kernel's table tells, no link is followed
// there, and what is found is opened only if its mount is ours.
func openEtcOf(t Target, name string) (*os.File, error) {
	proc := "/proc/" + strconv.Itoa(t.Pid)
	var table []sys.MountEntry
	root, err := os.OpenFile(proc+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		defer root.Close()
		table, err = sys.MountTable(proc + "/mountinfo")
	}
	if StartTime(t.Pid) != t.Start { // else it was so before, too
		return nil, fmt.Errorf("process %d: %w", t.Pid, ErrGone)
	}
	if err != nil {
		return nil, err
	}
	for _, m := range table {
		if m.Type != "tmpfs" || m.Source != etcSource(&t.Spec) || m.Root != "/"+name {
			continue
		}
		at, err := openPlace(root, m.At)
		if err != nil {
			continue // it was moved away, or something was mounted above it
		}
		defer at.Close()
		if id, err := sys.MountID(at); err != nil || id != m.ID {
			continue
		}
		if st, err := at.Stat(); err != nil || !st.Mode().IsRegular() {
			continue
		}
		// Who has a lease on it (fcntl(2)) would make a blocking one wait.
		const flags = os.O_RDWR | unix.O_NONBLOCK
		f, err := os.OpenFile(sys.FDPath(at), flags, 0)
		if !errors.Is(err, unix.EROFS) {
			return f, err
		}
		writable, err := writableCopy(proc, at)
		if err != nil {
			return nil, err
		}
		defer writable.Close()
		return os.OpenFile(sys.FDPath(writable), flags, 0)
	}
	return nil, nil
}

// writableCopy is a copy of a container's mount, detached and out of its sight, that can
// be written to. The kernel makes it for who is in the container's mount namespace.
func writableCopy(proc string, of *os.File) (m *os.File, err error) {
	ns, err := os.Open(proc + "/ns/mnt")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = sys.OnNewThread(func() error {
		if err := enterMounts(ns); err != nil {
			return err
		}
		fd, err := unix.OpenTree(int(of.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		if err != nil {
			return os.NewSyscallError("open_tree", err)
		}
		m = os.NewFile(uintptr(fd), of.Name())
		return os.NewSyscallError("mount_setattr", unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}))
	})
	if err != nil && m != nil {
		m.Close()
		m = nil
	}
	return m, err
}

// openPlace opens a path without an effect on what is there: only its last part may be
// a mount.
func openPlace(root *os.File, name string) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	dir, err := unix.Openat2(int(root.Fd()), path.Dir("."+name), &how)
	if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	defer unix.Close(dir)
	how.Flags, how.Resolve = unix.O_PATH|unix.O_CLOEXEC, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS
	fd, err := unix.Openat2(dir, path.Base(name), &how)
	if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// WithAddresses changes a text of hosts(5) so that the names of a host have these
// addresses, besides loopback ones. Lines with other names too stay.
func WithAddresses(text []byte, host Host, addrs []netip.Addr) []byte {
	var out bytes.Buffer
	var have []netip.Addr
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && (strings.Join(f[1:], " ") == host.names() || len(f) == 2 && f[1] == host.Name) {
			if a, err := netip.ParseAddr(f[0]); err == nil && !a.IsLoopback() {
				if !slices.Contains(addrs, a) {
					continue
				}
				have = append(have, a)
			}
		}
		out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	for _, a := range addrs {
		if !slices.Contains(have, a) {
			fmt.Fprintf(&out, "%s\t%s\n", a, host.names())
		}
	}
	return out.Bytes()
}
