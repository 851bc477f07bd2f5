// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"builder/internal/owner"
)

// recorder answers the calls of a RUN step's processes about owners and users:
// see pretend_linux.go. It has a thread of its own, which looks up paths with the
// root and working directory of the process that has made the call, so that they
// mean what they mean to that process and lead nowhere else.
type recorder struct {
	socket   int // where the listener comes from
	listener int
	root     *os.File // the machine's
	user     owner.ID // of the step, whose new files are
	who      map[int]identity
	warn     func() // of what is lost, once
}

// identity is whom a process takes itself for.
type identity struct {
	started uint64 // of the process, which tells it from a later one of its number
	user    [3]uint32
	group   [3]uint32 // real, effective, saved
	fs      [2]uint32 // of user and group
	groups  []uint32
}

// notification is a struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// answer is a struct seccomp_notif_resp.
type answer struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

func newRecorder(socket int, user owner.ID, warn func(string)) (*recorder, error) {
	r := &recorder{socket: socket, user: user, who: map[int]identity{}, warn: sync.OnceFunc(func() {
		warn("owners of symbolic links and special files are lost: only regular files and directories keep one without subordinate ids")
	})}
	var err error
	if r.root, err = os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		unix.Close(socket)
		return nil, err
	}
	return r, nil
}

func (r *recorder) close() {
	unix.Close(r.socket)
	r.root.Close()
}

// run answers until no process is there any more.
func (r *recorder) run() {
	// The thread is changed, and ends with the goroutine.
	runtime.LockOSThread()
	defer r.close()
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(r.socket, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		return // the child has failed, and says why
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return
	}
	r.listener = fds[0]
	defer unix.Close(r.listener)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return // the calls fail with ENOSYS
	}
	for r.wait() {
		n := notification{}
		if errno := r.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); errno != 0 {
			continue // the process has ended, or been interrupted
		}
		a := answer{id: n.id}
		value, err := r.answer(&n)
		var errno unix.Errno
		switch {
		case errors.Is(err, errKernel):
			a.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		case err == nil:
			a.value = value
		case errors.As(err, &errno):
			a.errno = -int32(errno)
		default:
			a.errno = -int32(unix.EIO)
		}
		r.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a))
	}
}

// wait waits for a notification; false means that there will be none.
func (r *recorder) wait() bool {
	fds := []unix.PollFd{{Fd: int32(r.listener), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false
		default:
			return fds[0].Revents&unix.POLLIN != 0
		}
	}
}

func (r *recorder) ioctl(request uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(r.listener), request, uintptr(arg))
	return errno
}

// stillThere is to be asked after something of the process was read and before it
// counts: the number may have gone to another process.
func (r *recorder) stillThere(n *notification) error {
	if errno := r.ioctl(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&n.id)); errno != 0 {
		return errno
	}
	return nil
}

func (r *recorder) answer(n *notification) (int64, error) {
	if slices.Contains(changesOwner, uint32(n.nr)) {
		return 0, r.chown(n)
	}
	if slices.Contains(tellsOwner, uint32(n.nr)) {
		return 0, r.stat(n)
	}
	caller, who, err := r.identity(n)
	if err == nil {
		err = r.stillThere(n)
	}
	if err != nil {
		return 0, err
	}
	value, err := who.call(n)
	if err == nil {
		r.who[caller.pid] = who
	}
	return value, err
}

// identity returns the process of a call and whom it takes itself for: what its
// parent does, if it has never said.
func (r *recorder) identity(n *notification) (caller task, who identity, err error) {
	if caller, err = readTask(int(n.pid)); err != nil {
		return caller, who, err
	}
	who, ok := r.who[caller.pid]
	if ok && who.started == caller.started {
		return caller, who, nil
	}
	who = identity{}
	for depth, parent := 0, caller.parent; parent > 1 && depth < 1000; depth++ {
		above, err := readTask(parent)
		if err != nil {
			break
		}
		if its, ok := r.who[parent]; ok && its.started == above.started {
			who = its
			break
		}
		parent = above.parent
	}
	who.started = caller.started
	return caller, who, nil
}

// task is what /proc says of a thread.
type task struct {
	pid, parent int    // of its process
	started     uint64 // when its process has
	effective   capSet
}

// readTask reads of a thread what proc_pid_status(5) and [EndedStartTime] tell.
func readTask(tid int) (t task, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return t, err
	}
	for line := range bytes.Lines(status) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Tgid":
			t.pid, err = strconv.Atoi(value)
		case "PPid":
			t.parent, err = strconv.Atoi(value)
		case "CapEff":
			var caps uint64
			caps, err = strconv.ParseUint(value, 16, 64)
			t.effective = capSet(caps)
		}
		if err != nil {
			return t, err
		}
	}
	if t.started = EndedStartTime(t.pid); t.started == 0 {
		return t, unix.ESRCH
	}
	return t, nil
}

