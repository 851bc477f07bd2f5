// SPDX-License-Identifier: Apache-2.0

package container

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// Which devices a container may use is decided by its control group: docker's
// default lets root make device nodes (CAP_MKNOD), but only the harmless ones
// can be opened. Version 2 has no files for that; a small eBPF program is
// attached to the parent of the containers' groups and asked at each access.

// deviceRule allows accesses to devices; -1 stands for every number.
type deviceRule struct {
	kind         byte // 'b' or 'c'
	major, minor int
	access       uint32 // accMknod | accRead | accWrite
}

// Bits of bpf_cgroup_dev_ctx.access_type.
const (
	accMknod = unix.BPF_DEVCG_ACC_MKNOD
	accRead  = unix.BPF_DEVCG_ACC_READ
	accWrite = unix.BPF_DEVCG_ACC_WRITE
	accAll   = accMknod | accRead | accWrite
)

// deviceRules is docker's default.
var deviceRules = []deviceRule{
	{'c', -1, -1, accMknod},
	{'b', -1, -1, accMknod},
	{'c', 1, 3, accAll},    // null
	{'c', 1, 5, accAll},    // zero
	{'c', 1, 7, accAll},    // full
	{'c', 1, 8, accAll},    // random
	{'c', 1, 9, accAll},    // urandom
	{'c', 5, 0, accAll},    // tty
	{'c', 5, 1, accAll},    // console
	{'c', 5, 2, accAll},    // ptmx
	{'c', 136, -1, accAll}, // pts
	{'c', 10, 200, accAll}, // net/tun
}

// rulesFor are the default rules and those of a container.
func rulesFor(devices []Device, more []DeviceRule) ([]deviceRule, error) {
	rules := slices.Clone(deviceRules)
	for _, d := range devices {
		access, err := parseAccess(d.Access)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Path, err)
		}
		rules = append(rules, deviceRule{kind: d.Type, major: int(d.Major), minor: int(d.Minor), access: access})
	}
	for _, m := range more {
		access, err := parseAccess(m.Access)
		if err != nil {
			return nil, fmt.Errorf("device rule: %w", err)
		}
		switch m.Type {
		case 'a':
			rules = append(rules, deviceRule{'b', m.Major, m.Minor, access}, deviceRule{'c', m.Major, m.Minor, access})
		case 'b', 'c':
			rules = append(rules, deviceRule{m.Type, m.Major, m.Minor, access})
		default:
			return nil, fmt.Errorf("device rule: type %q is none of a, b and c", m.Type)
		}
	}
	return rules, nil
}

// parseAccess reads some of r, w and m; "" is all of them.
func parseAccess(text string) (access uint32, err error) {
	if text == "" {
		return accAll, nil
	}
	for _, c := range text {
		bit, ok := map[rune]uint32{'r': accRead, 'w': accWrite, 'm': accMknod}[c]
		if !ok {
			return 0, fmt.Errorf("access %q: want some of r, w and m", text)
		}
		access |= bit
	}
	return access, nil
}

// deviceProgram attaches an eBPF program for rules. The groups that it
// is attached to stay from one command to the next, and the program with them,
// so it is loaded only when a group lacks it.
type deviceProgram struct {
	code []byte
	name string // recognizes the program in the kernel; tells its content
	// attached are groups that are known to have it, with their inode
	// numbers: a group may have been removed and made anew.
	attached map[string]uint64
}

func newDeviceProgram(rules []deviceRule) *deviceProgram {
	code := deviceCode(rules)
	sum := sha256.Sum256(code)
	return &deviceProgram{code: code, name: "builder_" + hex.EncodeToString(sum[:3]), attached: map[string]uint64{}}
}

// attach makes the program decide for a group and all groups below it. There
// is a group below it, so that it can't be removed meanwhile.
func (p *deviceProgram) attach(root *os.File, group string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(root.Fd()), group, &st, 0); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	if p.attached[group] == st.Ino {
		return nil
	}
	dir, err := sys.OpenInRoot(root, group, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	have, err := p.isAttached(dir)
	if err == nil && !have {
		err = p.load(dir)
	}
	if err == nil {
		p.attached[group] = st.Ino
	}
	return err
}

// deviceCode compiles rules to eBPF. The program gets a struct
// bpf_cgroup_dev_ctx and returns 1 to allow the access.
func deviceCode(rules []deviceRule) []byte {
	const (
		loadWord = unix.BPF_LDX | unix.BPF_W | unix.BPF_MEM
		move     = bpfALU64 | bpfMOV | unix.BPF_X
		set      = bpfALU64 | bpfMOV | unix.BPF_K
		and      = bpfALU64 | unix.BPF_AND | unix.BPF_K
		shift    = bpfALU64 | unix.BPF_RSH | unix.BPF_K
		unequal  = unix.BPF_JMP | bpfJNE | unix.BPF_K
		exit     = unix.BPF_JMP | bpfEXIT
	)
	var b []byte
	b = append(b, bpfInsn(loadWord, 2, 1, 0, 0)...) // r2 = access<<16 | kind
	b = append(b, bpfInsn(move, 3, 2, 0, 0)...)
	b = append(b, bpfInsn(shift, 3, 0, 0, 16)...)   // r3 = access
	b = append(b, bpfInsn(and, 2, 0, 0, 0xffff)...) // r2 = kind
	b = append(b, bpfInsn(loadWord, 4, 1, 4, 0)...) // r4 = major
	b = append(b, bpfInsn(loadWord, 5, 1, 8, 0)...) // r5 = minor
	for _, r := range rules {
		kind := int32(unix.BPF_DEVCG_DEV_CHAR)
		if r.kind == 'b' {
			kind = unix.BPF_DEVCG_DEV_BLOCK
		}
		// The comparisons jump over what follows them in the rule.
		tests := [][]byte{bpfInsn(unequal, 2, 0, 0, kind)}
		if r.access != accAll {
			tests = append(tests, bpfInsn(move, 6, 3, 0, 0), bpfInsn(and, 6, 0, 0, int32(^r.access)), bpfInsn(unequal, 6, 0, 0, 0))
		}
		if r.major >= 0 {
			tests = append(tests, bpfInsn(unequal, 4, 0, 0, int32(r.major)))
		}
		if r.minor >= 0 {
			tests = append(tests, bpfInsn(unequal, 5, 0, 0, int32(r.minor)))
		}
		for i, insn := range tests {
			if insn[0] == unequal {
				binary.NativeEndian.PutUint16(insn[2:], uint16(len(tests)-i-1+2))
			}
			b = append(b, insn...)
		}
		b = append(b, bpfInsn(set, 0, 0, 0, 1)...)
		b = append(b, bpfInsn(exit, 0, 0, 0, 0)...)
	}
	b = append(b, bpfInsn(set, 0, 0, 0, 0)...)
	return append(b, bpfInsn(exit, 0, 0, 0, 0)...)
}

