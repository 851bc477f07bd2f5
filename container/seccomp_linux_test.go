// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	mobyseccomp "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// seccompData is a struct seccomp_data.
type seccompData struct {
	nr, arch uint32
	args     [6]uint64
}

// interpret runs a filter as the kernel does.
func interpret(t testing.TB, code []sockFilter, d seccompData) uint32 {
	t.Helper()
	var mem []byte
	mem = binary.LittleEndian.AppendUint32(mem, d.nr)
	mem = binary.LittleEndian.AppendUint32(mem, d.arch)
	mem = binary.LittleEndian.AppendUint64(mem, 0)
	for _, a := range d.args {
		mem = binary.LittleEndian.AppendUint64(mem, a)
	}
	var acc uint32
	for pc := 0; pc < len(code); pc++ {
		i := code[pc]
		taken := false
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(mem[i.K:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= i.K
			continue
		case unix.BPF_ALU | unix.BPF_SUB | unix.BPF_K:
			acc -= i.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			taken = acc == i.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			taken = acc >= i.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			taken = acc > i.K
		default:
			t.Fatalf("instruction %d: code %#x", pc, i.Code)
		}
		if taken {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
	t.Fatal("ran off the end")
	return 0
}

// meaning is what a profile means for the calls of one interface, straight
// from its rules.
type meaning struct {
	profile *specs.LinuxSeccomp
	rules   map[int][]specs.LinuxSyscall
	highest int
	bits64  bool
}

func newMeaning(p *specs.LinuxSeccomp, bits64 bool, names map[string]int) meaning {
	m := meaning{profile: p, rules: map[int][]specs.LinuxSyscall{}, bits64: bits64}
	for _, rule := range p.Syscalls {
		for _, name := range rule.Names {
			if n, ok := names[name]; ok {
				m.rules[n] = append(m.rules[n], rule)
				m.highest = max(m.highest, n)
			}
		}
	}
	return m
}

func (m meaning) verdict(t testing.TB, nr int, d seccompData) uint32 {
	t.Helper()
	action := func(act specs.LinuxSeccompAction, errno *uint) uint32 {
		v, err := seccompAction(act, errno)
		must(t, err)
		return v
	}
	for _, rule := range m.rules[nr] {
		if len(rule.Args) > 0 && matches(rule.Args, d, m.bits64) {
			return action(rule.Action, rule.ErrnoRet)
		}
	}
	for _, rule := range m.rules[nr] {
		if len(rule.Args) == 0 {
			return action(rule.Action, rule.ErrnoRet)
		}
	}
	if nr > m.highest {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return action(m.profile.DefaultAction, m.profile.DefaultErrnoRet)
}

func matches(conds []specs.LinuxSeccompArg, d seccompData, bits64 bool) bool {
	count := map[uint]int{}
	for _, c := range conds {
		count[c.Index]++
	}
	one := func(c specs.LinuxSeccompArg) bool {
		v, want, two := d.args[c.Index], c.Value, c.ValueTwo
		if !bits64 {
			v, want, two = uint64(uint32(v)), uint64(uint32(want)), uint64(uint32(two))
		}
		switch c.Op {
		case specs.OpEqualTo:
			return v == want
		case specs.OpNotEqual:
			return v != want
		case specs.OpLessThan:
			return v < want
		case specs.OpLessEqual:
			return v <= want
		case specs.OpGreaterThan:
			return v > want
		case specs.OpGreaterEqual:
			return v >= want
		case specs.OpMaskedEqual:
			return v&want == two&want
		}
		return false
	}
	for _, n := range count {
		if n > 1 { // any of them
			return slices.ContainsFunc(conds, one)
		}
	}
	return !slices.ContainsFunc(conds, func(c specs.LinuxSeccompArg) bool { return !one(c) })
}

// sampleArgs are values around everything that profiles compare with.
func sampleArgs(p *specs.LinuxSeccomp) []uint64 {
	set := map[uint64]bool{0: true, 1: true, ^uint64(0): true, 1 << 31: true, 1 << 32: true, 1<<32 + 8: true}
	for _, rule := range p.Syscalls {
		for _, c := range rule.Args {
			for _, v := range []uint64{c.Value, c.ValueTwo} {
				for _, x := range []uint64{v, v - 1, v + 1, v | 1<<32, v | 1<<63, v ^ 0xffff, v &^ (v & -v)} {
					set[x] = true
				}
			}
		}
	}
	var out []uint64
	for v := range set {
		out = append(out, v)
	}
	slices.Sort(out)
	return out
}

// equalOnAll compares a compiled profile with its meaning, on every number of
// every interface with sample arguments.
func equalOnAll(t *testing.T, p *specs.LinuxSeccomp) {
	t.Helper()
	f, err := compileSeccomp(p, abiSupport{x32: true})
	must(t, err)
	tables := [][]unixName{unixTable(t, "amd64"), unixTable(t, "386"), nil}
	samples := sampleArgs(p)
	probes := 0
	for ai, a := range x86ABIs {
		allowed := ai == 0 || slices.Contains(p.Architectures, a.name)
		names := map[string]int{}
		if ai == 2 {
			for _, row := range x86Syscalls {
				if row.x32 >= 0 {
					names[row.name] = int(row.x32)
				}
			}
		}
		for _, u := range tables[ai] {
			names[u.name] = u.number
		}
		m := newMeaning(p, a.bits64, names)
		for nr := range 600 {
			few := samples
			if len(m.rules[nr]) == 1 && len(m.rules[nr][0].Args) == 0 {
				few = samples[:3] // no argument matters
			}
			for _, v := range few {
				for arg := range 2 {
					d := seccompData{nr: uint32(nr), arch: a.audit}
					if ai == 2 {
						d.nr |= x32Bit
					}
					d.args[arg] = v
					got := interpret(t, f.code, d)
					want := uint32(unix.SECCOMP_RET_KILL_PROCESS)
					if allowed {
						want = m.verdict(t, nr, d)
					}
					if got != want {
						t.Fatalf("%s call %d, argument %d %#x: %#x, want %#x", a.name, nr, arg, v, got, want)
					}
					probes++
				}
			}
		}
	}
	t.Logf("%d instructions, %d probes", len(f.code), probes)
}

func TestSeccompDefaultProfile(t *testing.T) {
	for _, caps := range []capSet{defaultCaps, 0, 1<<len(capNames) - 1, defaultCaps | 1<<unix.CAP_SYS_ADMIN} {
		oci := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps.names()}}}
		p, err := mobyseccomp.GetDefaultProfile(oci)
		must(t, err)
		equalOnAll(t, p)
	}
}

func TestSeccompRules(t *testing.T) {
	arg := func(i uint, op specs.LinuxSeccompOperator, v ...uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Op: op, Value: v[0], ValueTwo: append(v, 0)[1]}
	}
	enospc := uint(unix.ENOSPC)
	all := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	allow := func(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name, "no_such_call"}, Action: specs.ActAllow, Args: args}
	}
	deny := func(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, ErrnoRet: &enospc, Args: args}
	}
	const big = 0x1_0000_0002
	for name, p := range map[string]*specs.LinuxSeccomp{
		"operators": {DefaultAction: specs.ActErrno, Architectures: all, Syscalls: []specs.LinuxSyscall{
			allow("read", arg(0, specs.OpEqualTo, big)), allow("write", arg(0, specs.OpNotEqual, big)),
			allow("open", arg(0, specs.OpLessThan, big)), allow("close", arg(0, specs.OpLessEqual, big)),
			allow("stat", arg(0, specs.OpGreaterThan, big)), allow("fstat", arg(0, specs.OpGreaterEqual, big)),
			allow("lstat", arg(0, specs.OpMaskedEqual, 0xf0000000f, 0x10000ff02)),
		}},
		"and": {DefaultAction: specs.ActErrno, Architectures: all, Syscalls: []specs.LinuxSyscall{
			allow("read", arg(0, specs.OpGreaterEqual, 5), arg(1, specs.OpLessThan, 9)),
			allow("read", arg(0, specs.OpEqualTo, 3), arg(1, specs.OpNotEqual, 0)),
		}},
		"same argument twice": {DefaultAction: specs.ActErrno, Architectures: all, Syscalls: []specs.LinuxSyscall{
			allow("read", arg(0, specs.OpGreaterEqual, 5), arg(0, specs.OpLessThan, 3)),
		}},
		"order": {DefaultAction: specs.ActKillProcess, Architectures: all[:1], Syscalls: []specs.LinuxSyscall{
			allow("read"), deny("read", arg(0, specs.OpEqualTo, 7)), deny("read"), deny("write"), allow("write", arg(0, specs.OpEqualTo, 7)),
		}},
		"only i386":  {DefaultAction: specs.ActErrno, Architectures: all[:2], Syscalls: []specs.LinuxSyscall{allow("read"), allow("socketcall")}},
		"only x32":   {DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX32}, Syscalls: []specs.LinuxSyscall{allow("ioctl"), allow("execve")}},
		"many rules": {DefaultAction: specs.ActErrno, Architectures: all, Syscalls: manyRules(100)},
	} {
		t.Run(name, func(t *testing.T) { equalOnAll(t, p) })
	}
}

