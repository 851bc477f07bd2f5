// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"builder/image"
	"builder/internal/sys"
	"builder/supervisor"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// lifeFlags are the flags about a container's name, life and watching.
type lifeFlags struct {
	name, cidfile, restart, stopSignal, logDriver string

	rm, replace bool
	stopTimeout int
	timeout     int
	labels      []string
	annotations []string
	labelFiles  []string
	logOpts     []string

	noHealth                                                              bool
	healthCmd, onFailure                                                  string
	healthInterval, healthTimeout, healthStartPeriod, healthStartInterval time.Duration
	healthRetries                                                         int

	changed func(string) bool
}

func (f *lifeFlags) addFlags(fs *pflag.FlagSet) {
	f.changed = fs.Changed
	fs.StringVar(&f.name, "name", "", "name of the container")
	fs.BoolVar(&f.replace, "replace", false, "remove the container that has the name first")
	fs.BoolVar(&f.rm, "rm", false, "remove the container when it has ended")
	fs.StringVar(&f.cidfile, "cidfile", "", "write the container's ID to a new `FILE`")
	fs.StringVar(&f.restart, "restart", "", "when to start it again: `no|always|unless-stopped|on-failure[:TIMES]`")
	fs.StringVar(&f.stopSignal, "stop-signal", "", "signal that stops it (default the image's, or SIGTERM)")
	fs.IntVar(&f.stopTimeout, "stop-timeout", 10, "seconds that it has to stop before it is killed, -1 for any")
	fs.IntVar(&f.timeout, "timeout", 0, "seconds after which it is killed (default none)")
	wordsVar(fs, &f.annotations, "annotation", "keep an OCI annotation `NAME=VALUE` for inspect")
	wordsVarP(fs, &f.labels, "label", "l", "set a label, `NAME=VALUE`")
	wordsVar(fs, &f.labelFiles, "label-file", "read labels from a `FILE`")
	fs.StringVar(&f.logDriver, "log-driver", "local", "what keeps its output: `local|none`; json-file and journald of docker mean local")
	wordsVar(fs, &f.logOpts, "log-opt", "`max-size=SIZE` of a file of the log, max-file=N of them")
	fs.BoolVar(&f.noHealth, "no-healthcheck", false, "don't run the image's HEALTHCHECK")
	fs.StringVar(&f.healthCmd, "health-cmd", "", "`COMMAND` that says whether it works")
	fs.DurationVar(&f.healthInterval, "health-interval", 0, "time between two checks (default 30s)")
	fs.DurationVar(&f.healthTimeout, "health-timeout", 0, "time that a check may take (default 30s)")
	fs.DurationVar(&f.healthStartPeriod, "health-start-period", 0, "time after the start in which failures don't count")
	fs.DurationVar(&f.healthStartInterval, "health-start-interval", 0, "time between two checks in the start period (default 5s)")
	fs.StringVar(&f.onFailure, "health-on-failure", "none", "what to do with it when it is unhealthy: `none|kill|restart|stop`")
	fs.IntVar(&f.healthRetries, "health-retries", 0, "failures in a row that make it unhealthy (default 3)")
}

// check says what is wrong with the flags before anything is fetched.
func (f *lifeFlags) check() error {
	f.name = strings.TrimPrefix(f.name, "/") // as inspect shows it
	if f.name != "" {
		if err := supervisor.CheckName(f.name); err != nil {
			return &usageError{msg: "--name: " + err.Error()}
		}
	}
	if f.replace && f.name == "" {
		return &usageError{msg: "--replace is for a --name"}
	}
	if f.cidfile != "" {
		if _, err := os.Lstat(f.cidfile); err == nil {
			return fmt.Errorf("--cidfile: %s is there already: remove it, or name another file", f.cidfile)
		}
	}
	restart, err := parseRestart(f.restart)
	if err != nil {
		return err
	}
	if f.rm && restart.Name != supervisor.RestartNo {
		return &usageError{msg: "--rm and --restart contradict each other: give one of them"}
	}
	return nil
}

func (f *lifeFlags) writeCidfile(id string) error {
	if f.cidfile == "" {
		return nil
	}
	file, err := os.OpenFile(f.cidfile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("--cidfile: %s is there already", f.cidfile)
	}
	if err != nil {
		return fmt.Errorf("--cidfile: %w", err)
	}
	_, err = file.WriteString(id)
	return errors.Join(err, file.Close())
}

// parseRestart reads a restart policy.
func parseRestart(text string) (supervisor.Restart, error) {
	name, times, counted := strings.Cut(text, ":")
	r := supervisor.Restart{Name: name}
	bad := func(why string) (supervisor.Restart, error) {
		return r, &usageError{msg: fmt.Sprintf("--restart %q: %s", text, why), hint: "it is no, always, unless-stopped or on-failure[:TIMES]"}
	}
	switch name {
	case "":
		r.Name = supervisor.RestartNo
	case supervisor.RestartNo, supervisor.RestartAlways, supervisor.RestartUnlessStopped, supervisor.RestartOnFailure:
	default:
		return bad("no such policy")
	}
	if !counted {
		return r, nil
	}
	if name != supervisor.RestartOnFailure {
		return bad("only on-failure has a number of times")
	}
	n, err := strconv.Atoi(times)
	if err != nil || n < 0 {
		return bad("the number of times is no number")
	}
	r.Max = n
	return r, nil
}

