// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// row is one kind of work.
type row struct {
	name string
	what string
	need need
	once func(l *lab, t *tool, i int) (time.Duration, error)
}

// need is what a tool must be able to do for a row.
type need int

const (
	builds need = iota
	runs
	pulls
	fetches
	pushes
)

func (r row) needs(t *tool) bool {
	switch r.need {
	case runs:
		return t.run != nil
	case pulls:
		return t.pull != nil
	case fetches:
		return t.fetch != nil
	case pushes:
		return t.push != nil
	}
	return t.build != nil
}

var rows = []row{
	{"rebuild20", "rebuild of 20 steps, nothing changed", builds, rebuild20},
	{"run-step", "one RUN step, overhead over the command: (11 steps - 1 step) / 10", builds, runStep},
	{"copy50k", "COPY of a large context and one RUN, cold, to a finished image", builds, copyCold},
	{"copy50k-same", "rebuild of the large context, nothing changed", builds, copySame},
	{"copy50k-one", "the same with one file changed", builds, copyOne},
	{"layer650", "a RUN that writes 650 MB, to a finished image", builds, layer650},
	{"stages4", "four independent stages of 2 s", builds, stages4},
	{"start", "run of /bin/true without a network, whole command", runs, start("none")},
	{"start-host", "the same on the machine's network", runs, start("host")},
	{"start-bridge", "the same on the default bridge, which is made where there is none", runs, start("bridge")},
	{"detached", "a container in the background, without a network, and the memory of what watches it", runs, detached},
	{"pull", "pull and unpack of an image of 1 GB from a registry on loopback", pulls, pullLarge},
	{"fetch", "the same image fetched and verified, not unpacked", fetches, fetchLarge},
	{"push", "the same image pushed to an empty registry on loopback", pushes, pushLarge},
}

// context makes a directory with a Dockerfile.
func (l *lab) context(name, dockerfile string) (string, error) {
	dir := filepath.Join(l.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644)
}

func rebuild20(l *lab, t *tool, i int) (time.Duration, error) {
	df := "FROM " + base + "\n"
	for n := range 20 {
		df += fmt.Sprintf("RUN echo %d > /f%d\n", n, n)
	}
	dir, err := l.context("rebuild20", df)
	if err != nil {
		return 0, err
	}
	if i == 0 {
		if _, err := timed(t.build(dir, "bench-rebuild20", true)); err != nil {
			return 0, err
		}
	}
	return timed(t.build(dir, "bench-rebuild20", true))
}

func runStep(l *lab, t *tool, _ int) (time.Duration, error) {
	var took [2]time.Duration
	for k, n := range []int{1, 11} {
		dir, err := l.context(fmt.Sprintf("run%d", n), "FROM "+base+"\n"+strings.Repeat("RUN true\n", n))
		if err != nil {
			return 0, err
		}
		if took[k], err = timed(t.build(dir, "bench-run", false)); err != nil {
			return 0, err
		}
	}
	return (took[1] - took[0]) / 10, nil
}

// tree makes the large context afresh, under a name that nobody has seen.
func (l *lab) tree(t *tool, i int) (string, error) {
	pattern := filepath.Join(l.dir, "tree")
	if _, err := os.Stat(pattern); err != nil {
		if err := makeTree(pattern, l.files); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(l.dir, fmt.Sprintf("tree-%s-%d", t.name, i))
	if out, err := exec.Command("cp", "-r", pattern, dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return dir, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+base+"\nCOPY . /src\nRUN true\n"), 0o644)
}

// makeTree writes files of about 2 kB, fifty to a directory.
func makeTree(dir string, files int) error {
	data := []byte(strings.Repeat("a line of text that is like others but for its end ", 40))
	for i := range files {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i/2500), fmt.Sprintf("e%d", i/50))
		if i%50 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		body := fmt.Appendf(data, "%d\n", i*7919)
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%d.txt", i)), body, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func copyCold(l *lab, t *tool, i int) (time.Duration, error) {
	dir, err := l.tree(t, i)
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	return timed(t.build(dir, "bench-copy", false))
}

// kept is a large context that a tool has built already.
func (l *lab) kept(t *tool) (string, error) {
	dir := filepath.Join(l.dir, "tree-"+t.name+"-1000")
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	dir, err := l.tree(t, 1000)
	if err != nil {
		return "", err
	}
	_, err = timed(t.build(dir, "bench-kept", true))
	return dir, err
}