// manyRules makes code that is longer than a conditional jump reaches.
func manyRules(n int) (out []specs.LinuxSyscall) {
	for i := range n {
		out = append(out, specs.LinuxSyscall{
			Names: []string{"socket", "read"}[i%2 : i%2+1], Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: uint64(3 * i)}},
		})
	}
	return out
}

func TestSeccompErrors(t *testing.T) {
	big := uint(1 << 16)
	for name, p := range map[string]*specs.LinuxSeccomp{
		"default action": {DefaultAction: "x"},
		"notify":         {DefaultAction: specs.ActNotify},
		"rule":           {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: "x"}}},
		"errno":          {DefaultAction: specs.ActErrno, DefaultErrnoRet: &big},
		"operator":       {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "x"}}}}},
		"argument":       {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}},
		"flag":           {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"x"}},
		"too large":      {DefaultAction: specs.ActErrno, Syscalls: manyRules(30000)},
	} {
		if _, err := compileSeccomp(p, abiSupport{x32: true}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

var update = flag.Bool("update", false, "rewrite seccomp_default.go")

// seccomp_default.go holds what the default profile compiles to.
func TestSeccompDefaultFilter(t *testing.T) {
	f, err := compileProfile("", defaultCaps, abiSupport{})
	must(t, err)
	if *update {
		must(t, os.WriteFile("seccomp_default.go", defaultFilterSource(t, f.code), 0o644))
		return
	}
	if !slices.Equal(f.code, defaultFilter[:]) {
		t.Error("seccomp_default.go is not what the profile compiles to; rewrite it: go test ./container -run TestSeccompDefaultFilter -update")
	}
	if got, err := loadSeccomp("", defaultCaps, abiSupport{}); err != nil || !slices.Equal(got.code, f.code) || got.flags != f.flags {
		t.Errorf("loaded is another filter: %v", err)
	}
}

func defaultFilterSource(t testing.TB, code []sockFilter) []byte {
	var b bytes.Buffer
	b.WriteString("// Code generated by go test -run TestSeccompDefaultFilter -update; DO NOT EDIT.\n\n" +
		"// SPDX-License-Identifier: Apache-2.0\n\npackage container\n\n" +
		"// defaultFilter is docker's default profile for the default capabilities on\n// x86-64 without x32, compiled.\nvar defaultFilter = [...]sockFilter{\n")
	for i, insn := range code {
		fmt.Fprintf(&b, "{%#x, %d, %d, %#x},", insn.Code, insn.Jt, insn.Jf, insn.K)
		if i%5 == 4 {
			b.WriteString("\n")
		}
	}
	b.WriteString("\n}\n")
	out, err := format.Source(b.Bytes())
	must(t, err)
	return out
}

// Where the kernel has no x32, its calls are answered as it would.
func TestSeccompWithoutX32(t *testing.T) {
	f, err := compileProfile("", defaultCaps, abiSupport{})
	must(t, err)
	full, err := loadSeccomp("", defaultCaps, abiSupport{x32: true})
	must(t, err)
	for nr := range uint32(1000) {
		d := seccompData{nr: nr | x32Bit, arch: unix.AUDIT_ARCH_X86_64}
		if got := interpret(t, f.code, d); got != unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) {
			t.Errorf("x32 call %d: %#x", nr, got)
		}
		for _, arch := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64} {
			d := seccompData{nr: nr, arch: arch}
			if got, want := interpret(t, f.code, d), interpret(t, full.code, d); got != want {
				t.Errorf("arch %#x call %d: %#x, want %#x", arch, nr, got, want)
			}
		}
	}
}

