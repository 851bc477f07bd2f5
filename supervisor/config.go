// SPDX-License-Identifier: Apache-2.0

// Package supervisor keeps containers: what each is to be and how it fares, its
// start, its end and whether it starts again, its output, and who looks on.
//
// A container is held by one process at a time: by the command that runs it in
// the foreground, or by the monitor, one process for all others of a state
// directory, which is there as long as one of them runs. The holder has the
// lock of the container, writes its state, and serves its requests on a socket.
// When a holder of detached containers is killed they run on, and the next
// monitor takes them over.
package supervisor

import (
	"encoding/json"
	"syscall"
	"time"

	"builder/container"
	"builder/internal/sys"
	"builder/network"
)

// Config says what a container is to be. It is written by who makes it and
// changes only by [Records.Change].
type Config struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Image    string    `json:"image"` // as the user named it
	ImageID  string    `json:"imageID"`
	Snapshot string    `json:"snapshot"` // what it stands on
	Created  time.Time `json:"created"`

	// Spec is what runs; Root and streams are given to it at each start.
	Spec       container.Spec `json:"spec"`
	Entrypoint []string       `json:"entrypoint,omitempty"` // the part of Spec.Args that is the entry point
	Cmd        []string       `json:"cmd,omitempty"`        // the rest

	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"` // kept and shown, no more
	OpenStdin   bool              `json:"openStdin,omitempty"`   // standard input is a pipe and not /dev/null
	StdinOnce   bool              `json:"stdinOnce,omitempty"`   // it ends when the one who is attached goes
	StopSignal  string            `json:"stopSignal,omitempty"`  // "" for SIGTERM
	StopTimeout *int              `json:"stopTimeout,omitempty"` // seconds before SIGKILL, negative for never; nil for 10
	Timeout     int               `json:"timeout,omitempty"`     // seconds after which it is killed, 0 for none
	Restart     Restart           `json:"restart"`
	Health      *Healthcheck      `json:"health,omitempty"`
	Log         LogConfig         `json:"log"`
	Exposed     []string          `json:"exposed,omitempty"` // ports of the image, "80/tcp"

	Mounts []Mount `json:"mounts,omitempty"`

	// NetworkMode is "host", "none", "container:ID", or "" for that of
	// Endpoint.
	NetworkMode string            `json:"networkMode,omitempty"`
	Endpoint    *network.Endpoint `json:"endpoint,omitempty"`

	// Join are containers whose namespaces it shares, besides the network.
	Join Join `json:"join,omitzero"`

	// UserImplied says that Spec.User comes with the user namespace, and not from
	// the image or who has made the container.
	UserImplied bool `json:"userImplied,omitempty"`
	// UserNSMode is what --userns said, "" for host. ChooseIDs, if it is not nil,
	// chooses Spec.IDs when the container is made, of those that others have not.
	UserNSMode string                                                 `json:"usernsMode,omitempty"`
	ChooseIDs  func(taken []container.IDMap) (container.IDMap, error) `json:"-"`

	// AutoRemove says that nobody wants it once it has ended.
	AutoRemove bool `json:"autoRemove,omitempty"`
	// ToRun says that it was made to be started at once: if it never was,
	// nobody wants it.
	ToRun bool `json:"toRun,omitempty"`
	// Options are the command line that it was made by, for inspect.
	Options json.RawMessage `json:"options,omitempty"`
}

// Stop is the signal that stops it.
func (c *Config) Stop() (syscall.Signal, error) {
	if c.StopSignal == "" {
		return syscall.SIGTERM, nil
	}
	return sys.ParseSignal(c.StopSignal)
}

// Grace is how long it may take to stop, negative for as long as it likes.
func (c *Config) Grace() time.Duration {
	if c.StopTimeout == nil {
		return 10 * time.Second
	}
	return time.Duration(*c.StopTimeout) * time.Second
}

// Restart policies.
const (
	RestartNo            = "no"
	RestartAlways        = "always"
	RestartOnFailure     = "on-failure"
	RestartUnlessStopped = "unless-stopped"
)

