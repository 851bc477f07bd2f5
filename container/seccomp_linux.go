// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"

	mobyseccomp "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// This file compiles a seccomp profile (docker's JSON, or docker's default) to
// classic BPF, without libseccomp. The filter is a binary search over ranges
// of system call numbers for each interface of the machine; checks of
// arguments follow at the leaves, one rule after the other.
//
// What the profile's rules mean:
//   - A system call's rules with arguments are tried in order, the first whose
//     arguments all match decides; else the first rule without arguments; else
//     the default action.
//   - A rule that compares the same argument more than once is taken as one
//     rule for each comparison, as runc takes it.
//   - Numbers above the highest that the profile names are unknown to its
//     author: they fail with ENOSYS rather than with the default action, so
//     that programs fall back to older calls.
//   - A system call made over an interface that the profile does not list
//     kills the process.

const (
	x32Bit = 0x40000000 // __X32_SYSCALL_BIT
	// maxSeccompFile bounds what is read of a profile.
	maxSeccompFile = 4 << 20
)

// Offsets in struct seccomp_data; the arguments follow, little-endian.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// sockFilter is an instruction of classic BPF.
type sockFilter unix.SockFilter

// seccompFilter is a filter ready to be loaded.
type seccompFilter struct {
	code  []sockFilter
	flags uintptr // for seccomp(2)
}

// loadSeccomp compiles the profile that a Spec asks for, or returns nil for
// none.
func loadSeccomp(name string, caps capSet, kernel abiSupport) (*seccompFilter, error) {
	if name == "" && caps == defaultCaps && !kernel.x32 {
		// What nearly every container gets is compiled beforehand. The
		// profile asks for kernel versions too, but none that is too old
		// for the rest of this package.
		return &seccompFilter{code: defaultFilter[:], flags: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW}, nil
	}
	return compileProfile(name, caps, kernel)
}

func compileProfile(name string, caps capSet, kernel abiSupport) (*seccompFilter, error) {
	// The profile's conditions look at the bounding set alone.
	oci := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps.names()}}}
	var profile *specs.LinuxSeccomp
	var err error
	switch name {
	case "unconfined":
		return nil, nil
	case "":
		profile, err = mobyseccomp.GetDefaultProfile(oci)
	default:
		profile, err = readSeccomp(name, oci)
	}
	if err != nil {
		return nil, err
	}
	if profile == nil {
		return nil, nil // an empty profile is docker's way to say unconfined
	}
	return compileSeccomp(profile, kernel)
}

func readSeccomp(name string, oci *specs.Spec) (*specs.LinuxSeccomp, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSeccompFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSeccompFile {
		return nil, fmt.Errorf("seccomp profile %q is larger than %d bytes", name, maxSeccompFile)
	}
	profile, err := mobyseccomp.LoadProfile(string(text), oci)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile %q: %w", name, err)
	}
	return profile, nil
}

// abi is one interface over which a process can make system calls.
type abi struct {
	name   specs.Arch
	audit  uint32 // AUDIT_ARCH_*
	bits64 bool   // arguments have 64 bits
	number func(syscallNumbers) int16
}

// x86ABIs are the interfaces of x86-64. x32 calls arrive as x86-64 ones, with
// x32Bit set in the number.
var x86ABIs = []abi{
	{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, true, func(n syscallNumbers) int16 { return n.amd64 }},
	{specs.ArchX86, unix.AUDIT_ARCH_I386, false, func(n syscallNumbers) int16 { return n.i386 }},
	{specs.ArchX32, unix.AUDIT_ARCH_X86_64, true, func(n syscallNumbers) int16 { return n.x32 }},
}

// abiSupport says what the running kernel has been built with.
type abiSupport struct{ x32 bool }

// probeABIs asks the kernel. Most have no x32: its calls fail with ENOSYS
// whatever a filter says, so it need not say much.
func probeABIs() abiSupport {
	_, _, errno := unix.RawSyscall(x32Bit|unix.SYS_GETPID, 0, 0, 0)
	return abiSupport{x32: errno != unix.ENOSYS}
}

