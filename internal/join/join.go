// SPDX-License-Identifier: Apache-2.0

// Command join makes one executable file of two: join WHOLE FRONT OUT [WORD...]. Both
// are static programs of the same machine, linked to different addresses (Go's
// -ldflags=-T). The file begins as the whole program does, which is what others find in it
// (go version -m), but its header names the segments of both, and at the entry point it is
// chosen: if the first argument is one of the words, or the first variable of the
// environment begins with [marker], the whole program is begun, as if it had been
// executed, or else the front one. What isn't run is mapped and never read.
//
// The format is that of elf(5); what is at the entry point on the stack, the System V
// ABI's, by the processor's supplement, "Process Initialization".
package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// marker is what the first variable begins with if the whole program is meant.
const marker = "WHOLE_BU"

// page is what segments are aligned to: the largest page of the machines.
const page = 64 << 10

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: join WHOLE FRONT OUT [WORD...]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintf(os.Stderr, "join %s and %s: %v\n", os.Args[1], os.Args[2], err)
		os.Exit(1)
	}
}

func run(whole, front, out string, words []string) error {
	first, err := os.ReadFile(whole)
	if err != nil {
		return err
	}
	second, err := os.ReadFile(front)
	if err != nil {
		return err
	}
	joined, err := Join(first, second, words)
	if err != nil {
		return err
	}
	// The name is another file's at once: the old one may be running.
	tmp := out + ".new"
	if err := os.WriteFile(tmp, joined, 0o755); err != nil { //nolint:gosec // it is a program
		return err
	}
	return os.Rename(tmp, out)
}

// program is a static executable.
type program struct {
	data     []byte
	header   elf.Header64
	segments []elf.Prog64
}

const (
	headerSize  = 64
	segmentSize = 56
)

func parse(data []byte) (*program, error) {
	p := &program{data: data}
	if _, err := binary.Decode(data, binary.LittleEndian, &p.header); err != nil {
		return nil, fmt.Errorf("it has no ELF header: %w", err)
	}
	h := &p.header
	switch {
	case string(h.Ident[:4]) != elf.ELFMAG || elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB:
		return nil, errors.New("it is no ELF file of 64 bits, lowest byte first")
	case elf.Type(h.Type) != elf.ET_EXEC:
		return nil, fmt.Errorf("it is %v: want a program with fixed addresses", elf.Type(h.Type))
	case h.Phoff != headerSize || h.Phentsize != segmentSize:
		return nil, errors.New("its program headers are not behind its header")
	}
	p.segments = make([]elf.Prog64, h.Phnum)
	if _, err := binary.Decode(data[headerSize:], binary.LittleEndian, p.segments); err != nil {
		return nil, fmt.Errorf("its program headers: %w", err)
	}
	for _, s := range p.segments {
		if t := elf.ProgType(s.Type); t == elf.PT_INTERP || t == elf.PT_DYNAMIC || t == elf.PT_TLS {
			return nil, fmt.Errorf("it has a segment %v, as a static Go program has not", t)
		}
		if s.Off+s.Filesz > uint64(len(data)) {
			return nil, errors.New("it ends within a segment")
		}
	}
	return p, nil
}

// loads are the segments that are mapped.
func (p *program) loads() (list []elf.Prog64) {
	for _, s := range p.segments {
		if elf.ProgType(s.Type) == elf.PT_LOAD {
			list = append(list, s)
		}
	}
	return list
}

// extent is from where to where a program is mapped.
func (p *program) extent() (from, to uint64) {
	loads := p.loads()
	from = loads[0].Vaddr
	for _, s := range loads {
		from, to = min(from, s.Vaddr), max(to, s.Vaddr+s.Memsz)
	}
	return from, to
}

// Join returns a file that is both programs. The whole one has to be at lower addresses
// than the front one, and to have room for the code that chooses where its headers are.
// Of a word the first eight bytes count. Sections, and what else isn't needed to run, are
// left out.
func Join(whole, front []byte, words []string) ([]byte, error) {
	a, err := parse(whole)
	if err != nil {
		return nil, fmt.Errorf("the whole program: %w", err)
	}
	b, err := parse(front)
	if err != nil {
		return nil, fmt.Errorf("the front program: %w", err)
	}
	if a.header.Machine != b.header.Machine {
		return nil, fmt.Errorf("they are for %v and %v", elf.Machine(a.header.Machine), elf.Machine(b.header.Machine))
	}
	if len(a.loads()) == 0 || len(b.loads()) == 0 {
		return nil, errors.New("one of them has no segment to map")
	}
	_, end := a.extent()
	if begin, _ := b.extent(); begin < end {
		return nil, fmt.Errorf("the front program begins at %#x, below the end of the whole one at %#x: link it to a higher address", begin, end)
	}
	at := uint64(len(whole)+page-1) / page * page
	segments := a.loads()
	for _, s := range b.loads() {
		s.Off += at
		segments = append(segments, s)
	}
	segments = append(segments, elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16})
	h := a.header
	h.Phnum, h.Shnum, h.Shoff, h.Shstrndx = uint16(len(segments)), 0, 0, 0

	// The code that chooses stands behind the headers, in what is left of the page that
	// the whole program's text begins with.
	place := uint64(headerSize + len(segments)*segmentSize)
	text := a.loads()[0]
	stub, err := choose(elf.Machine(h.Machine), b.header.Entry, a.header.Entry, words)
	if err != nil {
		return nil, err
	}
	place = (place + 15) / 16 * 16
	if room := firstUse(a); text.Off != 0 || elf.ProgFlag(text.Flags)&elf.PF_X == 0 || place+uint64(len(stub)) > room {
		return nil, fmt.Errorf("the whole program has no room for %d bytes at %#x, where its headers are", len(stub), place)
	}
	h.Entry = text.Vaddr + place

	out := make([]byte, at+uint64(len(front)))
	copy(out, whole)
	copy(out[at:], front)
	clear(out[:place])
	var head bytes.Buffer
	for _, v := range []any{&h, segments} {
		if err := binary.Write(&head, binary.LittleEndian, v); err != nil {
			return nil, err
		}
	}
	copy(out, head.Bytes())
	copy(out[place:], stub)
	return out, nil
}

