// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"

	"builder/container"
	"builder/internal/sys"
	"builder/mount"
	"builder/supervisor"
	"builder/userns"
)

// finding is what doctor says of one thing. The names are those of --format.
type finding struct {
	Probe  string
	OK     bool
	Needed bool // without it no RUN step and no container runs
	Result string
	Fix    string `json:",omitempty"`
}

func found(probe string, needed bool, result, fix string, err error) finding {
	f := finding{Probe: probe, OK: err == nil, Needed: needed, Result: result}
	if err != nil {
		f.Result, f.Fix = err.Error(), fix
	}
	return f
}

// runDoctor probes what steps and containers need here, and says how to get
// what is missing.
func runDoctor(_ context.Context, e *env, args []string) error {
	fs := flags("doctor")
	format := fs.String("format", "", "`table`, json, or a Go template")
	inside := fs.Bool("inside", false, "probe in this user namespace only")
	proc := fs.Bool("proc", false, "mount a new /proc")
	for _, hidden := range []string{"inside", "proc"} {
		_ = fs.MarkHidden(hidden)
	}
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	switch {
	case *proc:
		m, err := mount.FS{Type: "proc"}.Open()
		if err == nil {
			m.Close()
		}
		return err
	case *inside:
		return json.NewEncoder(e.stdout).Encode(e.probeInside())
	}
	all := []finding{{Probe: "user", OK: true, Result: fmt.Sprintf("id %d", os.Geteuid())}}
	if sys.MayMount() {
		if sys.InUserNamespace() {
			all[0].Result += ", root of a user namespace"
		}
		all = append(all, e.probeInside()...)
	} else {
		all = append(all, e.probeUser()...)
	}
	if err := e.printFindings(*format, all); err != nil {
		return err
	}
	for _, f := range all {
		if f.Needed && !f.OK {
			return &exitError{exitFailure}
		}
	}
	return nil
}

// probeUser probes for an ordinary user, or a container's root: first what leads into a namespace, and
// then in one.
func (e *env) probeUser() (all []finding) {
	if os.Geteuid() != 0 {
		ranges, fix, err := userns.Subordinate()
		all = append(all, found("subordinate ids", false, ranges, fix, err))
	}
	var rest []finding
	err := e.inNamespace(&rest)
	fix := ""
	var why *userns.Error
	if errors.As(err, &why) {
		fix = why.Fix
	}
	all = append(all, found("user namespace", true, "yes", fix, err))
	return append(all, rest...)
}

// inNamespace has this program probe in a new namespace.
func (e *env) inNamespace(rest *[]finding) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	type output struct {
		data []byte
		err  error
	}
	read := make(chan output, 1)
	go func() {
		data, err := io.ReadAll(r)
		read <- output{data, err}
	}()
	dir, err := filepath.Abs(e.stateDir())
	if err == nil {
		_, err = userns.Enter(userns.Options{
			Args: []string{os.Args[0], "doctor", "--inside"}, Stdout: w, Env: append(os.Environ(), "BUILDER_ROOT="+dir), Warn: func(string) {},
		})
	}
	w.Close()
	out := <-read
	if err = errors.Join(err, out.err); err != nil {
		return err
	}
	return json.Unmarshal(out.data, rest)
}

// probeInside probes as root, be it of a user namespace.
func (e *env) probeInside() []finding {
	const outside = "this is a container that allows too little: run builder outside of it or, with docker, with --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
	var all []finding
	add := func(probe string, needed bool, result, fix string, err error) {
		all = append(all, found(probe, needed, result, fix, err))
	}
	kind, err := e.probeOverlay(nil)
	add("overlay", true, kind, "Linux 5.11 or later, and --root or BUILDER_ROOT on a local file system (ext4, xfs, btrfs, tmpfs): in a container, on a volume", err)
	masked := container.ProcIsMasked()
	err = probeProc()
	add("new /proc", !masked, "yes", outside, err)
	add("containers", true, "yes", outside, container.Available())
	if supervisor.ShowsOwners() {
		kind, err := e.probeUserNS()
		add("--userns", false, kind, "Linux 5.19 or later, and --root or BUILDER_ROOT on ext4, xfs, btrfs or the like", err)
	}
	path, fix, err := container.Delegated()
	add("control groups", false, path, fix, err)
	err = checkDumpable(fileText("/proc/sys/fs/suid_dumpable"))
	add("hidden memory", false, "yes", "as root: sysctl fs.suid_dumpable=0, or 2 for core dumps that only root can read", err)
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		tun.Close()
	}
	add("/dev/net/tun", false, "yes", "as root: modprobe tun; chmod 666 /dev/net/tun", err)
	return all
}

// checkDumpable says what is wrong with a value of fs.suid_dumpable
// (proc_sys_fs(5)). What isn't known is not wrong.
func checkDumpable(value string) error {
	if strings.TrimSpace(value) == "1" {
		return errors.New("fs.suid_dumpable is 1: what changes its user can be traced by that user's processes, also what exec brings into a container")
	}
	return nil
}

// probeUserNS makes a user namespace and shows owners by it.
func (e *env) probeUserNS() (string, error) {
	ids := []container.IDRange{{Outside: firstFreeID, Size: 1}}
	ns, net, err := container.NewUserNamespace(container.IDMap{UIDs: ids, GIDs: ids}, nil)
	if err != nil {
		return "", err
	}
	defer ns.File.Close()
	defer net.Close()
	return e.probeOverlay(ns)
}

// probeOverlay mounts an overlay in the state directory, or where that will be.
func (e *env) probeOverlay(ns *mount.UserNS) (string, error) {
	at := e.stateDir()
	for {
		if _, err := os.Stat(at); err == nil || at == "/" || at == "." {
			break
		}
		at = filepath.Dir(at)
	}
	dir, err := os.MkdirTemp(at, ".doctor-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	for _, d := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return "", err
		}
	}
	m, err := mount.Overlay{
		Lower: []string{dir + "/lower"}, Upper: dir + "/upper", Work: dir + "/work", UserXattr: sys.InUserNamespace(), UserNS: ns,
	}.Open()
	if err != nil {
		return "", err
	}
	return "on " + fileSystem(at), m.Close()
}

// probeProc mounts a new /proc in a new PID namespace.
func probeProc() error {
	var stderr bytes.Buffer
	cmd := exec.Command("/proc/self/exe", "doctor", "--proc")
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		text := strings.TrimPrefix(strings.TrimSpace(stderr.String()), "builder: ")
		if text == "" {
			return err
		}
		return errors.New(text)
	}
	return nil
}

func (e *env) printFindings(format string, all []finding) error {
	if format != "" && format != "table" {
		rows := make([]any, len(all))
		for i := range all {
			rows[i] = all[i]
		}
		return table{format: format}.print(e.stdout, rows)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "PROBE\tRESULT")
	var fixes []string
	for _, f := range all {
		mark := ""
		switch {
		case !f.OK && f.Needed:
			mark = "missing: "
		case !f.OK:
			mark = "without: "
		}
		fmt.Fprintf(w, "%s\t%s%s\n", f.Probe, mark, f.Result)
		if f.Fix != "" {
			fixes = append(fixes, f.Probe+": "+f.Fix)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, fix := range fixes {
		fmt.Fprintf(e.stdout, "\n%s\n", fix)
	}
	return nil
}