func copySame(l *lab, t *tool, i int) (time.Duration, error) {
	dir, err := l.kept(t)
	if err != nil {
		return 0, err
	}
	if i == 0 { // what copy50k-one changed last
		if _, err := timed(t.build(dir, "bench-kept", true)); err != nil {
			return 0, err
		}
	}
	return timed(t.build(dir, "bench-kept", true))
}

func copyOne(l *lab, t *tool, i int) (time.Duration, error) {
	dir, err := l.kept(t)
	if err != nil {
		return 0, err
	}
	changed := fmt.Appendf(nil, "changed %d %d\n", i, time.Now().UnixNano())
	if err := os.WriteFile(filepath.Join(dir, "d0", "e0", "file1.txt"), changed, 0o644); err != nil {
		return 0, err
	}
	return timed(t.build(dir, "bench-kept", true))
}

func layer650(l *lab, t *tool, _ int) (time.Duration, error) {
	// Text that compresses about as well as a package tree does, made once
	// and copied in, so that making it is not what is measured.
	dir, err := l.context("layer650", "FROM "+base+"\nRUN for i in $(seq 650); do cat /bin/busybox | head -c 1048576; done > /big\n")
	if err != nil {
		return 0, err
	}
	return timed(t.build(dir, "bench-layer650", false))
}

func stages4(l *lab, t *tool, i int) (time.Duration, error) {
	df := ""
	for n := range 4 {
		df += fmt.Sprintf("FROM %s AS s%d\nRUN sleep 2; echo %d > /out%d\n", base, n, n, n)
	}
	df += "FROM " + base + "\n"
	for n := range 4 {
		df += fmt.Sprintf("COPY --from=s%d /out%d /\n", n, n)
	}
	dir, err := l.context("stages4", df)
	if err != nil {
		return 0, err
	}
	return timed(t.build(dir, "bench-stages4", false))
}

func start(network string) func(*lab, *tool, int) (time.Duration, error) {
	return func(_ *lab, t *tool, _ int) (time.Duration, error) {
		cmd := t.run(network, base, "/bin/true")
		if cmd == nil {
			return 0, errNot
		}
		return timed(cmd)
	}
}

// detachedAtOnce is how many containers are in the background at once.
const detachedAtOnce = 50

// detached starts containers in the background, each of which counts, and
// removes them. What processes other than theirs need more of memory than with
// the first alone is the tool's, for each further one.
func detached(_ *lab, t *tool, i int) (took time.Duration, err error) {
	command := func(args ...string) *exec.Cmd {
		cmd := t.run("none", base, "sleep", "1000")
		at := slices.Index(cmd.Args, "run")
		if len(args) > 0 {
			cmd.Args = append(cmd.Args[:at], args...)
		}
		return cmd
	}
	if !slices.Contains(command().Args, "--rm") {
		return 0, errNot // a bare runtime
	}
	remove := []string{"rm", "-f"}
	defer func() {
		if out, errRemove := command(remove...).CombinedOutput(); errRemove != nil && err == nil {
			err = fmt.Errorf("remove containers: %w\n%s", errRemove, lastLines(out))
		}
	}()
	time.Sleep(4 * time.Second) // for what watched another tool's to have ended
	var before int64
	for n := range detachedAtOnce {
		cmd, name := command(), fmt.Sprintf("bench-%d-%d", i, n)
		cmd.Args = slices.Insert(cmd.Args, slices.Index(cmd.Args, "run")+1, "-d", "--name", name)
		d, err := timed(cmd)
		if err != nil {
			return 0, err
		}
		took += d
		remove = append(remove, name)
		if n == 0 {
			before = memoryBut("sleep")
		}
	}
	t.each = max(0, memoryBut("sleep")-before) / (detachedAtOnce - 1)
	return took / detachedAtOnce, nil
}

// memoryBut is the memory of all processes that don't execute a command of that
// name, each page counted once, in kB (proc_pid_smaps(5), Pss).
func memoryBut(name string) (sum int64) {
	all, _ := filepath.Glob("/proc/[0-9]*/smaps_rollup")
	for _, file := range all {
		comm, err := os.ReadFile(filepath.Join(filepath.Dir(file), "comm"))
		if err != nil || strings.TrimSpace(string(comm)) == name {
			continue
		}
		text, _ := os.ReadFile(file)
		_, after, _ := strings.Cut(string(text), "\nPss:")
		if words := strings.Fields(after); len(words) > 0 {
			n, _ := strconv.ParseInt(words[0], 10, 64)
			sum += n
		}
	}
	return sum
}

// errNot says that a tool doesn't do such work.
var errNot = errors.New("is not for this")
