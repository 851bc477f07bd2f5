// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A program is the part of a container's set-up that has to happen in the
// child: a list of system calls with their arguments, each with a name for
// error messages. The parent builds it and encodes it to an image, a block of
// memory that a carrier makes visible to the child at a known address. The
// child walks the image; it needs no memory of its own and no Go.
//
// An image begins with a header, the operations follow, and then the data that
// arguments point to. All are 64-bit words in the machine's byte order:
//
//	header     errfd, index and errno of the failed operation (see report)
//	operation  nr, indirect, arguments 0 to 5, result, tolerate, skip
//
// nr is the system call's number, or one of opCheck and opEnd. Bit i of
// indirect says that argument i is the address of a word that holds the
// argument. If result is not 0, the call's result is stored at that address.
// tolerate is a set of error numbers below 64, or of all if every bit is set,
// that do not end the program: after such an error, the next skip operations
// are left out.
//
// When an operation fails, the child writes the two words index and errno to
// the descriptor errfd and exits. The trampoline that the last operation
// executes reports in the same way, with index execReport. When the command
// has been executed the descriptor is closed without anything written: it is
// a socket, and its end tells the parent that the container runs.
type program struct {
	steps []step
	data  []byte // what arguments point to; addresses are offsets into it
	fixup []int  // offsets of words in data that hold addresses
	files []*os.File
}

// step is one operation.
type step struct {
	name     string // what it does, for errors: "mount /proc"
	nr       uintptr
	args     [6]arg
	result   int // offset into data, or -1
	tolerate uint64
	skip     int
}

// Numbers of operations that are no system calls.
const (
	// opCheck compares the byte at argument 0 with argument 1 and fails with
	// the errno in argument 2 if they differ.
	opCheck = ^uintptr(0)
	// opEnd ends the walk. It is never reached when the program ends in an
	// execve; it ends the image for the walker's sake.
	opEnd = ^uintptr(1)
)

// execReport is the index reported by the trampoline: executing the command
// failed.
const execReport = ^uint64(0)

// carrierReport is the index reported by the portable carrier: something
// failed before the first operation.
const carrierReport = ^uint64(1)

// readyReport is the index of a report that is none of an error: the process
// waits for a byte before it executes its command, see Spec.BeforeExec.
const readyReport = ^uint64(3)

// Sizes and offsets in words.
const (
	headerWords = 4
	opWords     = 11
	headerErrfd = 0
)

type argKind int

const (
	argValue argKind = iota
	argData          // address of data
	argFile          // descriptor of files[v]
	argSlot          // value of the word at data offset v
)

// arg is an argument of a step.
type arg struct {
	kind argKind
	v    uintptr
}

// num is an argument that is a number.
func num[T ~int | ~uint | ~int32 | ~uint32 | ~int64 | ~uint64 | ~uintptr](v T) arg {
	return arg{argValue, uintptr(v)}
}

// newProgram makes an empty program with room for a usual one.
func newProgram() program {
	return program{steps: make([]step, 0, 192), data: make([]byte, 0, 24<<10), fixup: make([]int, 0, 64), files: make([]*os.File, 0, 24)}
}

// cwd is AT_FDCWD as an argument.
var cwd = arg{argValue, ^uintptr(99)}

// bytes puts b into the data and returns its address.
func (p *program) bytes(b []byte) arg {
	for len(p.data)%8 != 0 {
		p.data = append(p.data, 0)
	}
	off := len(p.data)
	p.data = append(p.data, b...)
	return arg{argData, uintptr(off)}
}

// str is the address of a string with a terminating 0.
func (p *program) str(s string) arg {
	off := len(p.data)
	p.data = append(append(p.data, s...), 0)
	return arg{argData, uintptr(off)}
}

// words is the address of 64-bit words, some of which may be addresses
// themselves.
func (p *program) words(args ...arg) arg {
	b := make([]byte, 0, 8*len(args))
	var fix []int
	for i, a := range args {
		if a.kind == argData {
			fix = append(fix, 8*i)
		}
		b = binary.NativeEndian.AppendUint64(b, uint64(a.v))
	}
	out := p.bytes(b)
	for _, off := range fix {
		p.fixup = append(p.fixup, int(out.v)+off)
	}
	return out
}

