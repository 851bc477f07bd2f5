// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"builder/supervisor"

	"golang.org/x/term"
)

// attachOptions say how this process attaches to a container.
type attachOptions struct {
	stdin, tty, sigProxy bool
	keys                 []byte
	left                 error // what leaving by the keys is; nil for no error
	note                 func(action string)
}

// errLeft says that the user left by the keys: docker's words, and its exit code.
var errLeft = errors.New("read escape sequence")

// attached attaches to a container by begin and stays until it ends; it returns
// the exit code of its process. begin isn't interrupted by signals that are passed on.
func (e *env) attached(ctx context.Context, a attachOptions, begin func(context.Context, *supervisor.Session) error) (int, error) {
	s := &supervisor.Session{Stdout: e.stdout, Stderr: e.stderr}
	if a.stdin {
		s.Stdin = e.stdin
	}
	restore := func() {}
	if a.tty {
		s.Width, s.Height = e.terminalSize()
		if a.stdin {
			s.Detach = a.keys
		}
	}
	var caught *caughtSignals
	if a.sigProxy {
		caught = catchSignals()
		defer caught.stop()
		if err := e.interrupts.err(); err != nil {
			return 0, err
		}
		ctx = context.WithoutCancel(ctx)
	}
	if err := begin(ctx, s); err != nil {
		return 0, err
	}
	if a.tty {
		var err error
		if restore, err = e.rawTerminal(a.stdin); err != nil {
			return 0, err
		}
	}
	if a.sigProxy {
		e.forwardSignals(caught, s, a.tty)
	}
	st, err := s.Wait()
	restore()
	if errors.Is(err, supervisor.ErrDetached) {
		fmt.Fprintln(e.stderr)
		a.note("detach")
		return 0, a.left
	}
	return st.ExitCode, err
}

// noteFor notes what is done to a container.
func noteFor(records supervisor.Records, c supervisor.Config) func(action string) {
	return func(action string) { records.Event(c, action, nil) }
}

// detachKeys reads docker's notation: keys separated by commas, each a character or
// ctrl- with a letter or one of @ [ \ ] ^ _. Where nothing is given it is as docker's
// config file says.
func (e *env) detachKeys(given string) ([]byte, error) {
	if given != "" {
		return parseDetachKeys(given)
	}
	keys, err := parseDetachKeys(e.dockerConfig().DetachKeys)
	if err != nil { // as docker does
		e.warn(fmt.Sprintf("docker's config file, detachKeys: %v: ctrl-p,ctrl-q it is", err))
		return parseDetachKeys("")
	}
	return keys, nil
}

func parseDetachKeys(text string) ([]byte, error) {
	if text == "" {
		return []byte{16, 17}, nil // ctrl-p, ctrl-q
	}
	var keys []byte
	for _, k := range strings.Split(text, ",") {
		c, ctrl := strings.CutPrefix(k, "ctrl-")
		switch {
		case k == "DEL":
			keys = append(keys, 127)
		case !ctrl && len(k) == 1:
			keys = append(keys, k[0])
		case ctrl && len(c) == 1 && (c[0] >= 'a' && c[0] <= 'z'):
			keys = append(keys, c[0]-'a'+1)
		case ctrl && len(c) == 1 && strings.Contains(`@[\]^_`, c):
			keys = append(keys, c[0]&0x1f)
		default:
			return nil, fmt.Errorf("unknown key %q: want characters, or ctrl- with a letter, separated by commas", k)
		}
	}
	return keys, nil
}

func runAttach(ctx context.Context, e *env, args []string) error {
	fs := flags("attach")
	keyText := fs.String("detach-keys", "", "`KEYS` that leave the container, which runs on (default ctrl-p,ctrl-q)")
	noStdin := fs.Bool("no-stdin", false, "don't pass standard input")
	sigProxy := fs.Bool("sig-proxy", true, "pass signals on to the process")
	words, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	keys, err := e.detachKeys(*keyText)
	if err != nil {
		return &usageError{msg: fmt.Sprintf("attach: --detach-keys: %v", err)}
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	c, err := client.Records.Find(words[0])
	if err != nil {
		return err
	}
	if !c.State.Alive() {
		return fmt.Errorf("container %s is not running: builder start -a starts it", c.Name)
	}
	a := attachOptions{
		stdin: !*noStdin && c.OpenStdin, tty: c.Spec.Terminal, sigProxy: *sigProxy, keys: keys,
		left: errLeft, note: noteFor(client.Records, c.Config),
	}
	if a.stdin && a.tty && !term.IsTerminal(int(e.stdin.Fd())) {
		return errors.New("attach: standard input is no terminal, as the container's is: --no-stdin attaches without it")
	}
	code, err := e.attached(ctx, a, func(ctx context.Context, s *supervisor.Session) error {
		err := client.Attach(ctx, c.Config, s)
		if err == nil {
			a.note("attach")
		}
		if err == nil && a.tty && s.Width > 0 && s.Height > 0 {
			// Another size and the true one: a program draws its screen anew only
			// when it hears of a change.
			s.Resize(s.Width+1, s.Height+1)
			s.Resize(s.Width, s.Height)
		}
		return err
	})
	if err == nil && code != 0 {
		return &exitError{code}
	}
	return err
}
