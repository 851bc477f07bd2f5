// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"builder/cache"
	"builder/container"
	"builder/image"
	owners "builder/internal/owner"
	"builder/internal/secrets"
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
	shell    []string
	hostname string // "" for BuildKit's
	network  string
	insecure bool
	platform image.Platform
	arch     string // of the image's programs, which may be another than asked for
	mounts   []*runMount
	secrets  []*secretMount
	devices  []string                      // of CDI, by their full names
	script   *instructions.ShellInlineFile // mounted below scriptDir
}

// dispatchRun makes the step of a RUN.
func (p *plan) dispatchRun(st *stage, cmd command, c *instructions.RunCommand) error {
	s := st.state
	op := &runOp{
		env: s.env.List(), proxy: proxyEnv(p.opts.Args), dir: s.dir(), user: s.config.Config.User, shell: s.shell(),
		platform: st.platform, arch: s.config.Architecture, network: instructions.GetNetwork(c), hostname: p.opts.Args["BUILDKIT_SANDBOX_HOSTNAME"],
	}
	if err := op.confine(p, c); err != nil {
		return err
	}
	if err := op.commandLine(s, c); err != nil {
		return err
	}
	for i, m := range instructions.GetMounts(c) {
		if err := op.addMount(p, s, m, cmd.sources[i]); err != nil {
			return err
		}
	}
	made := p.addStep(st, cmd, op)
	made.shown = p.shownRun(made.code, s, op.secrets)
	if len(c.Files) > 0 {
		made.shown += " (" + summary(c.Files[0].Data) + ")"
	}
	s.note(made, "RUN %s%s # buildkit", s.argLine(), strings.Join(op.args, " "))
	return nil
}

func (o *runOp) addMount(p *plan, s *state, m *instructions.Mount, from *stage) error {
	switch m.Type {
	case instructions.MountTypeSecret:
		sm, err := newSecretMount(s, m)
		if err != nil {
			return err
		}
		o.secrets = append(o.secrets, sm)
	case instructions.MountTypeSSH:
		nth := 0
		for _, other := range o.secrets {
			if other.kind == "ssh" {
				nth++
			}
		}
		sm, err := newAgentMount(s, m, nth)
		if err != nil {
			return err
		}
		if env := image.NewEnv(o.env...); nth == 0 {
			if _, ok := env.Get("SSH_AUTH_SOCK"); !ok {
				env.Set("SSH_AUTH_SOCK", sm.target)
				o.env = env.List()
			}
		}
		o.secrets = append(o.secrets, sm)
	default:
		rm, err := p.newRunMount(s, m, from)
		if err != nil {
			return err
		}
		if rm.from != nil && !rm.from.implicit && !rm.from.dispatched {
			return fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", m.From, m.Target)
		}
		o.mounts = append(o.mounts, rm)
	}
	return nil
}

