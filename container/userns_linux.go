// SPDX-License-Identifier: Apache-2.0

package container

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
	"builder/mount"
)

// IDMap says what the ids of a user namespace are outside of it.
type IDMap struct {
	UIDs, GIDs []IDRange `json:",omitempty"`
}

// IDRange is a line of such a map (user_namespaces(7)): Size ids from Inside on
// are those from Outside on.
type IDRange struct{ Inside, Outside, Size uint32 }

// String is docker's form, INSIDE:OUTSIDE:SIZE.
func (r IDRange) String() string { return fmt.Sprintf("%d:%d:%d", r.Inside, r.Outside, r.Size) }

// IsZero reports whether there is no user namespace.
func (m IDMap) IsZero() bool { return len(m.UIDs) == 0 && len(m.GIDs) == 0 }

// Check says what is wrong with a map. Root is always part of it, as it owns
// what the container is given.
func (m IDMap) Check() error {
	for i, ranges := range [][]IDRange{m.UIDs, m.GIDs} {
		kind := [...]string{"user", "group"}[i]
		for i, r := range ranges {
			const end = 1<<32 - 1 // the last one means none
			if r.Size == 0 || uint64(r.Inside)+uint64(r.Size) > end || uint64(r.Outside)+uint64(r.Size) > end {
				return fmt.Errorf("%s ids %s: there are none such", kind, r)
			}
			for _, o := range ranges[:i] {
				if overlap(r.Inside, o.Inside, r.Size, o.Size) || overlap(r.Outside, o.Outside, r.Size, o.Size) {
					return fmt.Errorf("%s ids %s and %s overlap", kind, o, r)
				}
			}
		}
		if _, ok := outside(ranges, 0); !ok || len(ranges) == 0 {
			return fmt.Errorf("%s id 0 is not one of the container's, and it can't be without", kind)
		}
	}
	return nil
}

func overlap(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

// UID is what a user of the container is outside of it.
func (m IDMap) UID(id uint32) (uint32, bool) { return outside(m.UIDs, id) }

// GID is what a group of the container is outside of it.
func (m IDMap) GID(id uint32) (uint32, bool) { return outside(m.GIDs, id) }

// Owner is what an owner of the container is outside of it. ok is false if one of
// the two is none of the container's.
func (m IDMap) Owner(uid, gid uint32) (outUID, outGID uint32, ok bool) {
	u, okUID := m.UID(uid)
	g, okGID := m.GID(gid)
	return u, g, okUID && okGID
}

// outside is the id itself if there is no map.
func outside(ranges []IDRange, id uint32) (uint32, bool) {
	for _, r := range ranges {
		if id >= r.Inside && id-r.Inside < r.Size {
			return r.Outside + (id - r.Inside), true
		}
	}
	return id, len(ranges) == 0
}

// Inside turns the map around: what ids of this process's user namespace are in
// the container.
func (m IDMap) Inside() IDMap {
	turn := func(ranges []IDRange) (out []IDRange) {
		for _, r := range ranges {
			out = append(out, IDRange{Inside: r.Outside, Outside: r.Inside, Size: r.Size})
		}
		return out
	}
	return IDMap{UIDs: turn(m.UIDs), GIDs: turn(m.GIDs)}
}

// Key tells the map from others, in letters, digits and dashes.
func (m IDMap) Key() string {
	sum := sha256.Sum256(fmt.Append(nil, m.UIDs, m.GIDs))
	return "ids-" + hex.EncodeToString(sum[:8])
}

// ReadIDRanges reads a file like /proc/PID/uid_map.
func ReadIDRanges(file string) (out []IDRange, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		var r IDRange
		if _, err := fmt.Sscan(line, &r.Inside, &r.Outside, &r.Size); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no ids", file)
	}
	return out, nil
}

// AsRoot runs f with the container's root as owner of what it makes. f makes
// nothing in other goroutines.
func (m IDMap) AsRoot(f func() error) error {
	if m.IsZero() {
		return f()
	}
	uid, gid, _ := m.Owner(0, 0)
	return sys.AsFileUser(uid, gid, f)
}

