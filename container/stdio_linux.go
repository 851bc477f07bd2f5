// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/owner"
)

// stdio is a container's standard streams.
type stdio struct {
	user     uint32      // who has the child's streams, outside of its user namespace
	child    [3]*os.File // become descriptors 0, 1 and 2
	terminal *os.File    // our side of the pseudo terminal, or nil

	ours    []*os.File // the child's ends that are closed once it runs
	copies  []copying
	input   *copying // not waited for: its source may never end
	pending sync.WaitGroup
	mu      sync.Mutex
	err     error // the first error of copying output
}

// copying moves bytes between a stream of the caller and one of the child. The
// pipe's end is closed when it is done.
type copying struct {
	to   io.Writer
	from io.Reader
	end  *os.File
}

// newStdio makes the streams that a Spec asks for, for a user outside of the
// container's user namespace. null opens /dev/null of the container; pts is its
// devpts mount.
func newStdio(spec *Spec, user uint32, pts *os.File, null func() (*os.File, error)) (*stdio, error) {
	if owner.Kept() {
		user = 0 // there is nobody else
	}
	s := &stdio{user: user}
	var err error
	if spec.Terminal {
		err = s.openTerminal(spec, pts)
	} else {
		err = s.openStreams(spec, null)
	}
	if err != nil {
		s.closeAll()
		return nil, err
	}
	return s, nil
}

func (s *stdio) openStreams(spec *Spec, null func() (*os.File, error)) error {
	var err error
	if s.child[0], err = s.reader(spec.Stdin, null); err != nil {
		return err
	}
	if s.child[1], err = s.writer(spec.Stdout, null); err != nil {
		return err
	}
	if spec.Stderr != nil && (sameWriter(spec.Stdout, spec.Stderr) || s.copied(spec.Stdout) && sameFile(spec.Stdout, spec.Stderr)) {
		s.child[2] = s.child[1]
		return nil
	}
	s.child[2], err = s.writer(spec.Stderr, null)
	return err
}

// copied says whether what the child writes to w is copied there.
func (s *stdio) copied(w io.Writer) bool {
	f, ok := w.(*os.File)
	return !ok || f != s.child[1]
}

// sameFile says whether two writers are one open file under two numbers, or two
// ways to one: in one pipe what is written stays in order.
func sameFile(a, b io.Writer) bool {
	f, okF := a.(*os.File)
	g, okG := b.(*os.File)
	if !okF || !okG {
		return false
	}
	one, err1 := f.Stat()
	two, err2 := g.Stat()
	return err1 == nil && err2 == nil && os.SameFile(one, two)
}

// sameWriter says whether two writers are one; comparing some types panics.
func sameWriter(a, b io.Writer) bool {
	defer func() { _ = recover() }()
	return a == b
}

func (s *stdio) reader(r io.Reader, null func() (*os.File, error)) (*os.File, error) {
	if r == nil {
		return s.own(null())
	}
	if f, ok := r.(*os.File); ok && s.direct(f, 0o004) {
		return f, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.input = &copying{to: pw, from: r, end: pw}
	return s.own(pr, nil)
}

func (s *stdio) writer(w io.Writer, null func() (*os.File, error)) (*os.File, error) {
	if w == nil {
		return s.own(null())
	}
	if f, ok := w.(*os.File); ok && s.direct(f, 0o002) {
		return f, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.copies = append(s.copies, copying{to: w, from: pr, end: pr})
	return s.own(pw, nil)
}

func (s *stdio) own(f *os.File, err error) (*os.File, error) {
	if err == nil {
		s.ours = append(s.ours, f)
	}
	return f, err
}

// direct says whether a file of the caller is handed through: not so a terminal,
// nor what the user could not open anew. A pipe is given away for that.
func (s *stdio) direct(f *os.File, others uint32) bool {
	var st unix.Stat_t
	if isTerminal(f) || unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return s.user == 0 || st.Uid == s.user || st.Mode&others != 0 ||
		isPipe(f) && unix.Fchown(int(f.Fd()), int(s.user), -1) == nil
}

// isPipe says whether a file is a pipe without a name.
func isPipe(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Type == unix.PIPEFS_MAGIC
}

// isTerminal says whether a file is one. A terminal of the caller is not given
// to a container: it could read what is typed for others, or change settings.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// openTerminal makes a pseudo terminal on the container's devpts instance, by
// descriptors alone: no path of the container or the machine is involved.
func (s *stdio) openTerminal(spec *Spec, pts *os.File) error {
	// Non-blocking, so that the runtime waits for it without a thread.
	fd, err := unix.Openat(int(pts.Fd()), "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open ptmx", err)
	}
	s.terminal = os.NewFile(uintptr(fd), "ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return os.NewSyscallError("unlock terminal", err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return os.NewSyscallError("open terminal", errno)
	}
	f := os.NewFile(peer, "pts")
	s.ours = append(s.ours, f)
	s.child = [3]*os.File{f, f, f}
	s.terminalStreams(spec, s.terminal)
	return s.resize(spec.Width, spec.Height)
}

// terminalStreams are the copies from and to the other side of a terminal.
func (s *stdio) terminalStreams(spec *Spec, terminal *os.File) {
	s.terminal = terminal
	if spec.Stdin != nil {
		s.input = &copying{to: terminal, from: spec.Stdin}
	}
	out := spec.Stdout
	if out == nil {
		out = io.Discard // else the process blocks when the terminal's buffer is full
	}
	s.copies = append(s.copies, copying{to: out, from: terminal, end: terminal})
}

func (s *stdio) resize(width, height uint16) error {
	if s.terminal == nil || width == 0 && height == 0 {
		return nil
	}
	conn, err := s.terminal.SyscallConn()
	if err != nil {
		return err
	}
	var errSet error
	err = conn.Control(func(fd uintptr) {
		errSet = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	})
	return errors.Join(err, os.NewSyscallError("set terminal size", errSet))
}

// give lets a user other than root open the streams anew, as programs do by way
// of /dev/stdout. Only pipes and the container's own terminal are given away; a
// file of the caller keeps its owner.
func (s *stdio) give() error {
	if s.user == 0 {
		return nil
	}
	for _, f := range s.ours {
		if !isPipe(f) && s.terminal == nil {
			continue
		}
		if err := unix.Fchown(int(f.Fd()), int(s.user), -1); err != nil && !errors.Is(err, unix.EPERM) {
			return os.NewSyscallError("fchown", err)
		}
	}
	return nil
}

// started closes the child's ends and begins to copy.
func (s *stdio) started() {
	s.closeChild()
	for _, c := range s.copies {
		s.pending.Go(func() {
			if err := c.output(); err != nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.err == nil {
					s.err = err
				}
			}
		})
	}
	if s.input != nil {
		go s.input.feed(s.terminal != nil)
	}
}