// life fills in what the flags and the image say about a container's life.
func (f *lifeFlags) life(img image.Image, c *supervisor.Config) error {
	config := img.Config.Config
	var err error
	if c.Restart, err = parseRestart(f.restart); err != nil {
		return err
	}
	if c.StopSignal = first(f.stopSignal, config.StopSignal); c.StopSignal != "" {
		if _, err := sys.ParseSignal(c.StopSignal); err != nil {
			return &usageError{msg: "--stop-signal: " + err.Error()}
		}
	}
	if f.changed("stop-timeout") {
		c.StopTimeout = &f.stopTimeout
	}
	if c.Labels, err = f.allLabels(config.Labels); err != nil {
		return err
	}
	for _, w := range f.annotations {
		k, v, ok := strings.Cut(w, "=")
		if k == "" || !ok {
			return &usageError{msg: fmt.Sprintf("--annotation %q: want NAME=VALUE", w)}
		}
		if c.Annotations == nil {
			c.Annotations = map[string]string{}
		}
		c.Annotations[k] = v
	}
	if c.Timeout = f.timeout; f.timeout < 0 {
		return &usageError{msg: "--timeout cannot be negative"}
	}
	if err := f.log(&c.Log); err != nil {
		return err
	}
	return f.health(img, c)
}

func (f *lifeFlags) allLabels(fromImage map[string]string) (map[string]string, error) {
	labels := map[string]string{}
	for k, v := range fromImage {
		labels[k] = v
	}
	var words []string
	for _, name := range f.labelFiles {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--label-file: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				words = append(words, line)
			}
		}
	}
	return labels, addLabels(labels, append(words, f.labels...))
}

// addLabels adds what --label says: each is NAME=VALUE, or NAME for one without a value.
func addLabels(labels map[string]string, words []string) error {
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		if k == "" {
			return &usageError{msg: fmt.Sprintf("--label %q: want NAME=VALUE", w)}
		}
		labels[k] = v
	}
	return nil
}

func (f *lifeFlags) log(c *supervisor.LogConfig) error {
	switch f.logDriver {
	case "local", "json-file", "journald", "k8s-file":
	case "none":
		c.Driver = "none"
	default:
		return &usageError{msg: fmt.Sprintf("--log-driver %q is not supported: there are local and none", f.logDriver)}
	}
	for _, w := range f.logOpts {
		name, value, _ := strings.Cut(w, "=")
		var err error
		switch name {
		case "max-size":
			if value == "-1" {
				c.MaxSize = -1
			} else {
				c.MaxSize, err = units.RAMInBytes(value)
			}
			if err == nil && c.MaxSize == 0 {
				err = errors.New("it is nothing")
			}
		case "max-file":
			c.MaxFile, err = strconv.Atoi(value)
			if err == nil && c.MaxFile < 1 {
				err = errors.New("it is less than 1")
			}
		default:
			return &usageError{msg: fmt.Sprintf("--log-opt %q is not supported: there are max-size and max-file", w)}
		}
		if err != nil {
			return &usageError{msg: fmt.Sprintf("--log-opt %s: %v", w, err)}
		}
	}
	return nil
}

// health is the image's HEALTHCHECK with what the flags change of it.
func (f *lifeFlags) health(img image.Image, c *supervisor.Config) error {
	var h supervisor.Healthcheck
	if hc := img.Config.Config.Healthcheck; hc != nil {
		h = supervisor.Healthcheck{
			Test: hc.Test, Interval: hc.Interval, Timeout: hc.Timeout, StartPeriod: hc.StartPeriod, StartInterval: hc.StartInterval, Retries: hc.Retries,
		}
	}
	given := f.healthCmd != "" || f.healthInterval != 0 || f.healthTimeout != 0 || f.healthStartPeriod != 0 || f.healthStartInterval != 0 || f.healthRetries != 0
	if f.noHealth {
		if given {
			return &usageError{msg: "--no-healthcheck and --health-* contradict each other"}
		}
		h = supervisor.Healthcheck{Test: []string{"NONE"}}
	}
	if f.healthCmd != "" {
		h.Test = []string{"CMD-SHELL", f.healthCmd}
	}
	for flag, d := range map[string]struct {
		given time.Duration
		to    *time.Duration
	}{
		"interval": {f.healthInterval, &h.Interval}, "timeout": {f.healthTimeout, &h.Timeout},
		"start-period": {f.healthStartPeriod, &h.StartPeriod}, "start-interval": {f.healthStartInterval, &h.StartInterval},
	} {
		if d.given < 0 || d.given > 0 && d.given < time.Millisecond {
			return &usageError{msg: fmt.Sprintf("--health-%s cannot be negative or less than 1ms", flag)}
		}
		if d.given > 0 {
			*d.to = d.given
		}
	}
	if f.healthRetries < 0 {
		return &usageError{msg: "--health-retries cannot be negative"}
	}
	if f.healthRetries > 0 {
		h.Retries = f.healthRetries
	}
	switch h.OnFailure = supervisor.OnFailure(f.onFailure); h.OnFailure {
	case "none":
		h.OnFailure = supervisor.OnFailureNone
	case supervisor.OnFailureRestart:
		if c.Restart.Name != supervisor.RestartNo {
			return &usageError{msg: "--health-on-failure restart and --restart contradict each other: with a policy, kill has it started again"}
		}
	case supervisor.OnFailureKill, supervisor.OnFailureStop:
	default:
		return &usageError{msg: fmt.Sprintf("--health-on-failure %q: want none, kill, restart or stop", f.onFailure)}
	}
	if h.OnFailure != supervisor.OnFailureNone && !h.Checks() {
		return &usageError{msg: "--health-on-failure is for containers with a health check"}
	}
	if given || len(h.Test) > 0 {
		c.Health = &h
	}
	return nil
}