// unixName is a row of golang.org/x/sys's tables.
type unixName struct {
	name   string
	number int
}

// unixTable reads the system call numbers out of golang.org/x/sys.
func unixTable(t testing.TB, arch string) []unixName {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "golang.org/x/sys/unix").Output()
	must(t, err)
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "zsysnum_linux_"+arch+".go"))
	must(t, err)
	var table []unixName
	for _, m := range regexp.MustCompile(`(?m)^\s*SYS_(\w+)\s*=\s*(\d+)`).FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.Atoi(m[2])
		must(t, err)
		table = append(table, unixName{strings.ToLower(m[1]), n})
	}
	return table
}

func TestSyscallTable(t *testing.T) {
	if !slices.IsSortedFunc(x86Syscalls[:], func(a, b syscallNumbers) int { return strings.Compare(a.name, b.name) }) {
		t.Error("table is not sorted")
	}
	for i, arch := range []string{"amd64", "386"} {
		table := unixTable(t, arch)
		for _, u := range table {
			n, ok := syscallNumber(u.name, x86ABIs[i])
			if !ok || n != u.number {
				t.Errorf("%s %s: %d, %v; want %d", arch, u.name, n, ok, u.number)
			}
		}
		count := 0
		for _, row := range x86Syscalls {
			if x86ABIs[i].number(row) >= 0 {
				count++
			}
		}
		if count != len(table) {
			t.Errorf("%s: %d calls, want %d", arch, count, len(table))
		}
	}
	// x32 shares its numbers with x86-64, but for those from 512 on.
	for _, row := range x86Syscalls {
		if row.x32 >= 0 && row.x32 < 512 && row.x32 != row.amd64 || row.x32 > 547 {
			t.Errorf("%s: x32 number %d", row.name, row.x32)
		}
	}
}

func BenchmarkCompileSeccomp(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := compileProfile("", defaultCaps, abiSupport{}); err != nil {
			b.Fatal(err)
		}
	}
}

// The numbers of executed instructions matter as every system call pays them.
func TestSeccompDepth(t *testing.T) {
	f, err := compileProfile("", defaultCaps, abiSupport{})
	must(t, err)
	if len(f.code) > 1200 {
		t.Errorf("the default profile has %d instructions", len(f.code))
	}
	for _, name := range []string{"read", "openat", "futex", "close"} {
		n, _ := syscallNumber(name, x86ABIs[0])
		if steps := countSteps(f.code, uint32(n)); steps > 16 {
			t.Errorf("%s takes %d instructions", name, steps)
		}
	}
}

func countSteps(code []sockFilter, nr uint32) int {
	acc, steps := uint32(0), 0
	for pc := 0; ; pc++ {
		steps++
		i := code[pc]
		taken := false
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = map[uint32]uint32{offNumber: nr, offArch: unix.AUDIT_ARCH_X86_64}[i.K]
			continue
		case unix.BPF_RET | unix.BPF_K:
			return steps
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			taken = acc == i.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			taken = acc >= i.K
		}
		if taken {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
}