// firstUse is the offset of the first byte behind the headers that a program has a use
// for: a note, or its text.
func firstUse(p *program) uint64 {
	const text = 4096 // where Go's linker has it begin
	first := uint64(text)
	for _, s := range p.segments {
		if elf.ProgType(s.Type) == elf.PT_NOTE {
			first = min(first, s.Off)
		}
	}
	return first
}

// choose is the code at the entry point. On the stack are, as words of the machine, how
// many arguments there are, these, 0, and the environment's variables; behind the last of
// their texts are the name of the file and eight bytes of 0, so that eight bytes can be
// read of any.
func choose(machine elf.Machine, front, whole uint64, words []string) ([]byte, error) {
	if machine != elf.EM_X86_64 {
		return nil, fmt.Errorf("they are for %v: want %v", machine, elf.EM_X86_64)
	}
	begin := func(at uint64) []byte {
		code := binary.LittleEndian.AppendUint64([]byte{0x48, 0xb8}, at) // movabs $at,%rax
		return append(code, 0xff, 0xe0)                                  // jmp    *%rax
	}
	c := &code{places: map[string]int{}, jumps: map[int]string{}}
	c.put(0x4c, 0x8b, 0x04, 0x24)       // mov    (%rsp),%r8
	c.put(0x49, 0x83, 0xf8, 0x02)       // cmp    $2,%r8
	c.jump(0x82, "variable")            // jb     variable
	c.put(0x48, 0x8b, 0x44, 0x24, 0x10) // mov    16(%rsp),%rax
	c.put(0x48, 0x8b, 0x10)             // mov    (%rax),%rdx
	for _, w := range words {
		text, mask := eight(w + "\x00")
		c.same(text, mask) // je whole
	}
	c.place("variable")
	c.put(0x4a, 0x8b, 0x44, 0xc4, 0x10) // mov    16(%rsp,%r8,8),%rax
	c.put(0x48, 0x85, 0xc0)             // test   %rax,%rax
	c.jump(0x84, "front")               // jz     front
	c.put(0x48, 0x8b, 0x10)             // mov    (%rax),%rdx
	c.same(eight(marker))
	c.place("front")
	c.put(begin(front)...)
	c.place("whole")
	c.put(begin(whole)...)
	return c.finish(), nil
}

// eight are the first eight bytes of a text as the machine reads them, and which of them
// there are.
func eight(text string) (value, mask uint64) {
	var v, m [8]byte
	n := copy(v[:], text)
	for i := range n {
		m[i] = 0xff
	}
	return binary.LittleEndian.Uint64(v[:]), binary.LittleEndian.Uint64(m[:])
}

// code is code in the making.
type code struct {
	bytes  []byte
	places map[string]int
	jumps  map[int]string // where the distance of a jump is to be, and to what
}

func (c *code) put(b ...byte) { c.bytes = append(c.bytes, b...) }

func (c *code) place(name string) { c.places[name] = len(c.bytes) }

// jump puts a conditional jump.
func (c *code) jump(condition byte, to string) {
	c.put(0x0f, condition)
	c.jumps[len(c.bytes)] = to
	c.put(0, 0, 0, 0)
}

// same jumps to the whole program if what is masked of %rdx is this.
func (c *code) same(text, mask uint64) {
	c.put(0x48, 0xb9) // movabs $mask,%rcx
	c.bytes = binary.LittleEndian.AppendUint64(c.bytes, mask)
	c.put(0x48, 0x21, 0xd1) // and    %rdx,%rcx
	c.put(0x48, 0xbe)       // movabs $text,%rsi
	c.bytes = binary.LittleEndian.AppendUint64(c.bytes, text)
	c.put(0x48, 0x39, 0xf1) // cmp    %rsi,%rcx
	c.jump(0x84, "whole")   // je     whole
}

// finish fills in the distances.
func (c *code) finish() []byte {
	for at, to := range c.jumps {
		binary.LittleEndian.PutUint32(c.bytes[at:], uint32(int32(c.places[to]-(at+4)))) //nolint:gosec // a few hundred bytes
	}
	return c.bytes
}