// NewUserNamespace makes a user namespace of these ids, and a network namespace
// that belongs to it, in which nothing is set up. other, if it is not nil, is one
// of these ids that there is already, which the network namespace is to belong
// to. They last as long as something is in them or holds their files, which are
// the caller's. This process has to be root, of the ids as well.
func NewUserNamespace(m IDMap, other *os.File) (ns *mount.UserNS, net *os.File, err error) {
	if err := m.Check(); err != nil {
		return nil, nil, err
	}
	if err := isChild(other); err != nil {
		return nil, nil, err
	}
	// A process is the only way to them. It waits until it is let go.
	hold, release, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer hold.Close()
	report, ready, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(err, release.Close())
	}
	defer report.Close()
	pr := newProgram()
	pr.do("be nobody's to trace", unix.SYS_PRCTL, num(unix.PR_SET_DUMPABLE), num(0), num(0), num(0), num(0))
	attr := &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: procIDs(m.UIDs), GidMappings: procIDs(m.GIDs), GidMappingsEnableSetgroups: true,
	}
	if other != nil {
		attr = nil
		pr.do("join user namespace", unix.SYS_SETNS, pr.file(other), num(unix.CLONE_NEWUSER))
		pr.do("new network namespace", unix.SYS_UNSHARE, num(unix.CLONE_NEWNET))
	}
	pr.do("be ready", unix.SYS_CLOSE, num(1))
	pr.do("be ready", unix.SYS_CLOSE, pr.file(ready))
	pr.do("wait", unix.SYS_READ, num(0), pr.bytes(make([]byte, 8)), num(1))
	pr.do("leave", unix.SYS_EXIT_GROUP, num(0))
	pid, err := pr.spawn(ready, []*os.File{hold, ready, hold}, attr)
	ready.Close()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make user namespace: %w", err), release.Close())
	}
	defer reapChild(pid)
	defer release.Close()
	var words [16]byte
	if _, err := io.ReadFull(report, words[:]); err == nil {
		return nil, nil, pr.failure(binary.NativeEndian.Uint64(words[:]), binary.NativeEndian.Uint64(words[8:]))
	}
	proc := "/proc/" + strconv.Itoa(pid) + "/ns/"
	user, err := os.Open(proc + "user")
	if err != nil {
		return nil, nil, err
	}
	if net, err = os.Open(proc + "net"); err != nil {
		user.Close()
		return nil, nil, err
	}
	return m.namespace(user), net, nil
}

// isChild says that a user namespace, if there is one, was made by this process's
// own. One that a container has made itself has ids that are not what they seem.
func isChild(ns *os.File) error {
	if ns == nil {
		return nil
	}
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_PARENT)
	if err != nil {
		return os.NewSyscallError("ioctl NS_GET_PARENT", err)
	}
	parent := os.NewFile(uintptr(fd), "user namespace")
	defer parent.Close()
	own, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return err
	}
	if its, err := parent.Stat(); err != nil || !os.SameFile(its, own) {
		return errors.Join(err, errors.New("the container is in a user namespace that it has made itself"))
	}
	return nil
}

// namespace is the user namespace of the map.
func (m IDMap) namespace(f *os.File) *mount.UserNS {
	uid, gid, _ := m.Owner(0, 0)
	return &mount.UserNS{File: f, UID: uid, GID: gid}
}

func procIDs(ranges []IDRange) (out []syscall.SysProcIDMap) {
	for _, r := range ranges {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(r.Inside), HostID: int(r.Outside), Size: int(r.Size)})
	}
	return out
}

// checkUserNS says why the Spec's user namespace can't be.
func (s *Spec) checkUserNS() error {
	switch {
	case s.IDs.IsZero() != (s.UserNS == nil):
		return errors.New("a map of ids has a user namespace, and nothing else has one")
	case s.UserNS == nil:
		return nil
	}
	return s.IDs.Check()
}

// checkUser says which of the process's ids its user namespace lacks.
func (p *plan) checkUser() error {
	ids := p.spec.IDs
	if _, ok := ids.UID(p.user.UID); !ok {
		return fmt.Errorf("user %d is none of the container's user namespace, which has %v", p.user.UID, ids.UIDs)
	}
	for _, g := range append([]uint32{p.user.GID}, p.user.Groups...) {
		if _, ok := ids.GID(g); !ok {
			return fmt.Errorf("group %d is none of the container's user namespace, which has %v", g, ids.GIDs)
		}
	}
	return nil
}

// writeUserNS has the process go on as root of the user namespace. Until here it
// was root outside, whose the machine's part of the set-up is.
func (p *plan) writeUserNS() {
	if p.spec.UserNS == nil {
		return
	}
	pr := &p.prog
	pr.do("join user namespace", unix.SYS_SETNS, num(p.keptFD(p.spec.UserNS.File)), num(unix.CLONE_NEWUSER))
	pr.do("become root of user namespace: group", unix.SYS_SETRESGID, num(0), num(0), num(0))
	pr.do("become root of user namespace", unix.SYS_SETRESUID, num(0), num(0), num(0))
}

// writeOwnMounts makes the mount namespace the user namespace's, for a container
// that may mount: what was mounted for it then can't be taken away.
func (p *plan) writeOwnMounts() {
	if p.spec.UserNS == nil || !p.caps.has(unix.CAP_SYS_ADMIN) {
		return
	}
	flags := unix.CLONE_NEWNS
	if p.spec.UTS.With == ShareNot {
		flags |= unix.CLONE_NEWUTS
	}
	if !p.spec.HostCgroupNS {
		flags |= unix.CLONE_NEWCGROUP
	}
	p.prog.do("new namespaces of the user namespace", unix.SYS_UNSHARE, num(flags))
}

// mapOwners has a mount belong to the container's users.
func (p *plan) mapOwners(m *mount.Mount) error {
	if p.spec.UserNS == nil {
		return nil
	}
	if m.MapOwners {
		m.UserNS = p.spec.UserNS
	}
	if m.Type != mount.Tmpfs {
		return nil
	}
	uid, gid, ok := p.spec.IDs.Owner(uint32(m.UID), uint32(m.GID))
	if !ok {
		return fmt.Errorf("owner %d:%d is none of the container's user namespace", m.UID, m.GID)
	}
	m.UID, m.GID = int(uid), int(gid)
	return nil
}
