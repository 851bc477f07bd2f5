// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"builder/cache"
	"builder/container"
	"builder/dockerfile"
	"builder/image"
	"builder/mount"
	"builder/progress"
	"builder/snapshot"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// sandboxHostname is the host name that RUN steps see, BuildKit's.
const sandboxHostname = "buildkitsandbox"

// scriptDir is where a here-document with a shebang line is run from.
const scriptDir = "/dev/pipes"

// runOp runs a process.
type runOp struct {
	args     []string
	env      []string
	proxy    []string // proxy variables: seen by the process, not part of the key
	dir      string
	user     string
	network  string
	platform image.Platform
	arch     string // of the image's programs, which may be another than asked for
	mounts   []*runMount
	script   *instructions.ShellInlineFile // mounted below scriptDir
}

// dispatchRun makes the step of a RUN.
func (p *plan) dispatchRun(st *stage, cmd command, c *instructions.RunCommand) error {
	s := st.state
	if err := refuseRunFlags(c); err != nil {
		return err
	}
	op := &runOp{
		env: s.env.List(), proxy: proxyEnv(p.opts.Args), dir: s.dir(), user: s.config.Config.User,
		platform: st.platform, arch: s.config.Architecture, network: instructions.GetNetwork(c),
	}
	if op.network == "" || op.network == "default" {
		op.network = p.opts.Run.Network
	}
	if err := op.commandLine(s, c); err != nil {
		return err
	}
	for i, m := range instructions.GetMounts(c) {
		rm, err := newRunMount(s, m, cmd.sources[i])
		if err != nil {
			return err
		}
		if rm == nil {
			continue
		}
		if rm.from != nil && !rm.from.implicit && !rm.from.dispatched {
			return fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", m.From, m.Target)
		}
		op.mounts = append(op.mounts, rm)
	}
	made := p.addStep(st, cmd, op)
	if len(c.Files) > 0 {
		made.shown += " (" + summary(c.Files[0].Data) + ")"
	}
	s.note(made, "RUN %s%s # buildkit", s.argLine(), strings.Join(op.args, " "))
	return nil
}

// refuseRunFlags says what isn't there yet.
func refuseRunFlags(c *instructions.RunCommand) error {
	if sec := instructions.GetSecurity(c); sec != "" && sec != "sandbox" {
		return fmt.Errorf("RUN --security=%s is not supported yet", sec)
	}
	for _, f := range c.FlagsUsed {
		if f == "device" {
			return errors.New("RUN --device is not supported yet")
		}
	}
	return nil
}

// commandLine works out what is executed, here-documents included.
func (o *runOp) commandLine(s *state, c *instructions.RunCommand) error {
	o.args = c.CmdLine
	if len(c.Files) > 0 {
		if len(o.args) != 1 || !c.PrependShell {
			return fmt.Errorf("a here-document needs RUN in shell form: %v", o.args)
		}
		o.args = o.heredoc(o.args[0], c.Files)
	}
	if c.PrependShell {
		o.args = append(s.shell(), strings.Join(o.args, " "))
	}
	return nil
}

// heredoc turns here-documents into a command. One that is the whole command
// is a script, run by the interpreter of its first line or by the shell; else
// the shell gets the documents to handle.
func (o *runOp) heredoc(line string, files []instructions.ShellInlineFile) []string {
	if parser.MustParseHeredoc(line) == nil {
		for _, f := range files {
			line += "\n" + f.Data + f.Name
		}
		return []string{line}
	}
	file := files[0]
	if file.Chomp {
		file.Data = parser.ChompHeredocContent(file.Data)
	}
	if strings.HasPrefix(file.Data, "#!") {
		o.script = &file
		return []string{scriptDir + "/" + file.Name}
	}
	return []string{file.Data}
}

// summary is the first line of a document.
func summary(doc string) string {
	first, rest, _ := strings.Cut(strings.TrimSpace(doc), "\n")
	if rest != "" {
		first += "..."
	}
	return strings.TrimSuffix(first, "\r")
}

// proxyNames are the proxy variables in upper case.
var proxyNames = []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"}

// proxyEnv are the proxy variables given as build arguments, in both cases.
func proxyEnv(args map[string]string) []string {
	var out []string
	for _, name := range proxyNames {
		lower := strings.ToLower(name)
		v, ok := args[name]
		if l, has := args[lower]; has {
			v, ok = l, true
		}
		if ok {
			out = append(out, name+"="+v, lower+"="+v)
		}
	}
	return out
}

func (o *runOp) kind() string { return "run" }

func (o *runOp) sources() []*stage {
	var out []*stage
	for _, m := range o.mounts {
		if m.from != nil {
			out = append(out, m.from)
		}
	}
	return out
}