// Restart says when an ended container is started again.
type Restart struct {
	Name string `json:"name,omitempty"` // "" is [RestartNo]
	Max  int    `json:"max,omitempty"`  // times, of on-failure; 0 is any number
}

// Healthcheck is how a container is asked whether it works. Zero durations are
// docker's defaults.
type Healthcheck struct {
	Test          []string      `json:"test"` // "CMD", …, or "CMD-SHELL", command, or "NONE"
	Interval      time.Duration `json:"interval,omitempty"`
	Timeout       time.Duration `json:"timeout,omitempty"`
	StartPeriod   time.Duration `json:"startPeriod,omitempty"`
	StartInterval time.Duration `json:"startInterval,omitempty"`
	Retries       int           `json:"retries,omitempty"`
	// OnFailure is what is done to a container that has become unhealthy.
	OnFailure OnFailure `json:"onFailure,omitempty"`
}

// Checks tells whether there is something to check with: not where only the times of
// checks were given, nor with NONE, which does away with an image's check.
func (h *Healthcheck) Checks() bool { return h != nil && len(h.Test) > 0 && h.Test[0] != "NONE" }

// OnFailure is what is done to a container that has become unhealthy, as with podman.
type OnFailure string

// What can be done.
const (
	OnFailureNone    OnFailure = ""
	OnFailureKill    OnFailure = "kill" // it is started again if its policy says so
	OnFailureRestart OnFailure = "restart"
	OnFailureStop    OnFailure = "stop"
)

// LogConfig says what is kept of a container's output.
type LogConfig struct {
	Driver  string `json:"driver,omitempty"`  // "" for local, or none
	MaxSize int64  `json:"maxSize,omitempty"` // bytes of one file, 0 for the default, negative for any number
	MaxFile int    `json:"maxFile,omitempty"` // files, 0 for the default
}

// Status is docker's word for how a container fares.
type Status string

// The states.
const (
	Created    Status = "created"
	Running    Status = "running"
	Paused     Status = "paused"
	Restarting Status = "restarting" // ended, and about to be started again
	Exited     Status = "exited"
)

// State says how a container fares. It is written by its holder. Whether it
// runs is told by the kernel: see [Records.State].
type State struct {
	Status   Status    `json:"status"`
	Pid      int       `json:"pid,omitempty"`
	PidStart uint64    `json:"pidStart,omitempty"` // see container.StartTime
	Boot     string    `json:"boot,omitempty"`     // in which Pid has a meaning
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	ExitCode int       `json:"exitCode"`
	OOM      bool      `json:"oom,omitempty"`
	Error    string    `json:"error,omitempty"` // why it could not start, or what is not known
	Restarts int       `json:"restarts,omitempty"`
	// Stopped says that a user has stopped it: it is not started again.
	Stopped bool `json:"stopped,omitempty"`
	// Foreground says that it ends with the process that holds it.
	Foreground bool    `json:"foreground,omitempty"`
	Health     *Health `json:"health,omitempty"`
	// Network is what it has of networks as long as it runs.
	Network *network.Attachment `json:"network,omitempty"`
	// Resolv tells its /etc/resolv.conf that is ours from one that was changed.
	Resolv string `json:"resolv,omitempty"`
}

// Alive says whether it has processes.
func (s State) Alive() bool { return s.Status == Running || s.Status == Paused }

// Health is what the last checks said.
type Health struct {
	Status        string  `json:"status"` // starting, healthy, unhealthy
	FailingStreak int     `json:"failingStreak"`
	Log           []Probe `json:"log,omitempty"` // the last five, oldest first
	// Pid and PidStart are the process of a check that runs: without the monitor
	// it would run without a bound.
	Pid      int    `json:"pid,omitempty"`
	PidStart uint64 `json:"pidStart,omitempty"` // see container.StartTime
}

// Probe is one health check.
type Probe struct {
	Start, End time.Time
	ExitCode   int
	Output     string
}

// Container is one of the containers of a state directory.
type Container struct {
	Config
	State State
}
