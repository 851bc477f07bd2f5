// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"builder/container"
)

// docker's defaults.
const (
	defaultInterval      = 30 * time.Second
	defaultTimeout       = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultRetries       = 3

	keptProbes     = 5
	maxProbeOutput = 4096
)

// Words for how healthy a container is.
const (
	Starting  = "starting"
	Healthy   = "healthy"
	Unhealthy = "unhealthy"
)

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// watchHealth checks the container until its process ends.
func (h *holder) watchHealth(p *container.Process) {
	c := h.config.Health
	if !c.Checks() {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_ = p.Ended()
		cancel()
	}()
	h.mu.Lock()
	if h.process != p {
		h.mu.Unlock()
		cancel()
		return // it has ended already
	}
	if h.state.Health == nil {
		h.state.Health = &Health{Status: Starting}
		h.save()
	}
	begun := h.state.Started
	h.mu.Unlock()
	go func() {
		defer cancel()
		for {
			wait := or(c.Interval, defaultInterval)
			if c.StartPeriod > 0 && time.Since(begun) < c.StartPeriod {
				wait = min(wait, or(c.StartInterval, defaultStartInterval))
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			if h.current().Status == Paused {
				continue
			}
			if probe, ok := h.probe(ctx, p); ok {
				h.judge(p, probe, time.Since(begun) < c.StartPeriod)
			}
		}
	}()
}

// probe runs one check. ok is false if the container ended meanwhile.
func (h *holder) probe(ctx context.Context, p *container.Process) (probe Probe, ok bool) {
	c := h.config.Health
	args := c.Test[1:]
	if c.Test[0] == "CMD-SHELL" {
		args = append([]string{"/bin/sh", "-c"}, args...)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, or(c.Timeout, defaultTimeout), errSlowProbe)
	defer cancel()
	var out limited
	st := h.current()
	target := container.Target{Pid: st.Pid, Start: st.PidStart, Spec: h.config.Spec}
	target.Spec.ID = h.config.ID
	spec := container.ExecSpec{
		Args: args, Env: h.records.Environment(h.config, false), Dir: h.config.Spec.Dir, User: h.config.Spec.User, GroupAdd: h.config.Spec.GroupAdd,
		Stdout: &out, Stderr: &out,
	}
	probe.Start = time.Now()
	run, err := container.Exec(ctx, target, spec)
	if err == nil {
		h.probing(p, run.Pid())
		ended := make(chan error, 1)
		go func() { ended <- run.Wait() }()
		select {
		case err = <-ended:
		case <-ctx.Done():
			// It is killed; what it started may hold its output.
			err = context.Cause(ctx)
		}
	}
	probe.End, probe.Output = time.Now(), out.String()
	var exit *container.ExitError
	switch {
	case errors.Is(err, errSlowProbe):
		probe.ExitCode = -1
		late := "Health check exceeded timeout (" + or(c.Timeout, defaultTimeout).String() + ")"
		if probe.Output != "" {
			late += ": " + probe.Output
		}
		probe.Output = late
	case ctx.Err() != nil, errors.Is(err, container.ErrGone):
		return probe, false
	case errors.As(err, &exit):
		probe.ExitCode = exit.Code
	case err != nil:
		probe.ExitCode, probe.Output = -1, err.Error()
	}
	return probe, true
}

// probing notes the process of a check.
func (h *holder) probing(p *container.Process, pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process != p {
		return // it has ended with the container
	}
	now := *h.state.Health
	now.Pid, now.PidStart = pid, container.StartTime(pid)
	h.state.Health = &now
	h.save()
}

// endProbe kills the process of a check whose monitor was killed: the next check is
// another one.
func (s State) endProbe() {
	if s.Health == nil || s.Health.Pid == 0 {
		return
	}
	if p, err := container.OpenProcess(s.Health.Pid, s.Health.PidStart); err == nil {
		_ = container.SignalProcess(p, syscall.SIGKILL)
		p.Close()
	}
}

var errSlowProbe = errors.New("health check took too long")

// judge draws the conclusion of a check.
func (h *holder) judge(p *container.Process, probe Probe, starting bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process != p {
		return
	}
	was := h.state.Health
	now := &Health{Status: was.Status, FailingStreak: was.FailingStreak}
	now.Log = append(append(now.Log, was.Log...), probe)
	now.Log = now.Log[max(0, len(now.Log)-keptProbes):]
	switch {
	case probe.ExitCode == 0:
		now.Status, now.FailingStreak = Healthy, 0
	case starting && was.Status == Starting:
		// Failures don't count yet.
	default:
		if now.FailingStreak++; now.FailingStreak >= or(h.config.Health.Retries, defaultRetries) {
			now.Status = Unhealthy
		}
	}
	h.state.Health = now
	h.save()
	if now.Status != was.Status {
		h.records.event(h.config, "health_status: "+now.Status, nil)
	}
	if now.Status == Unhealthy && probe.ExitCode != 0 {
		h.onFailure(p)
	}
}

// onFailure does what is to be done to a container that is unhealthy, unless it is being
// stopped or started anew already. It is called after each check that fails, so that what
// a monitor was killed before is done by the next one. h.mu is held.
func (h *holder) onFailure(p *container.Process) {
	if h.stopping || h.again {
		return
	}
	switch h.config.Health.OnFailure {
	case OnFailureKill:
		_ = h.sendTold(p, syscall.SIGKILL)
		return
	case OnFailureRestart:
		h.again, h.unwell, h.stopping = true, true, true
	case OnFailureStop:
		h.stopping = true
		h.saveStop()
	default:
		return
	}
	stop, err := h.config.Stop()
	if err != nil {
		stop = syscall.SIGTERM
	}
	go func() {
		if err := h.end(context.Background(), stop, h.config.Grace()); err != nil {
			h.warn(fmt.Sprintf("container %s is unhealthy: %s: %v", h.config.Name, h.config.Health.OnFailure, err))
		}
	}()
}

// renews says whether a container that has ended was about to be started anew, as it was
// unhealthy.
func (c *Config) renews(s State) bool {
	return c.Health != nil && c.Health.OnFailure == OnFailureRestart && s.Health != nil && s.Health.Status == Unhealthy
}

// watchTime kills the process when the container's time is over.
func (h *holder) watchTime(p *container.Process) {
	if h.config.Timeout <= 0 {
		return
	}
	over := time.AfterFunc(time.Until(h.current().Started.Add(time.Duration(h.config.Timeout)*time.Second)), func() { h.killProcess(p) })
	_ = p.Ended()
	over.Stop()
}

// killProcess kills a process of the container, whose policy says whether that is
// started again.
func (h *holder) killProcess(p *container.Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process != p {
		return
	}
	if h.state.Status == Paused { // else the signal waits
		h.mu.Unlock()
		_ = h.thaw()
		h.mu.Lock()
	}
	if h.process == p {
		_ = h.sendTold(p, syscall.SIGKILL)
	}
}

// limited keeps the beginning of what is written to it.
type limited struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if room := maxProbeOutput - l.b.Len(); room > 0 {
		l.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
