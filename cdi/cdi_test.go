// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"builder/container"
	"builder/mount"

	"github.com/google/go-cmp/cmp"
)

const spec = `{
  "cdiVersion": "0.6.0", "kind": "acme.example/gpu",
  "annotations": {"org.mobyproject.buildkit.device.autoallow": "true"},
  "containerEdits": {"env": ["ALL=1"], "mounts": [{"hostPath": "/usr/lib", "containerPath": "/lib2", "options": ["ro", "rbind", "nodev", "rslave"]}]},
  "devices": [
    {"name": "a", "annotations": {"org.mobyproject.buildkit.device.class": "fast"}, "containerEdits": {"env": ["A=1"],
      "deviceNodes": [{"path": "/dev/a", "type": "b", "major": 7, "minor": 9, "fileMode": 432, "permissions": "rw", "uid": 5, "gid": 6}, {"path": "/dev/n", "hostPath": "/dev/null"}]}},
    {"name": "b", "annotations": {"org.mobyproject.buildkit.device.autoallow": "no"}, "containerEdits": {"env": ["B=1"]}}
  ]
}`

func registry(t *testing.T, files map[string]string) *Registry {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return NewRegistry(dir)
}

func TestFind(t *testing.T) {
	r := registry(t, map[string]string{"acme.json": spec})
	for name, want := range map[string][]string{
		"acme.example/gpu=a": {"acme.example/gpu=a"}, "acme.example/gpu": {"acme.example/gpu=a"}, "fast": {"acme.example/gpu=a"},
		"acme.example/gpu=*": {"acme.example/gpu=a", "acme.example/gpu=b"}, "acme.example/gpu=c": nil, "acme.example/cpu": nil, "slow": nil, "": nil, "=": nil, "a=": nil,
	} {
		if got, err := r.Find(name); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", name, got, err, want)
		}
	}
	if !r.AutoAllowed("acme.example/gpu=a") || r.AutoAllowed("acme.example/gpu=b") || r.AutoAllowed("acme.example/gpu=c") {
		t.Error("want a, by its specification, and not b, by its own annotation")
	}
	var none *Registry
	if got, err := none.Find("x"); got != nil || err != nil || none.AutoAllowed("x") {
		t.Errorf("no registry finds %q, %v", got, err)
	}
}

func TestEdits(t *testing.T) {
	r := registry(t, map[string]string{"acme.json": spec})
	got, err := r.Edits([]string{"acme.example/gpu=a", "acme.example/gpu=b"})
	if err != nil {
		t.Fatal(err)
	}
	null, err := container.HostDevice("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	null.Path = "/dev/n"
	want := Edits{
		Env: []string{"ALL=1", "A=1", "B=1"},
		Devices: []container.Device{
			{Path: "/dev/a", Type: 'b', Major: 7, Minor: 9, Mode: 0o660, UID: 5, GID: 6, Access: "rw"}, null,
		},
		Mounts: []mount.Mount{{Type: mount.Bind, Source: "/usr/lib", Target: "/lib2", ReadOnly: true, Recursive: true, NoDev: true, Propagation: "rslave"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestEditsRefused(t *testing.T) {
	one := func(edits string) string {
		return `{"cdiVersion": "1.1.0", "kind": "v.example/c", "devices": [{"name": "x", "containerEdits": ` + edits + `}]}`
	}
	for edits, word := range map[string]string{
		`{"hooks": [{"hookName": "createRuntime", "path": "/bin/hook"}]}`:               "createRuntime hook",
		`{"intelRdt": {"closID": "x"}}`:                                                 "Intel RDT",
		`{"netDevices": [{"hostInterfaceName": "eth7", "name": "net0"}]}`:               "network devices",
		`{"deviceNodes": [{"path": "/dev/no-such-device"}]}`:                            "/dev/no-such-device",
		`{"deviceNodes": [{"path": "/dev/p", "type": "p"}]}`:                            `type "p"`,
		`{"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "tmpfs"}]}`:      `type "tmpfs"`,
		`{"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["idmap"]}]}`: `option "idmap"`,
	} {
		_, err := registry(t, map[string]string{"v.json": one(edits)}).Edits([]string{"v.example/c=x"})
		if err == nil || !strings.Contains(err.Error(), word) || !strings.Contains(err.Error(), "v.json") {
			t.Errorf("%s: %v, want %q and the file", edits, err, word)
		}
	}
	if _, err := registry(t, nil).Edits([]string{"v.example/c=x"}); err == nil || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("unknown: %v", err)
	}
}

// TestBadSpecifications holds that a file that can't be read matters only for
// what is not found elsewhere.
func TestBadSpecifications(t *testing.T) {
	r := registry(t, map[string]string{"acme.json": spec, "bad.yaml": "kind: [", "readme.txt": "text"})
	if got, err := r.Find("acme.example/gpu=b"); err != nil || len(got) != 1 {
		t.Errorf("beside a bad file: %q, %v", got, err)
	}
	if _, err := r.Find("other.example/x=1"); err == nil || !strings.Contains(err.Error(), "bad.yaml") {
		t.Errorf("not found, beside a bad file: %v", err)
	}
}
