// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strconv"
	"sync"

	"builder/cache"
	owners "builder/internal/owner"
	"builder/internal/sys"
	"builder/mount"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// Agent is an SSH agent that RUN steps may use.
type Agent interface {
	// Serve answers a client until it hangs up or the connection is closed.
	Serve(conn net.Conn)
}

// MissingError says that nobody gave what a RUN must have.
type MissingError struct {
	Kind string // secret or ssh, as the flag is called
	ID   string
}

func (e *MissingError) Error() string {
	if e.Kind == "ssh" {
		return fmt.Sprintf("no SSH key %q forwarded from the client", e.ID)
	}
	return fmt.Sprintf("secret %s: not found", e.ID)
}

// Hint is the flag that is missing.
func (e *MissingError) Hint() string {
	if e.Kind == "ssh" {
		return "give an agent or a key with --ssh " + e.ID + "[=SOCKET|KEY]"
	}
	return "give it with --secret id=" + e.ID + ",src=FILE or --secret id=" + e.ID + ",env=NAME"
}

// secretMount is a --mount=type=secret or type=ssh.
type secretMount struct {
	kind     string // secret or ssh
	id       string
	target   string // as written; "" for a secret that is only a variable
	path     string // where that is
	env      string // the variable of a secret, "" for none
	required bool
	mode     uint32
	uid, gid int
}

func newSecretMount(s *state, m *instructions.Mount) (*secretMount, error) {
	sm := &secretMount{
		kind: "secret", id: m.CacheID, target: m.Target, required: m.Required,
		uid: number(m.UID), gid: number(m.GID), mode: 0o400,
	}
	if m.Source != "" {
		sm.id = m.Source
	}
	if sm.id == "" {
		sm.id = path.Base(m.Target)
	}
	if m.Env == nil && sm.target == "" {
		sm.target = "/run/secrets/" + path.Base(sm.id)
	}
	if m.Env != nil {
		if sm.env = *m.Env; sm.env == "" {
			return nil, errors.New("env of a secret mount needs the name of a variable")
		}
	}
	return sm, sm.settle(s, m)
}

// newAgentMount makes a --mount=type=ssh, the nth of its step.
func newAgentMount(s *state, m *instructions.Mount, nth int) (*secretMount, error) {
	if m.Source != "" {
		return nil, errors.New("ssh does not support source")
	}
	sm := &secretMount{
		kind: "ssh", id: m.CacheID, target: m.Target, required: m.Required,
		uid: number(m.UID), gid: number(m.GID), mode: 0o600,
	}
	if sm.id == "" {
		sm.id = "default"
	}
	if sm.target == "" {
		sm.target = fmt.Sprintf("/run/buildkit/ssh_agent.%d", nth)
	}
	return sm, sm.settle(s, m)
}

func (sm *secretMount) settle(s *state, m *instructions.Mount) error {
	if m.Mode != nil {
		sm.mode = uint32(*m.Mode & 0o777)
	}
	if sm.target == "" {
		return nil
	}
	if sm.path = s.mountTarget(sm.target); sm.path == "/" {
		return fmt.Errorf("invalid mount target %q", sm.target)
	}
	return nil
}

// key adds what is mounted where, and nothing of a value: a step that was run
// with one secret is not run again for another.
func (sm *secretMount) key(h *cache.Hash) {
	h.Add("mount", sm.kind)
	h.Add("id", sm.id)
	h.Add("target", sm.target)
	h.Add("variable", sm.env)
	h.Add("required", strconv.FormatBool(sm.required))
	h.Add("owner", fmt.Sprintf("%d:%d %o", sm.uid, sm.gid, sm.mode))
}

// spec is the mount; ok is false if there is none to be made.
func (sm *secretMount) spec(given bool) (spec mountSpec, ok bool, err error) {
	if !given && sm.required {
		return spec, false, &MissingError{sm.kind, sm.id}
	}
	spec = mountSpec{Type: sm.kind, Target: sm.path, ID: sm.id, Mode: sm.mode, UID: sm.uid, GID: sm.gid, ReadOnly: sm.kind == "secret"}
	return spec, given && sm.target != "", nil
}

// openSecret makes a file system in memory with a secret in it.
func (m *mounter) openSecret(spec mountSpec, made *mount.Mount) error {
	value, ok := m.secrets[spec.ID]
	if !ok {
		return &MissingError{"secret", spec.ID}
	}
	made.NoSuid, made.NoDev, made.NoExec = true, true, spec.Mode&0o111 == 0
	return m.hide(spec, made, func(name string) error { return os.WriteFile(name, value, 0o600) })
}

// hide makes a file system in memory, in it one file by make, and of that the
// mount.
func (m *mounter) hide(spec mountSpec, made *mount.Mount, create func(name string) error) error {
	if !sys.MayMount() {
		why := "it needs a file system in memory, and nothing can be mounted here"
		if spec.Type == "secret" {
			why += "; a secret can be a variable: env=NAME"
		}
		return errors.New(why)
	}
	fs := mount.FS{Type: "tmpfs", Options: []mount.Option{{Key: "mode", Value: "0711"}, {Key: "noswap"}}}
	dir, err := fs.Open()
	if err != nil {
		// Linux before 6.4 can't promise that.
		fs.Options = fs.Options[:1]
		if dir, err = fs.Open(); err != nil {
			return err
		}
	}
	m.close(dir)
	name := sys.FDPath(dir) + "/it"
	if err := create(name); err != nil {
		return err
	}
	if !owners.Kept() { // else it is root's, and everybody is root
		if err := os.Chown(name, spec.UID, spec.GID); err != nil {
			return err
		}
	}
	if err := os.Chmod(name, os.FileMode(spec.Mode)); err != nil {
		return err
	}
	file, err := openPath(dir, "it")
	if err != nil {
		return err
	}
	made.Inside, made.Tree = dir, m.close(file)
	return nil
}

// openAgent makes a socket at which an agent answers as long as the mount is
// held.
func (m *mounter) openAgent(spec mountSpec, made *mount.Mount) error {
	agent, ok := m.agents[spec.ID]
	if !ok {
		return &MissingError{"ssh", spec.ID}
	}
	return m.hide(spec, made, func(name string) error {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		m.undo = append(m.undo, serve(l, agent))
		return nil
	})
}

// serve answers the clients of l; stop ends that, and every connection.
func serve(l net.Listener, agent Agent) (stop func() error) {
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				// Closing it is what ends Serve; it may have ended before.
				hangUp := context.AfterFunc(ctx, func() { _ = conn.Close() })
				agent.Serve(conn)
				if hangUp() {
					_ = conn.Close()
				}
			})
		}
	})
	return func() error {
		err := l.Close()
		cancel()
		all.Wait()
		return err
	}
}