// output copies until the child's end is closed by everyone, or what is there by
// the time that end sets a deadline.
func (c copying) output() error {
	_, err := io.Copy(c.to, c.from)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ReadPresent(c.to, c.end)
	}
	if errors.Is(err, unix.EIO) {
		err = nil // how a terminal ends
	}
	// A writer that fails ends the process by SIGPIPE, as in a shell's pipe.
	return errors.Join(err, c.end.Close())
}

// feed copies the caller's input. A failure is the process's to notice: it
// sees the end of its input.
func (c *copying) feed(terminal bool) {
	_, err := io.Copy(c.to, c.from)
	switch {
	case c.end != nil:
		c.end.Close()
	case terminal && err == nil:
		_, _ = c.to.Write([]byte{4}) // ^D: end of file
	}
}

// endInput closes the pipe of the input, which nobody reads any more.
func (s *stdio) endInput() {
	if s.input != nil && s.input.end != nil {
		s.input.end.Close()
	}
}

// wait returns when all output has been copied. ended says that nothing comes any
// more but from processes of others that were given the streams: they are not
// waited for.
func (s *stdio) wait(ended bool) error {
	if ended {
		for _, c := range s.copies {
			_ = c.end.SetReadDeadline(time.Unix(1, 0)) // without deadlines it waits for all
		}
	}
	s.pending.Wait()
	return s.err
}

// ReadPresent copies what is in a pipe or terminal, opened for non-blocking
// reading, without waiting for more, nor for others that go on writing.
func ReadPresent(to io.Writer, from *os.File) error {
	_, err := io.CopyN(to, present{from}, Present(from))
	if errors.Is(err, unix.EIO) || errors.Is(err, io.EOF) {
		err = nil // EIO is how a terminal ends
	}
	return err
}

// Present is how many bytes there may be in a pipe or terminal. Of a terminal not
// all are counted that are on their way.
func Present(f *os.File) int64 {
	const most = 1 << 20
	conn, err := f.SyscallConn()
	if err != nil {
		return most
	}
	n := 0
	err = conn.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	if err != nil {
		return most
	}
	return max(int64(n), most)
}

// present reads what a non-blocking file has, and then says that it has ended.
type present struct{ f *os.File }

func (p present) Read(b []byte) (n int, err error) {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var errRead error
	err = conn.Control(func(fd uintptr) {
		for {
			if n, errRead = unix.Read(int(fd), b); !errors.Is(errRead, unix.EINTR) {
				return
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case errors.Is(errRead, unix.EAGAIN):
		return 0, io.EOF
	case errRead != nil:
		return 0, os.NewSyscallError("read", errRead)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (s *stdio) closeChild() {
	for _, f := range s.ours {
		f.Close()
	}
	s.ours = nil
}

// closeAll gives up streams that no child will use.
func (s *stdio) closeAll() {
	s.closeChild()
	for _, c := range s.copies {
		c.end.Close()
	}
	s.endInput()
	if s.terminal != nil {
		s.terminal.Close()
	}
}