// memory reads or writes the memory of a process.
func memory(call uintptr, pid uint32, addr uint64, data []byte) (int, error) {
	if len(data) == 0 {
		return 0, nil
	}
	local := unix.Iovec{Base: &data[0], Len: uint64(len(data))}
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(data)}
	n, _, errno := unix.Syscall6(call, uintptr(pid), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	runtime.KeepAlive(data)
	if errno != 0 {
		return 0, unix.EFAULT
	}
	return int(n), nil
}

// text reads a path from a process's memory, page by page.
func text(pid uint32, addr uint64) (string, error) {
	const page = 4096
	buf := make([]byte, 0, unix.PathMax)
	for len(buf) < unix.PathMax {
		part := make([]byte, min(page-int((addr+uint64(len(buf)))%page), unix.PathMax-len(buf)))
		n, err := memory(unix.SYS_PROCESS_VM_READV, pid, addr+uint64(len(buf)), part)
		if err != nil {
			return "", err
		}
		if i := bytes.IndexByte(part[:n], 0); i >= 0 {
			return string(append(buf, part[:i]...)), nil
		}
		buf = append(buf, part[:n]...)
		if n < len(part) {
			return "", unix.EFAULT
		}
	}
	return "", unix.ENAMETOOLONG
}

// file opens the file that a call is about.
func (r *recorder) file(n *notification) (*os.File, error) {
	switch n.nr {
	case unix.SYS_FCHOWN, unix.SYS_FSTAT:
		return r.descriptor(n, int32(n.args[0]))
	case unix.SYS_CHOWN, unix.SYS_STAT:
		return r.lookup(n, unix.AT_FDCWD, n.args[0], 0)
	case unix.SYS_LCHOWN, unix.SYS_LSTAT:
		return r.lookup(n, unix.AT_FDCWD, n.args[0], unix.AT_SYMLINK_NOFOLLOW)
	}
	flags := n.args[4] // of fchownat
	switch n.nr {
	case unix.SYS_NEWFSTATAT:
		flags = n.args[3]
	case unix.SYS_STATX:
		flags = n.args[2]
	}
	return r.lookup(n, int32(n.args[0]), n.args[1], int(flags))
}

// chown keeps the owner that a call gives to a file.
func (r *recorder) chown(n *notification) error {
	file, err := r.file(n)
	if err != nil {
		return err
	}
	defer file.Close()
	caller, who, err := r.identity(n)
	if err != nil || who.fs[0] != 0 || !caller.effective.has(unix.CAP_CHOWN) {
		return errors.Join(unix.EPERM, err)
	}
	uid, gid := uint32(n.args[1]), uint32(n.args[2])
	if n.nr == unix.SYS_FCHOWNAT {
		uid, gid = uint32(n.args[2]), uint32(n.args[3])
	}
	return r.keep(file, uid, gid)
}

// keep keeps an owner of a file, of which -1 changes nothing.
func (r *recorder) keep(file *os.File, uid, gid uint32) error {
	fd := int(file.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	// The kernel takes rights away that must not go to another owner, and says
	// whether the file can be changed at all.
	if err := unix.Fchownat(fd, "", 0, 0, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		if (uid != 0 && uid != leaveID || gid != 0 && gid != leaveID) && kind != unix.S_IFCHR {
			r.warn()
		}
		return nil
	}
	id, _ := r.ownerOf(file)
	if uid != leaveID {
		id.UID = uid
	}
	if gid != leaveID {
		id.GID = gid
	}
	return owner.Chown(file, int(id.UID), int(id.GID))
}

// errKernel has the kernel answer a call as it would have.
var errKernel = errors.New("for the kernel to answer")

// stat answers a question about a file with another owner than root.
func (r *recorder) stat(n *notification) error {
	file, err := r.file(n)
	if err != nil {
		return errKernel // which knows what is wrong
	}
	defer file.Close()
	id, ok := r.ownerOf(file)
	if !ok || id == (owner.ID{}) {
		return errKernel
	}
	into := n.args[1]
	var data []byte
	switch n.nr {
	case unix.SYS_STATX:
		into = n.args[4]
		var st unix.Statx_t
		flags := int(n.args[2])&^unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH
		if err := unix.Statx(int(file.Fd()), "", flags, int(n.args[3]), &st); err != nil {
			return errKernel
		}
		st.Uid, st.Gid = id.UID, id.GID
		data = unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st))
	default:
		if n.nr == unix.SYS_NEWFSTATAT {
			into = n.args[2]
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(file.Fd()), &st); err != nil {
			return errKernel
		}
		st.Uid, st.Gid = id.UID, id.GID
		data = unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st))
	}
	if err := r.stillThere(n); err != nil {
		return err
	}
	_, err = memory(unix.SYS_PROCESS_VM_WRITEV, n.pid, into, data)
	return err
}