// compileSeccomp compiles a profile for x86-64.
func compileSeccomp(p *specs.LinuxSeccomp, kernel abiSupport) (*seccompFilter, error) {
	var segments [3][]sockFilter // for each of x86ABIs
	for i, a := range x86ABIs {
		if i > 0 && !slices.Contains(p.Architectures, a.name) {
			continue
		}
		if a.name == specs.ArchX32 && !kernel.x32 {
			segments[i] = []sockFilter{ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))}
			continue
		}
		code, err := compileABI(p, a)
		if err != nil {
			return nil, err
		}
		segments[i] = code
	}
	code := joinABIs(segments[0], segments[1], segments[2])
	if len(code) > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("seccomp profile is too large: %d instructions, the kernel takes %d", len(code), unix.BPF_MAXINSNS)
	}
	flags, err := seccompFlags(p.Flags)
	if err != nil {
		return nil, err
	}
	return &seccompFilter{code: code, flags: flags}, nil
}

// joinABIs puts the check of the interface before the code for each; a nil
// one is not allowed.
func joinABIs(amd64, i386, x32 []sockFilter) []sockFilter {
	kill := ret(unix.SECCOMP_RET_KILL_PROCESS)
	out := []sockFilter{load(offArch)}
	// Each segment ends in returns on all paths, so it is skipped as a whole.
	if i386 == nil {
		i386 = []sockFilter{kill}
	}
	native := []sockFilter{load(offNumber)}
	if x32 == nil {
		// -1 is what a tracer sets to skip a call: an unknown number.
		native = append(native,
			jump(unix.BPF_JGE, x32Bit, 0, 2),
			jump(unix.BPF_JEQ, 0xffffffff, 1, 0),
			kill)
		native = append(native, amd64...)
	} else {
		x32 = append([]sockFilter{{Code: unix.BPF_ALU | unix.BPF_SUB | unix.BPF_K, K: x32Bit}}, x32...)
		native = append(native, branch(unix.BPF_JGE, x32Bit, amd64, x32)...)
	}
	i386 = append([]sockFilter{load(offNumber)}, i386...)
	other := branch(unix.BPF_JEQ, unix.AUDIT_ARCH_I386, []sockFilter{kill}, i386)
	return append(out, branch(unix.BPF_JEQ, unix.AUDIT_ARCH_X86_64, other, native)...)
}

// decision is what happens to one system call.
type decision struct {
	rules  []argRule // tried in order
	action uint32    // if none matches
}

type argRule struct {
	conds  []specs.LinuxSeccompArg
	action uint32
}

// compileABI compiles the search for one interface. The accumulator holds the
// system call number when it is entered.
func compileABI(p *specs.LinuxSeccomp, a abi) ([]sockFilter, error) {
	deflt, err := seccompAction(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	calls, err := decide(p, a, deflt)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for n := range calls {
		numbers = append(numbers, n)
	}
	sort.Ints(numbers)
	ranges := []numberRange{{from: 0, code: []sockFilter{ret(deflt)}}}
	for _, n := range numbers {
		code, err := compileDecision(calls[n], a)
		if err != nil {
			return nil, err
		}
		ranges = addRange(ranges, n, code)
		ranges = addRange(ranges, n+1, []sockFilter{ret(deflt)})
	}
	if len(numbers) > 0 && fallsBack(p.DefaultAction) {
		ranges = addRange(ranges, numbers[len(numbers)-1]+1, []sockFilter{ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))})
	}
	return search(ranges), nil
}

// fallsBack says whether a default action would break programs that try newer
// system calls.
func fallsBack(a specs.LinuxSeccompAction) bool {
	switch a {
	case specs.ActErrno, specs.ActKill, specs.ActKillThread, specs.ActKillProcess, specs.ActTrap:
		return true
	}
	return false
}

// decide collects the rules of every system call of an interface by number.
func decide(p *specs.LinuxSeccomp, a abi, deflt uint32) (map[int]*decision, error) {
	calls := map[int]*decision{}
	settled := map[int]bool{} // has a rule without arguments
	for _, rule := range p.Syscalls {
		action, err := seccompAction(rule.Action, rule.ErrnoRet)
		if err != nil {
			return nil, err
		}
		for _, name := range rule.Names {
			n, ok := syscallNumber(name, a)
			if !ok {
				continue // of another architecture
			}
			d := calls[n]
			if d == nil {
				d = &decision{action: deflt}
				calls[n] = d
			}
			if len(rule.Args) == 0 {
				if !settled[n] {
					d.action, settled[n] = action, true
				}
				continue
			}
			for _, conds := range splitConds(rule.Args) {
				d.rules = append(d.rules, argRule{conds, action})
			}
		}
	}
	return calls, nil
}

