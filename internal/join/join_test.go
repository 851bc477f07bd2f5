// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// source is a program that says which it is, and what it was given.
const source = `package main

import (
	"fmt"
	"os"
)

var zero [1 << 20]byte // memory that the file doesn't have
var name = "NAME"

func main() {
	for _, b := range zero {
		if b != 0 {
			panic("memory that isn't empty")
		}
	}
	fmt.Println(name, os.Args[1:], os.Environ())
}
`

// link makes a program that is linked to an address.
func link(t *testing.T, name, address string) string {
	t.Helper()
	testutil.Require(t, "go")
	dir := t.TempDir()
	file, out := filepath.Join(dir, "main.go"), filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(strings.Replace(source, "NAME", name, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-ldflags", "-s -w -T "+address, "-o", out, file)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("link %s: %v\n%s", name, err, text)
	}
	return out
}

func TestJoin(t *testing.T) {
	dir := t.TempDir()
	joined := filepath.Join(dir, "joined")
	if err := run(link(t, "whole", "0x401000"), link(t, "front", "0x20001000"), joined, []string{"df", "push", "manifest", "pulled-out"}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, env, want string }{
		{"", "", "front [] []"},
		{"", "A=1 WHOLE_BUILDER=1", "front [] [A=1 WHOLE_BUILDER=1]"},
		{"", "WHOLE_BUILDER=1", "whole [] [WHOLE_BUILDER=1]"},
		{"a df", "A=1", "front [a df] [A=1]"},
		{"df", "", "whole [df] []"},
		{"df -v", "A=1", "whole [df -v] [A=1]"},
		{"dfx", "", "front [dfx] []"},
		{"d", "", "front [d] []"},
		{"pus", "h=1", "front [pus] [h=1]"},
		{"push", "", "whole [push] []"},
		{"pushed", "", "front [pushed] []"},
		{"manifest", "", "whole [manifest] []"},
		{"pulled-out", "", "whole [pulled-out] []"},
		{"pull", "", "front [pull] []"},
		{"run", "WHOLE_BUILDER=1 B=2", "whole [run] [WHOLE_BUILDER=1 B=2]"},
	} {
		cmd := exec.Command(joined, strings.Fields(tt.args)...)
		cmd.Env = append([]string{}, strings.Fields(tt.env)...)
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != tt.want {
			t.Errorf("%q with %q: %s (%v), want %s", tt.args, tt.env, got, err, tt.want)
		}
	}
	// Without any argument or variable, not even its own name.
	cmd := exec.Command(joined)
	cmd.Args, cmd.Env = []string{}, []string{}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.HasPrefix(out, []byte("front ")) {
		t.Errorf("without arguments: %s (%v)", out, err)
	}
}

func TestJoinFails(t *testing.T) {
	read := func(name string) []byte {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	front, whole := read(link(t, "front", "0x20001000")), read(link(t, "whole", "0x401000"))
	changed := func(at int, b ...byte) []byte {
		data := bytes.Clone(front)
		copy(data[at:], b)
		return data
	}
	var many []string
	for range 200 {
		many = append(many, "word")
	}
	const machine, kind = 18, 16
	for _, tt := range []struct {
		name         string
		front, whole []byte
		words        []string
		want         string
	}{
		{"nothing", nil, whole, nil, "the front program: it has no ELF header"},
		{"text", bytes.Repeat([]byte("text"), 100), whole, nil, "the front program: it is no ELF file"},
		{"one address", whole, whole, nil, "link it to a higher address"},
		{"the wrong order", whole, front, nil, "link it to a higher address"},
		{"cut off", front, whole[:len(whole)/2], nil, "the whole program: it ends within a segment"},
		{"headers cut off", front[:100], whole, nil, "the front program: its program headers"},
		{"another machine", changed(machine, byte(elf.EM_AARCH64)), whole, nil, "they are for EM_X86_64 and EM_AARCH64"},
		{"a library", changed(kind, byte(elf.ET_DYN)), whole, nil, "want a program with fixed addresses"},
		{"too many words", front, whole, many, "has no room"},
	} {
		if _, err := Join(tt.whole, tt.front, tt.words); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