// ownerOf returns the owner that is kept of a file, or of one that the step has
// made.
func (r *recorder) ownerOf(file *os.File) (owner.ID, bool) {
	if id, ok := owner.Of(file); ok {
		return id, true
	}
	var fsys unix.Statfs_t
	var st unix.Stat_t
	if r.user == (owner.ID{}) || unix.Fstatfs(int(file.Fd()), &fsys) != nil || fsys.Type != unix.OVERLAYFS_SUPER_MAGIC || unix.Fstat(int(file.Fd()), &st) != nil {
		return owner.ID{}, false
	}
	kind := st.Mode & unix.S_IFMT
	return r.user, kind == unix.S_IFREG || kind == unix.S_IFDIR
}

// leaveID, as an id, leaves what there is.
const leaveID = ^uint32(0)

// descriptor opens what a process has open.
func (r *recorder) descriptor(n *notification, fd int32) (*os.File, error) {
	return r.open(fmt.Sprintf("%d/fd/%d", n.pid, fd), unix.O_PATH, unix.EBADF)
}

// open opens what a magic link in /proc leads to.
func (r *recorder) open(name string, flags int, missing unix.Errno) (*os.File, error) {
	fd, err := unix.Open("/proc/"+name, flags|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		err = missing
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// lookup opens what a path means to a process, as fchownat(2) looks it up.
func (r *recorder) lookup(n *notification, at int32, addr uint64, flags int) (*os.File, error) {
	path := ""
	if addr != 0 || flags&unix.AT_EMPTY_PATH == 0 { // else it is as good as an empty one, since Linux 6.11
		var err error
		if path, err = text(n.pid, addr); err != nil {
			return nil, err
		}
	}
	from := fmt.Sprintf("%d/cwd", n.pid)
	if at != unix.AT_FDCWD {
		from = fmt.Sprintf("%d/fd/%d", n.pid, at)
	}
	if path == "" {
		if flags&unix.AT_EMPTY_PATH == 0 {
			return nil, unix.ENOENT
		}
		return r.open(from, unix.O_PATH, unix.EBADF)
	}
	for _, prefix := range []string{"/proc/self/fd/", "/dev/fd/"} {
		// It means the process's own, and not this one's.
		if number, ok := strings.CutPrefix(path, prefix); ok {
			if fd, err := strconv.Atoi(number); err == nil {
				return r.descriptor(n, int32(fd))
			}
		}
	}
	if i := slices.Index([]string{"/dev/stdin", "/dev/stdout", "/dev/stderr"}, path); i >= 0 && flags&unix.AT_SYMLINK_NOFOLLOW == 0 {
		return r.descriptor(n, int32(i))
	}
	if path[0] == '/' {
		from = fmt.Sprintf("%d/root", n.pid)
	}
	dir, err := r.open(from, unix.O_PATH|unix.O_DIRECTORY, unix.EBADF)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := r.stillThere(n); err != nil {
		return nil, err
	}
	how := unix.O_PATH | unix.O_CLOEXEC
	if flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		how |= unix.O_NOFOLLOW
	}
	// The kernel can look up what stays below a directory, and from the root
	// everything but links to what a process has open.
	resolve := uint64(unix.RESOLVE_BENEATH)
	if path[0] == '/' {
		resolve = unix.RESOLVE_IN_ROOT
	}
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{Flags: uint64(how), Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS})
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EAGAIN) {
		fd, err = r.openAs(n, dir, path, how)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openAs opens a path with a process's root, from a directory.
func (r *recorder) openAs(n *notification, dir *os.File, path string, how int) (int, error) {
	root, err := r.open(fmt.Sprintf("%d/root", n.pid), unix.O_PATH|unix.O_DIRECTORY, unix.ESRCH)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	if err := r.stillThere(n); err != nil {
		return 0, err
	}
	if err := enter(root, dir); err != nil {
		return 0, err
	}
	fd, err := unix.Open(path, how, 0)
	if back := enter(r.root, r.root); back != nil {
		err = errors.Join(err, back)
	}
	return fd, err
}

// enter makes two directories this thread's root and working directory.
func enter(root, dir *os.File) error {
	if err := unix.Fchdir(int(root.Fd())); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Fchdir(int(dir.Fd()))
}

// call answers a call that changes or tells an identity, as the kernel does for
// one that has root's rights while its effective user is root.
func (id *identity) call(n *notification) (int64, error) {
	a, b, c := uint32(n.args[0]), uint32(n.args[1]), uint32(n.args[2])
	switch n.nr {
	case unix.SYS_GETUID:
		return int64(id.user[0]), nil
	case unix.SYS_GETEUID:
		return int64(id.user[1]), nil
	case unix.SYS_GETGID:
		return int64(id.group[0]), nil
	case unix.SYS_GETEGID:
		return int64(id.group[1]), nil
	case unix.SYS_GETRESUID:
		return 0, putIDs(n, id.user)
	case unix.SYS_GETRESGID:
		return 0, putIDs(n, id.group)
	case unix.SYS_GETGROUPS:
		return id.getGroups(n)
	case unix.SYS_SETGROUPS:
		return 0, id.setGroups(n)
	case unix.SYS_SETFSUID:
		return id.setFS(0, a, id.user), nil
	case unix.SYS_SETFSGID:
		return id.setFS(1, a, id.group), nil
	}
	ids, fs := &id.user, &id.fs[0]
	if slices.Contains([]int32{unix.SYS_SETGID, unix.SYS_SETREGID, unix.SYS_SETRESGID}, n.nr) {
		ids, fs = &id.group, &id.fs[1]
	}
	want := [3]uint32{leaveID, leaveID, leaveID}
	// Of which ids it has, those that each may become without root's rights.
	may := [3][]uint32{ids[:], ids[:], ids[:]}
	switch n.nr {
	case unix.SYS_SETUID, unix.SYS_SETGID:
		if a == leaveID {
			return 0, unix.EINVAL
		}
		if want[1] = a; id.isRoot() {
			want[0], want[2] = a, a
		}
		may[1] = []uint32{ids[0], ids[2]}
	case unix.SYS_SETREUID, unix.SYS_SETREGID:
		want[0], want[1] = a, b
		may[0] = ids[:2]
	default:
		want = [3]uint32{a, b, c}
		if (a == leaveID || a == ids[0]) && (b == leaveID || b == ids[1] && b == *fs) && (c == leaveID || c == ids[2]) {
			return 0, nil // changes nothing, not even the one for file systems
		}
	}
	for i, w := range want {
		if !id.isRoot() && w != leaveID && !slices.Contains(may[i], w) {
			return 0, unix.EPERM
		}
	}
	if n.nr == unix.SYS_SETREUID || n.nr == unix.SYS_SETREGID {
		if a != leaveID || b != leaveID && b != ids[0] {
			if want[2] = b; b == leaveID {
				want[2] = ids[1]
			}
		}
	}
	for i, w := range want {
		if w != leaveID {
			ids[i] = w
		}
	}
	*fs = ids[1]
	return 0, nil
}

func (id *identity) isRoot() bool { return id.user[1] == 0 }

// setFS answers setfsuid(2) and setfsgid(2), which return what was before and no
// error.
func (id *identity) setFS(which int, to uint32, ids [3]uint32) int64 {
	before := id.fs[which]
	if to != leaveID && (id.isRoot() || to == before || slices.Contains(ids[:], to)) {
		id.fs[which] = to
	}
	return int64(before)
}

func (id *identity) getGroups(n *notification) (int64, error) {
	size := int32(n.args[0])
	switch {
	case size == 0:
		return int64(len(id.groups)), nil
	case size < 0 || int(size) < len(id.groups):
		return 0, unix.EINVAL
	}
	var data []byte
	for _, g := range id.groups {
		data = binary.NativeEndian.AppendUint32(data, g)
	}
	_, err := memory(unix.SYS_PROCESS_VM_WRITEV, n.pid, n.args[1], data)
	return int64(len(id.groups)), err
}

// maxGroups is NGROUPS_MAX.
const maxGroups = 65536

func (id *identity) setGroups(n *notification) error {
	size := int32(n.args[0])
	if !id.isRoot() {
		return unix.EPERM
	}
	if size < 0 || size > maxGroups {
		return unix.EINVAL
	}
	data := make([]byte, 4*size)
	if got, err := memory(unix.SYS_PROCESS_VM_READV, n.pid, n.args[1], data); err != nil || got < len(data) {
		return unix.EFAULT
	}
	id.groups = nil
	for ; len(data) > 0; data = data[4:] {
		id.groups = append(id.groups, binary.NativeEndian.Uint32(data))
	}
	return nil
}

// putIDs writes three ids to where the call's arguments say.
func putIDs(n *notification, ids [3]uint32) error {
	for i, v := range ids {
		if _, err := memory(unix.SYS_PROCESS_VM_WRITEV, n.pid, n.args[i], binary.NativeEndian.AppendUint32(nil, v)); err != nil {
			return err
		}
	}
	return nil
}