// Parts of eBPF's instruction set that classic BPF lacks (linux/bpf.h).
const (
	bpfALU64 = 0x07
	bpfMOV   = 0xb0
	bpfJNE   = 0x50
	bpfEXIT  = 0x90
)

// bpfInsn encodes one eBPF instruction.
func bpfInsn(code, dst, src byte, off int16, imm int32) []byte {
	b := []byte{code, src<<4 | dst} // the order of the two on little-endian machines
	b = binary.NativeEndian.AppendUint16(b, uint16(off))
	return binary.NativeEndian.AppendUint32(b, uint32(imm))
}

// bpf makes a bpf(2) call. Addresses within attr are unsafe.Pointers, which have
// the 64 bits that the kernel wants.
func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR, unix.EAGAIN: // the verifier was interrupted
			continue
		}
		return 0, os.NewSyscallError("bpf", errno)
	}
}

// load loads the program and attaches it to a group. The group keeps it.
func (p *deviceProgram) load(group *os.File) error {
	license := append([]byte("Apache-2.0"), 0)
	loadAttr := struct {
		progType, insnCount uint32
		insns, license      unsafe.Pointer
		logLevel, logSize   uint32
		logBuf              uint64
		kernVersion, flags  uint32
		name                [16]byte
		ifindex, attachType uint32
	}{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, insnCount: uint32(len(p.code) / 8),
		insns:   unsafe.Pointer(&p.code[0]),
		license: unsafe.Pointer(&license[0]),
		// The attach type is fixed for this kind of program.
		attachType: unix.BPF_CGROUP_DEVICE,
	}
	copy(loadAttr.name[:15], p.name)
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&loadAttr), unsafe.Sizeof(loadAttr))
	if err != nil {
		return fmt.Errorf("load device program: %w", err)
	}
	defer unix.Close(fd)
	attachAttr := struct {
		target, prog, attachType, flags uint32
	}{uint32(group.Fd()), uint32(fd), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attachAttr), unsafe.Sizeof(attachAttr)); err != nil {
		return fmt.Errorf("attach device program: %w", err)
	}
	return nil
}

// isAttached says whether a group has the program, from an earlier command.
func (p *deviceProgram) isAttached(group *os.File) (bool, error) {
	var ids [64]uint32
	query := struct {
		target, attachType, queryFlags, attachFlags uint32
		ids                                         unsafe.Pointer
		count, _                                    uint32
	}{
		target: uint32(group.Fd()), attachType: unix.BPF_CGROUP_DEVICE,
		ids: unsafe.Pointer(&ids), count: uint32(len(ids)),
	}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query))
	if err != nil {
		return false, fmt.Errorf("query device programs: %w", err)
	}
	for _, id := range ids[:query.count] {
		if name, err := programName(id); err == nil && name == p.name {
			return true, nil
		}
	}
	return false, nil
}

func programName(id uint32) (string, error) {
	byID := struct{ id, next, flags uint32 }{id: id}
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&byID), unsafe.Sizeof(byID))
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var info struct { // the beginning of struct bpf_prog_info
		progType, id         uint32
		tag                  [8]byte
		jitedLen, xlatedLen  uint32
		jited, xlated        uint64
		loadTime             uint64
		createdByUID, mapCnt uint32
		mapIDs               uint64
		name                 [16]byte
	}
	get := struct {
		fd, size uint32
		info     unsafe.Pointer
	}{uint32(fd), uint32(unsafe.Sizeof(info)), unsafe.Pointer(&info)}
	_, err = bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&get), unsafe.Sizeof(get))
	return unix.ByteSliceToString(info.name[:]), err
}

// restrictV1 sets rules for a group of the version 1 controller.
func restrictV1(group *os.File, rules []deviceRule) error {
	if err := writeFileAt(group, "devices.deny", "a"); err != nil {
		return err
	}
	number := func(n int) string {
		if n < 0 {
			return "*"
		}
		return strconv.Itoa(n)
	}
	for _, r := range rules {
		access := ""
		for _, a := range []struct {
			bit  uint32
			name string
		}{{accRead, "r"}, {accWrite, "w"}, {accMknod, "m"}} {
			if r.access&a.bit != 0 {
				access += a.name
			}
		}
		line := fmt.Sprintf("%c %s:%s %s", r.kind, number(r.major), number(r.minor), access)
		if err := writeFileAt(group, "devices.allow", line); err != nil {
			return err
		}
	}
	return nil
}

// writeFileAt writes to a file of a control group.
func writeFileAt(dir *os.File, name, text string) error {
	f, err := sys.OpenInRoot(dir, name, unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
