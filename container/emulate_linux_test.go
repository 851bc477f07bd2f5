// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The handler of Debian's qemu-user-static for arm64, as the kernel shows it.
const qemuArm64 = `enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
`

func TestFindHandler(t *testing.T) {
	tests := []struct {
		name, arch, status, handler string
		want                        string // in the error, "" for none
	}{
		{"registered", "arm64", "enabled\n", qemuArm64, ""},
		{"another architecture", "riscv64", "enabled\n", qemuArm64, "no emulator is registered"},
		{"another word size", "arm", "enabled\n", qemuArm64, "no emulator is registered"},
		{"without F", "arm64", "enabled\n", strings.Replace(qemuArm64, "POCF", "POC", 1), "without the flag F"},
		{"handler disabled", "arm64", "enabled\n", strings.Replace(qemuArm64, "enabled", "disabled", 1), "no emulator is registered"},
		{"all disabled", "arm64", "disabled\n", qemuArm64, "binfmt_misc is disabled"},
		{"damaged", "arm64", "enabled\n", "enabled\nflags: F\noffset -1\nmagic 7f\n", "no emulator is registered"},
		{"longer than a header", "arm64", "enabled\n", "enabled\nflags: F\noffset 60\nmagic 7f454c460201\n", "no emulator is registered"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{"status": tt.status, "qemu": tt.handler, "register": ""} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := findHandler(dir, tt.arch, elfHeader(tt.arch))
			if tt.want == "" {
				if err != nil {
					t.Errorf("%v", err)
				}
				return
			}
			var e *EmulationError
			if !errors.As(err, &e) || !strings.Contains(e.Why, tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	if err := CanExecute("vax"); err == nil || !strings.Contains(err.Error(), "does not know") {
		t.Errorf("vax: %v", err)
	}
}