// splitConds returns the comparisons that must hold together: all of a rule,
// or if one argument is compared more than once, each alone.
func splitConds(args []specs.LinuxSeccompArg) [][]specs.LinuxSeccompArg {
	seen := map[uint]bool{}
	for _, c := range args {
		if seen[c.Index] {
			var out [][]specs.LinuxSeccompArg
			for _, c := range args {
				out = append(out, []specs.LinuxSeccompArg{c})
			}
			return out
		}
		seen[c.Index] = true
	}
	return [][]specs.LinuxSeccompArg{args}
}

func syscallNumber(name string, a abi) (int, bool) {
	i, ok := sort.Find(len(x86Syscalls), func(i int) int {
		switch row := x86Syscalls[i].name; {
		case name < row:
			return -1
		case name > row:
			return 1
		}
		return 0
	})
	if !ok {
		return 0, false
	}
	n := a.number(x86Syscalls[i])
	return int(n), n >= 0
}

// numberRange is the code for the numbers from `from` to before the next one.
type numberRange struct {
	from int
	code []sockFilter
}

// addRange appends a range, or lengthens the last one if that does the same.
func addRange(ranges []numberRange, from int, code []sockFilter) []numberRange {
	last := &ranges[len(ranges)-1]
	if last.from == from {
		last.code = code
		// It may now continue the one before.
		if n := len(ranges); n > 1 && slices.Equal(ranges[n-2].code, code) {
			return ranges[:n-1]
		}
		return ranges
	}
	if slices.Equal(last.code, code) {
		return ranges
	}
	return append(ranges, numberRange{from, code})
}

// search makes a balanced tree of comparisons over ranges.
func search(ranges []numberRange) []sockFilter {
	if len(ranges) == 1 {
		return ranges[0].code
	}
	mid := len(ranges) / 2
	return branch(unix.BPF_JGE, uint32(ranges[mid].from), search(ranges[:mid]), search(ranges[mid:]))
}

// branch is: if the comparison holds, yes, else no. Both end in returns.
func branch(op uint16, k uint32, no, yes []sockFilter) []sockFilter {
	var out []sockFilter
	if len(no) <= 255 {
		out = append(out, jump(op, k, uint8(len(no)), 0))
	} else {
		// A conditional jump reaches 255 instructions, JA any distance.
		out = append(out, jump(op, k, 0, 1),
			sockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(no))})
	}
	return append(append(out, no...), yes...)
}

func compileDecision(d *decision, a abi) ([]sockFilter, error) {
	var out []sockFilter
	for i := 0; i < len(d.rules); {
		alike := equalTests(d.rules[i:])
		if alike > 1 {
			out = append(out, compileEqualTests(d.rules[i:i+alike], a)...)
			i += alike
			continue
		}
		code, err := compileRule(d.rules[i], a)
		if err != nil {
			return nil, err
		}
		out = append(out, code...)
		i++
	}
	return append(out, ret(d.action)), nil
}

// maxEqualTests is bounded by how far a conditional jump reaches.
const maxEqualTests = 200

// equalTests counts how many of the first rules compare one and the same
// argument for equality with a value of 32 bits and have the same action, as
// the many for socket's first argument do.
func equalTests(rules []argRule) int {
	for i, r := range rules {
		if len(r.conds) != 1 || i == maxEqualTests {
			return i
		}
		c, first := r.conds[0], rules[0].conds[0]
		if c.Op != specs.OpEqualTo || c.Index != first.Index || c.Index > 5 || c.Value>>32 != 0 || r.action != rules[0].action {
			return i
		}
	}
	return len(rules)
}

// compileEqualTests compiles such rules with one instruction for each.
func compileEqualTests(rules []argRule, a abi) []sockFilter {
	off := offArgs + 8*uint32(rules[0].conds[0].Index)
	var out []sockFilter
	if a.bits64 {
		out = append(out, load(off+4), jump(unix.BPF_JEQ, 0, 0, uint8(len(rules)+2)))
	}
	out = append(out, load(off))
	for i, r := range rules {
		left := len(rules) - i - 1 // comparisons that follow
		no := uint8(0)
		if left == 0 {
			no = 1 // over the return
		}
		out = append(out, jump(unix.BPF_JEQ, uint32(r.conds[0].Value), uint8(left), no))
	}
	return append(out, ret(rules[0].action))
}

// Jumps whose distance isn't known yet.
const (
	toPass = 254 // to the end of this comparison
	toFail = 255 // to the end of the rule
)