// strings is the address of an array of strings that ends in a null pointer.
func (p *program) strings(list []string) arg {
	var ptrs []arg
	for _, s := range list {
		ptrs = append(ptrs, p.str(s))
	}
	return p.words(append(ptrs, num(0))...)
}

// file is the descriptor of f in the child. The caller keeps f open until the
// program has run.
func (p *program) file(f *os.File) arg {
	for i, have := range p.files {
		if have == f {
			return arg{argFile, uintptr(i)}
		}
	}
	p.files = append(p.files, f)
	return arg{argFile, uintptr(len(p.files) - 1)}
}

// fdOf returns the index of a file that is in use.
func (p *program) fdOf(f *os.File) int {
	return int(p.file(f).v)
}

// do appends a step.
func (p *program) do(name string, nr uintptr, args ...arg) *step {
	s := step{name: name, nr: nr, result: -1}
	if copy(s.args[:], args) < len(args) {
		panic("too many arguments for " + name)
	}
	p.steps = append(p.steps, s)
	return &p.steps[len(p.steps)-1]
}

// get appends a step whose result later steps use.
func (p *program) get(name string, nr uintptr, args ...arg) arg {
	s := p.do(name, nr, args...)
	s.result = int(p.words(num(0)).v)
	return arg{argSlot, uintptr(s.result)}
}

// check appends a comparison of the byte at an address.
func (p *program) check(name string, addr arg, want byte, otherwise unix.Errno) {
	p.do(name, opCheck, addr, num(int(want)), num(uintptr(otherwise)))
}

// ignore makes errors of the step last appended end nothing but the next skip
// steps.
func (p *program) ignore(skip int, errnos ...unix.Errno) {
	s := &p.steps[len(p.steps)-1]
	s.skip = skip
	for _, e := range errnos {
		if e == anyErrno {
			s.tolerate = ^uint64(0)
		}
		s.tolerate |= 1 << uint(e)
	}
}

// anyErrno stands for every error.
const anyErrno = unix.Errno(0)

// size is the length of the image.
func (p *program) size() int {
	return 8*(headerWords+opWords*(len(p.steps)+1)) + (len(p.data)+7)&^7
}

// encode makes the image for the address base. fd gives the child's descriptor
// number of each file, errfd is that of the socket for errors.
func (p *program) encode(base uintptr, errfd int, fd func(i int) int) []byte {
	out := make([]byte, p.size())
	p.encodeTo(out, base, errfd, fd)
	return out
}

// encodeTo is encode into memory of the image's size, which is zero.
func (p *program) encodeTo(out []byte, base uintptr, errfd int, fd func(i int) int) {
	dataOff := 8 * (headerWords + opWords*(len(p.steps)+1))
	dataAt := base + uintptr(dataOff)
	put := func(word int, v uintptr) { binary.NativeEndian.PutUint64(out[8*word:], uint64(v)) }
	put(headerErrfd, uintptr(errfd))
	at := headerWords
	for _, s := range p.steps {
		var indirect uintptr
		for i, a := range s.args {
			v := a.v
			switch a.kind {
			case argFile:
				v = uintptr(fd(int(v)))
			case argSlot:
				indirect |= 1 << i
				v += dataAt
			case argData:
				v += dataAt
			}
			put(at+2+i, v)
		}
		put(at, s.nr)
		put(at+1, indirect)
		switch {
		case s.result == resultErrfd:
			put(at+8, base+8*headerErrfd)
		case s.result >= 0:
			put(at+8, dataAt+uintptr(s.result))
		}
		put(at+9, uintptr(s.tolerate))
		put(at+10, uintptr(s.skip))
		at += opWords
	}
	put(at, opEnd)
	copy(out[dataOff:], p.data)
	for _, off := range p.fixup {
		v := binary.NativeEndian.Uint64(out[dataOff+off:])
		binary.NativeEndian.PutUint64(out[dataOff+off:], v+uint64(dataAt))
	}
}

// resultErrfd as a step's result replaces the header's errfd.
const resultErrfd = -2

// failure turns what a child reported into an error.
func (p *program) failure(index, errno uint64) error {
	err := unix.Errno(errno)
	if index == carrierReport {
		return setupError("enter process", err)
	}
	if index >= uint64(len(p.steps)) {
		return setupError("start", fmt.Errorf("unknown step %d: %w", index, err))
	}
	return setupError(p.steps[index].name, err)
}