// shownRun is a RUN as it is shown: variables that are secrets are not expanded.
func (p *plan) shownRun(code string, s *state, mounts []*secretMount) string {
	env := s.env.Clone()
	for _, m := range mounts {
		if m.env != "" {
			env.Set(m.env, "****")
		}
	}
	return upperFirstWord(p.expand.Display(code, env))
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

// proxyEnv are the proxy variables given as build arguments, in both cases.
func proxyEnv(args map[string]string) []string {
	var out []string
	for _, name := range image.ProxyNames {
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

func (o *runOp) key(ctx context.Context, r *runner, _ *step, h *cache.Hash) error {
	h.AddList("arg", o.args)
	h.AddList("env", o.env)
	h.Add("dir", o.dir)
	h.Add("user", o.user)
	h.Add("platform", image.FormatPlatform(o.platform))
	h.Add("network", o.network)
	if o.insecure {
		h.Add("security", "insecure")
	}
	if o.hostname != "" {
		h.Add("hostname", o.hostname)
	}
	h.AddList("device", o.devices)
	if r.opts.Allow.SecretLeak {
		// What may hold a secret is no result for a build that forbids it.
		h.Add("secret.leak", "allowed")
	}
	r.opts.Run.key(h)
	if o.script != nil {
		h.Add("script", o.script.Data)
	}
	for _, m := range o.mounts {
		if err := m.key(ctx, r, h); err != nil {
			return err
		}
	}
	for _, m := range o.secrets {
		m.key(h)
	}
	return nil
}

func (o *runOp) run(ctx context.Context, r *runner, s *step, active snapshot.Active) (err error) {
	p, err := o.process(ctx, r)
	if err != nil {
		return err
	}
	spec, release, err := p.open(ctx, r.mounter(s))
	defer func() { err = errors.Join(err, release()) }()
	if err != nil {
		return err
	}
	root, err := active.Mount()
	if err != nil {
		return err
	}
	defer root.Close()
	log := r.stepLog(s)
	defer log.close()
	spec.ID, spec.Root = containerID(active), root
	spec.Stdout, spec.Stderr = log.writer(progress.Stdout), log.writer(progress.Stderr)
	spec.KillWithParent = true
	spec.Warn = func(msg string) { r.warnStep(s.name, msg) }
	if err := r.env.Executor.Run(ctx, spec); err != nil {
		log.close()
		return &outputError{err: o.explain(err), output: log.tail.Bytes(), process: p}
	}
	return o.adopt(root, active)
}

// adopt gives what the step has made to its user, where the kernel can't.
func (o *runOp) adopt(root *os.File, active snapshot.Active) error {
	if !owners.Kept() {
		return nil
	}
	user, err := container.LookupUser(root, o.user, nil)
	if err != nil {
		return err
	}
	return owners.Adopt(active.Upper(), owners.ID{UID: user.UID, GID: user.GID})
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

// process is what the step runs, in a form that can be kept.
func (o *runOp) process(ctx context.Context, r *runner) (*process, error) {
	p := &process{
		Args: o.args, Env: o.withProxy(), Dir: o.dir, User: o.user, Shell: o.shell, Hostname: o.hostname,
		Network: o.network, Insecure: o.insecure, Devices: o.devices, SecretEnv: map[string]string{}, Run: r.opts.Run,
	}
	if o.script != nil {
		p.Mounts = append(p.Mounts, mountSpec{Type: "script", Target: scriptDir, Source: o.script.Name, Script: []byte(o.script.Data), ReadOnly: true})
	}
	for _, v := range r.opts.Run.Volumes {
		p.Mounts = append(p.Mounts, mountSpec{Type: "volume", Target: v.Target, Source: v.Source, ReadOnly: v.ReadOnly, Scratch: v.Scratch})
	}
	for _, m := range o.mounts {
		spec, err := m.resolve(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("--mount=type=%s,target=%s: %w", m.Type, m.Target, err)
		}
		p.Mounts = append(p.Mounts, spec)
	}
	for _, m := range o.secrets {
		given := r.opts.has(m)
		spec, ok, err := m.spec(given)
		if err != nil {
			return nil, err
		}
		if ok {
			p.Mounts = append(p.Mounts, spec)
		}
		if m.env != "" {
			p.SecretEnv[m.env] = m.id
		}
	}
	return p, nil
}

// has reports whether a secret or an agent was given for the build.
func (o *Options) has(m *secretMount) bool {
	if m.kind == "ssh" {
		_, ok := o.SSH[m.id]
		return ok
	}
	_, ok := o.Secrets[m.id]
	return ok
}

// mounter makes a step's mounts.
func (r *runner) mounter(s *step) *mounter {
	return &mounter{env: r.env, secrets: r.opts.Secrets, agents: r.opts.SSH, devices: r.opts.Devices, wait: func(string) {
		r.event(s.name, progress.Event{Status: &progress.Status{ID: "mount", Action: "waiting for the user of a cache mount"}})
	}}
}

func (r *runner) warnStep(vertex, msg string) {
	r.event(vertex, progress.Event{Log: &progress.Log{Stream: progress.Warning, Data: []byte(msg + "\n")}})
}

// How much of a failed step's output is shown again with its error.
const (
	failureLines = 20
	failureBytes = 16 << 10
)

// containerID names a step's container after its snapshot's directory.
func containerID(active snapshot.Active) string {
	dir := filepath.Dir(active.Upper())
	name := filepath.Base(filepath.Dir(dir)) + "-" + filepath.Base(dir)
	return "run-" + strings.ToLower(name)
}

// withProxy is the environment of the process: the proxies given for the build
// hold, whatever the image sets.
func (o *runOp) withProxy() []string {
	env := image.NewEnv(o.env...)
	for _, p := range o.proxy {
		name, value, _ := strings.Cut(p, "=")
		env.Set(name, value)
	}
	return env.List()
}

// stepLog is where a step's output goes: to the progress display and into the
// tail that is shown again after a failure, without the values of secrets.
type stepLog struct {
	r      *runner
	vertex string
	tail   *progress.Tail
	open   []*secrets.Blanker
}

func (r *runner) stepLog(s *step) *stepLog {
	return &stepLog{r: r, vertex: s.name, tail: progress.NewTail(failureLines, failureBytes)}
}

// writer is for one of the streams.
func (l *stepLog) writer(stream progress.Stream) io.Writer {
	pass := func(p []byte) {
		l.tail.Add(stream, p)
		l.r.event(l.vertex, progress.Event{Log: &progress.Log{Stream: stream, Data: p}})
	}
	if l.r.plan.guard == nil {
		return writerFunc(pass)
	}
	b := secrets.NewBlanker(l.r.plan.guard, pass)
	l.open = append(l.open, b)
	return b
}

// close passes on what is held back. The process has ended.
func (l *stepLog) close() {
	for _, b := range l.open {
		b.Close()
	}
	l.open = nil
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}
