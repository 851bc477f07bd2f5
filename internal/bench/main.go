// SPDX-License-Identifier: Apache-2.0

// Command bench measures whole commands of builder beside those of whichever
// peers are installed and working here: docker (with its daemon), buildah,
// podman, the runtimes runc and crun, and buildctl (with BUILDKIT_HOST set). Every tool does the same work
// on the same base image to the same end, a finished image in its own store;
// the tools take turns, and the medians are printed as ratios to builder's.
//
//	bench [-n RUNS] [-only ROW,…] [-tools NAME,…] [-builder PATH]
//
// It must run as root. Everything is kept in a temporary directory, except
// what peers keep in their own stores under the name bench-*.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	runs := flag.Int("n", 5, "runs of each row and tool")
	only := flag.String("only", "", "rows to run, comma-separated")
	bin := flag.String("builder", "bin/builder", "the builder to measure")
	tools := flag.String("tools", "builder,docker,podman,runc,crun,skopeo,buildah,buildctl", "tools to measure, where they work")
	files := flag.Int("files", 50000, "files of the large context")
	flag.Parse()
	l := &lab{runs: *runs, files: *files, wanted: strings.Split(*tools, ",")}
	if err := l.run(*only, *bin); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// lab is where a benchmark happens.
type lab struct {
	dir    string
	wanted []string // names of tools
	tools  []*tool
	runs   int
	files  int
	out    *tabwriter.Writer

	registry string // address, once it runs
	stop     []func()
}

func (l *lab) run(only, bin string) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l.dir, l.out = dir, tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	if err := l.prepare(bin); err != nil {
		return err
	}
	defer l.clean()
	for _, r := range rows {
		if only != "" && !slices.Contains(strings.Split(only, ","), r.name) {
			continue
		}
		if err := l.measure(r); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

// measure runs a row with every tool in turn, some times over.
func (l *lab) measure(r row) error {
	fmt.Fprintf(l.out, "%s: %s\n", r.name, r.what)
	times, cpus := map[*tool][]time.Duration{}, map[*tool][]time.Duration{}
	for i := range l.runs {
		for _, t := range l.tools {
			if r.needs(t) {
				peak, cpu, daemon = 0, 0, t.daemon
				d, err := r.once(l, t, i)
				t.peak = max(t.peak, peak)
				if errors.Is(err, errNot) {
					continue
				}
				if err != nil {
					fmt.Fprintf(os.Stderr, "bench: %s: %s: %v\n", r.name, t.name, err)
					continue
				}
				times[t], cpus[t] = append(times[t], d), append(cpus[t], cpu)
			}
		}
	}
	base := median(times[l.tools[0]])
	for _, t := range l.tools {
		if len(times[t]) == 0 {
			continue
		}
		m := median(times[t])
		fmt.Fprintf(l.out, "  %s\t%8.1f ms\t(min %.1f, max %.1f, %d runs)\tx %.1f\tcpu %.1f s\tpeak %d MB\n", t.name, ms(m),
			ms(slices.Min(times[t])), ms(slices.Max(times[t])), len(times[t]), float64(m)/float64(base), median(cpus[t]).Seconds(), t.peak>>10)
		if t.each > 0 {
			fmt.Fprintf(l.out, "  \teach %d kB\n", t.each)
		}
		t.peak, t.each = 0, 0
	}
	return l.out.Flush()
}

// peak is the largest memory of a command since it was last read, in kB; cpu is
// what all of them took of processors. daemon is the tool's, 0 for none.
var (
	peak   int64
	cpu    time.Duration
	daemon int
)

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// timed runs a command and returns how long it took. It notes the command's
// peak memory and processor time, with those of docker's daemon and what that
// has started; not of other daemons.
func timed(cmd *exec.Cmd) (time.Duration, error) {
	var before time.Duration
	if daemon != 0 {
		before, _ = daemonUse(daemon)
	}
	start := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(start)
	if daemon != 0 {
		after, most := daemonUse(daemon)
		cpu += after - before
		peak = max(peak, most)
	}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		peak = max(peak, u.Maxrss)
		cpu += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, lastLines(out))
	}
	return took, nil
}

func lastLines(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