// compileRule makes code that returns the rule's action, or falls out of its
// end if a comparison fails.
func compileRule(r argRule, a abi) ([]sockFilter, error) {
	var out []sockFilter
	var ends []int // of the comparison that each instruction belongs to
	for _, c := range r.conds {
		code, err := compileCond(c, a)
		if err != nil {
			return nil, err
		}
		out = append(out, code...)
		for range code {
			ends = append(ends, len(out))
		}
	}
	out = append(out, ret(r.action))
	for i, end := range ends {
		if out[i].Code&0x07 != unix.BPF_JMP {
			continue
		}
		for _, target := range []*uint8{&out[i].Jt, &out[i].Jf} {
			switch *target {
			case toPass:
				*target = uint8(end - i - 1)
			case toFail:
				*target = uint8(len(out) - i - 1)
			}
		}
	}
	return out, nil
}

// compileCond compiles a comparison of one argument. Arguments have 64 bits
// and the accumulator 32, so it takes two steps, except on interfaces whose
// arguments have 32 bits.
func compileCond(c specs.LinuxSeccompArg, a abi) ([]sockFilter, error) {
	if c.Index > 5 {
		return nil, fmt.Errorf("seccomp profile: argument %d of a system call", c.Index)
	}
	off := offArgs + 8*uint32(c.Index)
	high, low := uint32(c.Value>>32), uint32(c.Value)
	loadLow := load(off)
	var out []sockFilter
	ifHigh := func(code ...sockFilter) {
		if a.bits64 {
			out = append(append(out, load(off+4)), code...)
		}
	}
	switch c.Op {
	case specs.OpEqualTo:
		ifHigh(jump(unix.BPF_JEQ, high, 0, toFail))
		return append(out, loadLow, jump(unix.BPF_JEQ, low, toPass, toFail)), nil
	case specs.OpNotEqual:
		ifHigh(jump(unix.BPF_JEQ, high, 0, toPass))
		return append(out, loadLow, jump(unix.BPF_JEQ, low, toFail, toPass)), nil
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		ifHigh(jump(unix.BPF_JGT, high, toPass, 0), jump(unix.BPF_JEQ, high, 0, toFail))
		op := map[bool]uint16{true: unix.BPF_JGT, false: unix.BPF_JGE}[c.Op == specs.OpGreaterThan]
		return append(out, loadLow, jump(op, low, toPass, toFail)), nil
	case specs.OpLessThan, specs.OpLessEqual:
		ifHigh(jump(unix.BPF_JGT, high, toFail, 0), jump(unix.BPF_JEQ, high, 0, toPass))
		op := map[bool]uint16{true: unix.BPF_JGE, false: unix.BPF_JGT}[c.Op == specs.OpLessThan]
		return append(out, loadLow, jump(op, low, toFail, toPass)), nil
	case specs.OpMaskedEqual:
		want := c.ValueTwo & c.Value
		ifHigh(and(high), jump(unix.BPF_JEQ, uint32(want>>32), 0, toFail))
		return append(out, loadLow, and(low), jump(unix.BPF_JEQ, uint32(want), toPass, toFail)), nil
	}
	return nil, fmt.Errorf("seccomp profile: unknown operator %q", c.Op)
}

// seccompAction turns a profile's action into a filter's return value.
func seccompAction(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if *errno > 0xffff {
			return 0, fmt.Errorf("seccomp profile: errno %d", *errno)
		}
		data = uint32(*errno)
	}
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActNotify:
		return 0, errors.New("seccomp profile: SCMP_ACT_NOTIFY is not supported: nothing here would answer")
	}
	return 0, fmt.Errorf("seccomp profile: unknown action %q", a)
}

func seccompFlags(names []specs.LinuxSeccompFlag) (uintptr, error) {
	if names == nil {
		// runc's default: a filter need not cost the process speculation.
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var flags uintptr
	for _, name := range names {
		switch name {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case "SECCOMP_FILTER_FLAG_TSYNC":
			// Has no meaning for a process of one thread.
		default:
			return 0, fmt.Errorf("seccomp profile: unsupported flag %q", name)
		}
	}
	return flags, nil
}

func load(offset uint32) sockFilter {
	return sockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func and(mask uint32) sockFilter {
	return sockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask}
}

func ret(value uint32) sockFilter {
	return sockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value}
}

func jump(op uint16, k uint32, yes, no uint8) sockFilter {
	return sockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: yes, Jf: no, K: k}
}
