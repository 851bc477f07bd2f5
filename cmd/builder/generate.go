// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"builder/supervisor"

	"github.com/spf13/pflag"
)

// unitOptions are the flags of generate systemd.
type unitOptions struct {
	files, name                  bool
	after, wants, requires       []string
	prefix, separator            string
	restart                      string
	restartSec, startSec, stopAt int
	changed                      func(string) bool
}

func (o *unitOptions) addFlags(fs *pflag.FlagSet) {
	fs.BoolVarP(&o.files, "files", "f", false, "write the units to files here and print their names")
	fs.BoolVarP(&o.name, "name", "n", true, "use the containers' names, not their IDs")
	wordsVar(fs, &o.after, "after", "start after a `UNIT`")
	wordsVar(fs, &o.wants, "wants", "start a `UNIT` too")
	wordsVar(fs, &o.requires, "requires", "start a `UNIT` too, and stop with it")
	fs.StringVar(&o.prefix, "container-prefix", "container", "what the units' names begin with")
	fs.StringVar(&o.separator, "separator", "-", "what is between that and the container's name")
	fs.StringVar(&o.restart, "restart-policy", "on-failure", "what systemd does when a container ends: `no|on-success|on-failure|on-abnormal|on-watchdog|on-abort|always`")
	fs.IntVar(&o.restartSec, "restart-sec", 0, "`SECONDS` before it does so")
	fs.IntVar(&o.startSec, "start-timeout", 0, "`SECONDS` for the start, 0 for systemd's default")
	fs.IntVarP(&o.stopAt, "stop-timeout", "t", 10, "`SECONDS` to wait before a container is killed (default the container's, or 10)")
	fs.IntVar(&o.stopAt, "time", 10, "the same")
	_ = fs.MarkHidden("time")
	o.changed = fs.Changed
}

// runGenerate writes units: that of the whole state directory, or one for each
// container.
func runGenerate(_ context.Context, e *env, args []string) error {
	fs := flags("generate")
	var o unitOptions
	o.addFlags(fs)
	words, err := e.parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	if len(words) == 0 || words[0] != "systemd" {
		return &usageError{msg: "generate: want systemd", hint: "builder generate systemd --help"}
	}
	if !slices.Contains([]string{"no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always"}, o.restart) {
		return &usageError{msg: fmt.Sprintf("generate: --restart-policy %q: want no, on-success, on-failure, on-abnormal, on-watchdog, on-abort or always", o.restart)}
	}
	u, err := e.unitWriter()
	if err != nil {
		return err
	}
	if len(words) == 1 {
		return e.putUnit(&o, "builder.service", u.boot(&o))
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	records := supervisor.NewRecords(s)
	for _, w := range words[1:] {
		c, err := records.Find(w)
		if err != nil {
			return err
		}
		name := c.Name
		if !o.name {
			name = c.ID
		}
		if err := e.putUnit(&o, o.prefix+o.separator+name+".service", u.container(&o, &c, name)); err != nil {
			return err
		}
	}
	return nil
}

// putUnit prints a unit, or writes its file and prints the file's name.
func (e *env) putUnit(o *unitOptions, name, text string) error {
	if !o.files {
		_, err := fmt.Fprintf(e.stdout, "# %s\n%s", name, text)
		return err
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write unit: %w", err)
	}
	_, err = fmt.Fprintln(e.stdout, path)
	return err
}

// unitWriter knows what all units of a state directory have in common.
type unitWriter struct {
	command string // builder with the state directory, quoted
	root    string // the state directory
	target  string // the one that wants the unit
}

func (e *env) unitWriter() (unitWriter, error) {
	exe, err := os.Executable()
	if err != nil {
		return unitWriter{}, err
	}
	root, err := filepath.Abs(e.stateDir())
	if err != nil {
		return unitWriter{}, err
	}
	u := unitWriter{command: unitWord(exe) + " --root " + unitWord(root), root: root, target: "multi-user.target"}
	if rootless() {
		u.target = "default.target"
	}
	return u, nil
}

// unitWord quotes a word of a command line in a unit (systemd.service(5)).
func unitWord(word string) string {
	word = strings.NewReplacer("%", "%%", "$", "$$").Replace(word)
	if word != "" && !strings.ContainsAny(word, " \t\n\"'\\;") {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(word) + `"`
}

// unit is the text of one, which is wanted by the target at the machine's start.
func (u unitWriter) unit(o *unitOptions, description string, service []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[Unit]\nDescription=%s\n", description)
	list := func(key string, words []string) {
		for _, w := range words {
			fmt.Fprintf(&b, "%s=%s\n", key, w)
		}
	}
	list("Wants", append([]string{"network-online.target"}, o.wants...))
	list("After", append([]string{"network-online.target"}, append(slices.Clone(o.after), append(slices.Clone(o.wants), o.requires...)...)...))
	list("Requires", o.requires)
	fmt.Fprintf(&b, "RequiresMountsFor=%s\n\n[Service]\n", unitWord(u.root))
	for _, line := range service {
		b.WriteString(line + "\n")
	}
	// What watches over containers serves those of other units as well, and
	// ends by itself after the last one.
	fmt.Fprintf(&b, "KillMode=process\nDelegate=yes\n\n[Install]\nWantedBy=%s\n", u.target)
	return b.String()
}

// boot is the unit that starts what is to run when the machine starts.
func (u unitWriter) boot(o *unitOptions) string {
	return u.unit(o, "Containers of builder with a restart policy", []string{
		"Type=oneshot", "RemainAfterExit=yes",
		"ExecStart=" + u.command + " start --boot",
		"ExecStop=" + u.command + " stop --shutdown",
		"TimeoutStopSec=5min",
	})
}

// container is the unit of one container, which systemd supervises.
func (u unitWriter) container(o *unitOptions, c *supervisor.Container, name string) string {
	seconds := o.stopAt
	if c.StopTimeout != nil && !o.changed("stop-timeout") && !o.changed("time") {
		seconds = *c.StopTimeout
	}
	service := []string{
		"Type=exec",
		"ExecStart=" + u.command + " start --attach --sig-proxy=false " + name,
		fmt.Sprintf("ExecStop=%s stop --ignore --time %d %s", u.command, seconds, name),
		"SuccessExitStatus=143", // by the signal of stop
		"Restart=" + o.restart,
	}
	if o.restartSec > 0 {
		service = append(service, fmt.Sprintf("RestartSec=%d", o.restartSec))
	}
	if o.startSec > 0 {
		service = append(service, fmt.Sprintf("TimeoutStartSec=%d", o.startSec))
	}
	stop := "TimeoutStopSec=infinity"
	if seconds >= 0 {
		stop = fmt.Sprintf("TimeoutStopSec=%d", seconds+60)
	}
	return u.unit(o, "Container "+name, append(service, stop))
}