func (o *runOp) key(ctx context.Context, r *runner, s *step, h *cache.Hash) error {
	h.AddList("arg", o.args)
	h.AddList("env", o.env)
	h.Add("dir", o.dir)
	h.Add("user", o.user)
	h.Add("platform", image.FormatPlatform(o.platform))
	h.Add("network", o.network)
	run := r.opts.Run
	hosts := make([]string, len(run.Hosts))
	for i, host := range run.Hosts {
		hosts[i] = host.Name + "=" + host.IP.String()
	}
	h.AddList("host", hosts)
	h.Add("shm", strconv.FormatInt(run.ShmSize, 10))
	limits := make([]string, len(run.Rlimits))
	for i, l := range run.Rlimits {
		limits[i] = fmt.Sprintf("%s=%d:%d", l.Name, l.Soft, l.Hard)
	}
	h.AddList("ulimit", limits)
	if o.script != nil {
		h.Add("script", o.script.Data)
	}
	for _, m := range o.mounts {
		if err := m.key(ctx, r, s, h); err != nil {
			return err
		}
	}
	return nil
}

func (o *runOp) run(ctx context.Context, r *runner, s *step, active snapshot.Active) (err error) {
	mounts, release, err := o.openMounts(ctx, r, s)
	defer func() { err = errors.Join(err, release()) }()
	if err != nil {
		return err
	}
	root, err := active.Mount()
	if err != nil {
		return err
	}
	defer root.Close()
	tail := progress.NewTail(failureLines, failureBytes)
	err = r.env.Executor.Run(ctx, container.Spec{
		ID:     containerID(active),
		Root:   root,
		Mounts: mounts,
		Args:   o.args, Env: o.withProxy(), Dir: o.dir, User: o.user,
		Hostname: sandboxHostname, Network: container.Network(networkOf(o.network)),
		Hosts: r.opts.Run.Hosts, ShmSize: r.opts.Run.ShmSize, Rlimits: r.opts.Run.Rlimits, CgroupParent: r.opts.Run.CgroupParent,
		Stdout: &logWriter{r, s.name, progress.Stdout, tail}, Stderr: &logWriter{r, s.name, progress.Stderr, tail},
		RunStep: true, KillWithParent: true,
		Warn: func(msg string) {
			r.event(s.name, progress.Event{Log: &progress.Log{Stream: progress.Warning, Data: []byte(msg + "\n")}})
		},
	})
	if err != nil {
		return &outputError{err: o.explain(err), output: tail.Bytes()}
	}
	return nil
}

// explain tells of a program that this machine can't execute what is missing,
// if it is an emulator.
func (o *runOp) explain(err error) error {
	if !errors.Is(err, syscall.ENOEXEC) {
		return err
	}
	if why := container.CanExecute(o.arch); why != nil {
		return why
	}
	return err
}

// How much of a failed step's output is shown again with its error.
const (
	failureLines = 20
	failureBytes = 16 << 10
)

// networkOf is the container's network for a build's. The default is the
// host's network, BuildKit's choice where no bridge is configured.
func networkOf(name string) string {
	if name == "none" {
		return string(container.NetworkNone)
	}
	return string(container.NetworkHost)
}

// containerID names a step's container after its snapshot's directory.
func containerID(active snapshot.Active) string {
	dir := filepath.Dir(active.Upper())
	name := filepath.Base(filepath.Dir(dir)) + "-" + filepath.Base(dir)
	return "run-" + strings.ToLower(name)
}

// withProxy is the environment of the process: the proxies given for the build
// hold, whatever the image sets.
func (o *runOp) withProxy() []string {
	env := dockerfile.NewEnv(o.env...)
	for _, p := range o.proxy {
		name, value, _ := strings.Cut(p, "=")
		env.Set(name, value)
	}
	return env.List()
}

// openMounts makes the step's mounts; release gives them up and may be called
// whatever the error is.
func (o *runOp) openMounts(ctx context.Context, r *runner, s *step) (mounts []mount.Mount, release func() error, err error) {
	var undo []func() error
	release = func() error {
		var errs []error
		for _, f := range slices.Backward(undo) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	if o.script != nil {
		dir, err := r.env.Store.TempDir()
		if err != nil {
			return nil, release, err
		}
		undo = append(undo, func() error { return os.RemoveAll(dir) })
		if err := writeScript(filepath.Join(dir, o.script.Name), o.script.Data); err != nil {
			return nil, release, err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return nil, release, err
		}
		mounts = append(mounts, mount.Mount{Type: mount.Bind, Source: dir, Target: scriptDir, ReadOnly: true})
	}
	for _, m := range o.mounts {
		made, close, err := m.open(ctx, r, s)
		if close != nil {
			undo = append(undo, close)
		}
		if err != nil {
			return nil, release, fmt.Errorf("--mount=type=%s,target=%s: %w", m.Type, m.Target, err)
		}
		mounts = append(mounts, made)
	}
	return mounts, release, nil
}

func writeScript(name, data string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = f.WriteString(data)
	return errors.Join(err, f.Chmod(0o755), f.Close())
}

// logWriter sends a process's output to the progress display.
type logWriter struct {
	r      *runner
	vertex string
	stream progress.Stream
	tail   *progress.Tail
}

func (w *logWriter) Write(p []byte) (int, error) {
	w.tail.Add(w.stream, p)
	w.r.event(w.vertex, progress.Event{Log: &progress.Log{Stream: w.stream, Data: p}})
	return len(p), nil
}
