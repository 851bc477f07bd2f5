// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The last step of a program executes a trampoline rather than the command,
// because /proc/self/exe is what was executed last: while the command is being
// executed it must not be this program's own file, which the command could
// open for writing or execute (CVE-2019-5736). The trampoline is a static ELF
// file of a few hundred bytes in a sealed memory file that can't be written to.
//
// It closes the socket for errors on execution, tries the command's candidates in
// turn (see candidates) and reports over the socket if none can be executed. The
// init trampoline does that in a child process, and stays behind as process 1:
// it forwards signals to the child, reaps what is orphaned, and exits with the
// child's code.
//
// The code is in trampoline_amd64.s. It is copied out of this program's text.
type trampolines struct {
	exec, init *os.File
}

// trampolineMark ends the code of each trampoline.
const trampolineMark = "ENDOFCDE"

func newTrampolines() (trampolines, error) {
	execAddr, initAddr := trampolineAddrs()
	var t trampolines
	var err error
	if t.exec, err = newTrampoline("exec", execAddr); err != nil {
		return t, err
	}
	if t.init, err = newTrampoline("init", initAddr); err != nil {
		t.exec.Close()
	}
	return t, err
}

// newTrampoline makes the memory file for the code at addr.
func newTrampoline(name string, addr uintptr) (*os.File, error) {
	code, err := textAt(addr)
	if err != nil {
		return nil, err
	}
	f, err := sealedFile(name, elfFile(code, nil))
	if err != nil {
		return nil, fmt.Errorf("make trampoline: %w", err)
	}
	return f, nil
}

// sealedFile makes a memory file that everybody may execute and nobody may
// change.
func sealedFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("builder-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3 has no MFD_EXEC
		fd, err = unix.MemfdCreate("builder-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	_, err = f.Write(data)
	if err == nil {
		// The command may run as any user.
		err = f.Chmod(0o555)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// textAt returns the machine code at an address up to trampolineMark.
func textAt(addr uintptr) ([]byte, error) {
	// Far more than a trampoline; text of the functions behind it follows.
	const limit = 4096
	for size := 8; size < limit; size += 8 {
		// The address is that of a function, which the collector never moves.
		code := unsafe.Slice(*(**byte)(unsafe.Pointer(&addr)), size)
		if i := bytes.Index(code, []byte(trampolineMark)); i >= 0 {
			return bytes.Clone(code[:i]), nil
		}
	}
	return nil, errors.New("make trampoline: no end of its code")
}

// elfFile makes a static executable of position-independent code (elf(5)). Data,
// if there is any, is mapped at imageAddr and may be written to.
func elfFile(code, data []byte) []byte {
	const (
		base           = 0x400000
		page           = 4096
		ehsize, phsize = 64, 56
		headers        = ehsize + 3*phsize
		readExec       = 5
		readWrite      = 6
		load, stack    = 1, 0x6474e551 // without PT_GNU_STACK the stack is executable
	)
	total := uint64(headers + len(code))
	dataAt := (total + page - 1) &^ (page - 1)
	le := binary.LittleEndian
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 15: 0} // 64 bits, little-endian, version 1
	b = le.AppendUint16(b, 2)                        // ET_EXEC
	b = le.AppendUint16(b, 62)                       // EM_X86_64
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+headers) // entry
	b = le.AppendUint64(b, ehsize)       // program headers
	b = le.AppendUint64(b, 0)            // no section headers
	b = le.AppendUint32(b, 0)
	n := uint16(2)
	if len(data) > 0 {
		n++
	}
	for _, v := range []uint16{ehsize, phsize, n, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	segment := func(kind, flags uint32, offset, addr, size uint64) {
		b = le.AppendUint32(b, kind)
		b = le.AppendUint32(b, flags)
		for _, v := range []uint64{offset, addr, addr, size, size, page} {
			b = le.AppendUint64(b, v)
		}
	}
	segment(load, readExec, 0, base, total)
	segment(stack, readWrite, 0, 0, 0)
	if len(data) == 0 {
		return append(append(b, make([]byte, phsize)...), code...)
	}
	segment(load, readWrite, dataAt, imageAddr, uint64(len(data)))
	b = append(b, code...)
	b = append(b, make([]byte, dataAt-total)...)
	return append(b, data...)
}
