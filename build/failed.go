// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"builder/container"
	"builder/internal/atomicfile"
	"builder/internal/filelock"
	"builder/snapshot"
	"builder/store"
)

// Failed is a step whose process failed, with the file system that it left.
//
//	failed/ID.json   this; its lock is held shared by whoever looks at it
type Failed struct {
	ID       string      `json:"id"`
	Created  time.Time   `json:"created"`
	Step     string      `json:"step"`  // as shown
	Place    string      `json:"place"` // file:line
	Error    string      `json:"error"`
	Snapshot snapshot.ID `json:"snapshot"`
	Process  *process    `json:"process"`
}

// keepFailed is how many failed steps are kept; older ones are removed.
const keepFailed = 10

// failedAge is how long a failed step is kept when the store is collected.
const failedAge = 7 * 24 * time.Hour

// FailedSteps are the failed steps of a state directory.
type FailedSteps struct{ s *store.Store }

// NewFailedSteps returns those of a store.
func NewFailedSteps(s *store.Store) FailedSteps { return FailedSteps{s} }

func (f FailedSteps) file(id string) string { return f.s.Path("failed", id+".json") }

// List returns all, newest first.
func (f FailedSteps) List() ([]Failed, error) {
	entries, err := os.ReadDir(f.s.Path("failed"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list failed steps: %w", err)
	}
	var out []Failed
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		var step Failed
		data, err := os.ReadFile(f.file(id))
		if err == nil && json.Unmarshal(data, &step) == nil && step.ID == id && step.Process != nil {
			out = append(out, step)
		}
	}
	slices.SortFunc(out, func(a, b Failed) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// ErrNoFailedStep says that no failed step has the ID.
var ErrNoFailedStep = errors.New("no such failed step")

// Find returns the failed step of an ID or the beginning of one, and the last
// one for "".
func (f FailedSteps) Find(id string) (Failed, error) {
	all, err := f.List()
	if err != nil {
		return Failed{}, err
	}
	var found []Failed
	for _, step := range all {
		if strings.HasPrefix(step.ID, id) {
			found = append(found, step)
		}
	}
	switch {
	case len(found) == 0 && id == "":
		return Failed{}, errors.New("no failed step is kept")
	case len(found) == 0:
		return Failed{}, fmt.Errorf("%w: %s", ErrNoFailedStep, id)
	case len(found) > 1 && id != "" && found[0].ID != id:
		return Failed{}, fmt.Errorf("the ID %s is ambiguous: give more of its digits", id)
	}
	return found[0], nil
}

// Snapshots are the snapshots that failed steps stand on.
func (f FailedSteps) Snapshots() ([]snapshot.ID, error) {
	all, err := f.List()
	if err != nil {
		return nil, err
	}
	var out []snapshot.ID
	for _, step := range all {
		out = append(out, step.Snapshots()...)
	}
	return out, nil
}

// Snapshots are those that a failed step stands on, its own first.
func (step Failed) Snapshots() []snapshot.ID {
	out := []snapshot.ID{step.Snapshot}
	for _, m := range step.Process.Mounts {
		if m.Snapshot != "" {
			out = append(out, m.Snapshot)
		}
	}
	return out
}

// Expired reports whether a failed step is more than a week old.
func (FailedSteps) Expired(step Failed, now time.Time) bool {
	return now.Sub(step.Created) >= failedAge
}

// Remove removes a failed step and its file system, unless somebody looks at
// it.
func (f FailedSteps) Remove(ctx context.Context, step Failed, snapshots snapshot.Snapshotter) error {
	lock, err := f.lock(step.ID, filelock.Exclusive)
	if errors.Is(err, filelock.ErrLocked) {
		return fmt.Errorf("failed step %s is in use by a builder debug: %w", step.ID, err)
	}
	if err != nil {
		return err
	}
	defer lock.ReleaseAndRemove()
	if err := os.Remove(f.file(step.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return snapshots.Remove(ctx, step.Snapshot)
}

// Expire removes the failed steps that are more than a week old, less those in
// use.
func (f FailedSteps) Expire(ctx context.Context, snapshots snapshot.Snapshotter, now time.Time) error {
	all, err := f.List()
	if err != nil {
		return err
	}
	for _, step := range all {
		if !f.Expired(step, now) {
			continue
		}
		if err := f.Remove(ctx, step, snapshots); err != nil && !errors.Is(err, filelock.ErrLocked) {
			return err
		}
	}
	return nil
}

func (f FailedSteps) lock(id string, mode filelock.Mode) (*filelock.Lock, error) {
	if err := os.MkdirAll(f.s.Path("locks"), 0o700); err != nil {
		return nil, err
	}
	return filelock.TryAcquire(f.s.Path("locks", "failed-"+id), mode)
}

// Open makes the container of a failed step as it ran, on a layer of its own
// that is thrown away. args are run instead of its command; none are the
// step's shell. Secrets and agents that are not given again are left out, and
// named in missing. The caller ends with release, whatever the error is.
func (f FailedSteps) Open(ctx context.Context, env Env, step Failed, args []string, opts Options) (d *Debug, err error) {
	d = &Debug{}
	lock, err := f.lock(step.ID, filelock.Shared)
	if err != nil {
		return d, fmt.Errorf("failed step %s is being removed: %w", step.ID, err)
	}
	d.undo = append(d.undo, lock.Release)
	p := *step.Process
	if p.Args = args; len(args) == 0 {
		p.Args = shellOf(p.Shell)
	}
	p.Mounts, p.SecretEnv = d.givenAgain(step.Process, opts)
	m := &mounter{env: env, secrets: opts.Secrets, agents: opts.SSH, devices: opts.Devices, wait: func(string) {}}
	spec, release, err := p.open(ctx, m)
	d.undo = append(d.undo, release)
	if err != nil {
		return d, err
	}
	active, err := env.RootFS.Prepare(ctx, step.Snapshot)
	if err != nil {
		return d, err
	}
	d.undo = append(d.undo, func() error { return discard(active) })
	spec.ID = containerID(active)
	if spec.Root, err = active.Mount(); err != nil {
		return d, err
	}
	d.undo = append(d.undo, spec.Root.Close)
	d.Spec = spec
	return d, nil
}

// Debug is a failed step made ready to be looked at.
type Debug struct {
	Spec    container.Spec
	Missing []string // secrets and agents that the step had and this has not
	undo    []func() error
}

// Release gives everything up. The container must have ended.
func (d *Debug) Release() error {
	var errs []error
	for _, f := range slices.Backward(d.undo) {
		errs = append(errs, f())
	}
	d.undo = nil
	return errors.Join(errs...)
}

func (d *Debug) givenAgain(p *process, opts Options) (mounts []mountSpec, env map[string]string) {
	missing := func(flag, id string) {
		if text := flag + " " + id; !slices.Contains(d.Missing, text) {
			d.Missing = append(d.Missing, text)
		}
	}
	for _, m := range p.Mounts {
		switch m.Type {
		case "secret":
			if _, ok := opts.Secrets[m.ID]; !ok {
				missing("--secret", "id="+m.ID)
				continue
			}
		case "ssh":
			if _, ok := opts.SSH[m.ID]; !ok {
				missing("--ssh", m.ID)
				continue
			}
		}
		mounts = append(mounts, m)
	}
	env = map[string]string{}
	for name, id := range p.SecretEnv {
		if _, ok := opts.Secrets[id]; !ok {
			missing("--secret", "id="+id)
			continue
		}
		env[name] = id
	}
	slices.Sort(d.Missing)
	return mounts, env
}

// shellOf is the interactive form of what runs commands in shell form.
func shellOf(shell []string) []string {
	if n := len(shell); n > 1 && strings.HasPrefix(shell[n-1], "-") && strings.HasSuffix(shell[n-1], "c") {
		return shell[:n-1]
	}
	return []string{"/bin/sh"}
}

// KeptError is the failure of a step whose file system was kept.
type KeptError struct {
	err error
	id  string
}

func (e *KeptError) Error() string { return e.err.Error() }
func (e *KeptError) Unwrap() error { return e.err }

// Hint is how to look at it.
func (e *KeptError) Hint() string {
	return "builder debug " + e.id + " opens a shell in what the step left"
}

// keep keeps what a failed process left, unless that holds a secret. It
// returns the failure with a hint of it; keeping is no reason to fail otherwise.
func (r *runner) keep(ctx context.Context, s *step, active snapshot.Active, err error) error {
	var out *outputError
	var hinted interface{ Hint() string }      // it is known what is missing
	noWay := r.env.RootFS.Snapshots().Copies() // to open it: that takes a container
	if !errors.As(err, &out) || errors.As(err, &hinted) || ctx.Err() != nil || noWay {
		return errors.Join(err, discard(active))
	}
	id, keepErr := r.keepFailed(ctx, s, active, out)
	if keepErr != nil {
		r.env.Log.Debug("what the failed step left is not kept", "step", s.name, "why", keepErr.Error())
		return errors.Join(err, discard(active))
	}
	out.err = &KeptError{out.err, id}
	return err
}

func (r *runner) keepFailed(ctx context.Context, s *step, active snapshot.Active, out *outputError) (string, error) {
	if err := r.checkLeak(ctx, active); err != nil {
		return "", err
	}
	snap, err := active.Commit(ctx, "")
	if err != nil {
		return "", err
	}
	var b [6]byte
	rand.Read(b[:])
	step := Failed{
		ID: hex.EncodeToString(b[:]), Created: r.env.Now().UTC(), Step: s.name, Place: r.place(s.location),
		Error: out.err.Error(), Snapshot: snap, Process: out.process,
	}
	data, err := json.Marshal(step)
	if err != nil {
		return "", err
	}
	f := FailedSteps{r.env.Store}
	if err := atomicfile.WriteMkdir(f.file(step.ID), data, 0o600); err != nil {
		return "", errors.Join(err, r.env.RootFS.Snapshots().Remove(ctx, snap))
	}
	all, err := f.List()
	if err != nil {
		return "", err
	}
	for _, old := range all[min(keepFailed, len(all)):] {
		if err := f.Remove(ctx, old, r.env.RootFS.Snapshots()); err != nil {
			r.env.Log.Debug("old failed step stays", "id", old.ID, "why", err.Error())
		}
	}
	return step.ID, nil
}
