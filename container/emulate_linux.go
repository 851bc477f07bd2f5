// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"builder/mount"
)

// native are the architectures, in Go's names, whose programs a machine of
// another one executes by itself.
var native = map[string][]string{
	"amd64": {"amd64", "386"},
	"arm64": {"arm64"},
}

// elfMachines are the class, byte order and e_machine of programs for an
// architecture, which is what binfmt_misc looks at (elf(5)).
var elfMachines = map[string]struct {
	bits    int
	order   binary.ByteOrder
	machine uint16
}{
	"386":      {32, binary.LittleEndian, 3},
	"amd64":    {64, binary.LittleEndian, 62},
	"arm":      {32, binary.LittleEndian, 40},
	"arm64":    {64, binary.LittleEndian, 183},
	"loong64":  {64, binary.LittleEndian, 258},
	"mips64":   {64, binary.BigEndian, 8},
	"mips64le": {64, binary.LittleEndian, 8},
	"ppc64le":  {64, binary.LittleEndian, 21},
	"riscv64":  {64, binary.LittleEndian, 243},
	"s390x":    {64, binary.BigEndian, 22},
}

// EmulationError says that programs of an architecture can't be executed.
type EmulationError struct {
	Arch string
	Why  string
}

func (e *EmulationError) Error() string {
	return fmt.Sprintf("programs for %s can't run on this machine, which is %s: %s", e.Arch, runtime.GOARCH, e.Why)
}

// Hint is what to do about it.
func (e *EmulationError) Hint() string {
	return "install an emulator that is registered with binfmt_misc, such as Debian's package qemu-user-static, or let the stage run on $BUILDPLATFORM and cross-compile"
}

// CanExecute reports whether programs of an architecture, in Go's name for it,
// run in containers: because the machine executes them, or through an emulator
// that the kernel's binfmt_misc knows (Documentation/admin-guide/binfmt-misc).
// It must have been registered with the flag F, so that the kernel has it open
// already: in a container its path means nothing. Otherwise the error is an
// [*EmulationError].
func CanExecute(arch string) error {
	for _, a := range native[runtime.GOARCH] {
		if a == arch {
			return nil
		}
	}
	if arch == runtime.GOARCH {
		return nil
	}
	header := elfHeader(arch)
	if header == nil {
		return &EmulationError{arch, "it is an architecture that builder does not know"}
	}
	dir := "/proc/sys/fs/binfmt_misc"
	if _, err := os.Stat(dir + "/status"); err != nil {
		// Not mounted here. Before Linux 6.7 handlers outlive the mount.
		fs, err := mount.FS{Type: "binfmt_misc"}.Open()
		if err != nil {
			return &EmulationError{arch, "binfmt_misc can't be read: " + err.Error()}
		}
		defer fs.Close()
		dir = fmt.Sprintf("/proc/self/fd/%d", fs.Fd())
	}
	return findHandler(dir, arch, header)
}

// findHandler looks through the handlers of a binfmt_misc directory.
func findHandler(dir, arch string, header []byte) error {
	if status, err := os.ReadFile(filepath.Join(dir, "status")); err == nil && strings.TrimSpace(string(status)) != "enabled" {
		return &EmulationError{arch, "binfmt_misc is disabled"}
	}
	why := "no emulator is registered with binfmt_misc"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return &EmulationError{arch, "binfmt_misc can't be read: " + err.Error()}
	}
	for _, e := range entries {
		if e.Name() == "register" || e.Name() == "status" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			continue
		}
		h := parseHandler(string(text))
		switch {
		case !h.matches(header):
		case !strings.Contains(h.flags, "F"):
			why = fmt.Sprintf("the emulator %s is registered with binfmt_misc without the flag F", e.Name())
		default:
			return nil
		}
	}
	return &EmulationError{arch, why}
}

// elfHeader is how a program for an architecture begins, nil if that is not
// known.
func elfHeader(arch string) []byte {
	m, ok := elfMachines[arch]
	if !ok {
		return nil
	}
	h := make([]byte, 64)
	copy(h, "\x7fELF\x01\x01\x01")
	if m.bits == 64 {
		h[4] = 2
	}
	if m.order == binary.BigEndian {
		h[5] = 2
	}
	m.order.PutUint16(h[16:], 2) // ET_EXEC
	m.order.PutUint16(h[18:], m.machine)
	m.order.PutUint32(h[20:], 1)
	return h
}

// handler is a file of binfmt_misc.
type handler struct {
	enabled     bool
	flags       string
	offset      int
	magic, mask []byte
}

func parseHandler(text string) handler {
	var h handler
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "enabled":
			h.enabled = true
		case "flags:":
			h.flags = value
		case "offset":
			h.offset, _ = strconv.Atoi(value)
		case "magic":
			h.magic, _ = hex.DecodeString(value)
		case "mask":
			h.mask, _ = hex.DecodeString(value)
		}
	}
	return h
}

func (h handler) matches(header []byte) bool {
	if !h.enabled || len(h.magic) == 0 || h.offset < 0 || h.offset+len(h.magic) > len(header) {
		return false
	}
	for i, want := range h.magic {
		got := header[h.offset+i]
		if i < len(h.mask) {
			got &= h.mask[i]
			want &= h.mask[i]
		}
		if got != want {
			return false
		}
	}
	return true
}
