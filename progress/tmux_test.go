// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"builder/internal/testutil"
)

const demoVariable = "BUILDER_TEST_PROGRESS_DEMO"

func TestMain(m *testing.M) {
	if os.Getenv(demoVariable) != "" {
		demo()
		return
	}
	os.Exit(m.Run())
}

// demo is a build on the terminal that goes on until it's interrupted.
func demo() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	d, err := Auto(os.Stderr, "auto")
	if err != nil {
		fmt.Println(err)
		return
	}
	send := func(v string, e Event) {
		e.Vertex = v
		d.Event(e)
	}
	send("", Event{Plan: &Plan{Vertices: 9}})
	for i := range 5 {
		v := fmt.Sprintf("[build %d/6] RUN a step with a name that is longer than half of the line", i+1)
		send(v, Event{Start: &Start{Name: v}})
		send(v, Event{Done: &Done{Cached: i < 3}})
	}
	send("r", Event{Start: &Start{Name: "[build 6/6] RUN エコー 世界 👩\u200d👩\u200d👧\u200d👦 ❤\ufe0f \x1b[2J" + strings.Repeat("漢字", 60)}})
	send("r", Event{Log: &Log{Data: fmt.Appendf(nil, "\x1b[2J\x1b[?25l\x1b[?7lpid %d\n10%%\r20%%\r\x1b[31m30%%", os.Getpid())}})
	send("p", Event{Start: &Start{Name: "pull debian:12"}})
	send("p", Event{Status: &Status{ID: "3f4ca61aafcd", Action: "downloading", Current: 12_000_000, Total: 48_600_000, Bytes: true}})
	<-ctx.Done()
	send("r", Event{Done: &Done{Err: ctx.Err()}})
	send("p", Event{Done: &Done{Err: ctx.Err()}})
	d.Close()
	fmt.Println("bye")
}

// pane is a terminal in which demo runs.
type pane struct {
	t      *testing.T
	socket string
}

func newPane(t *testing.T, env string) *pane {
	t.Helper()
	testutil.Require(t, "tmux")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &pane{t, filepath.Join(t.TempDir(), "tmux")}
	shell := fmt.Sprintf("trap : INT; env %s=1 %s %s; echo ended with $?; exec cat", demoVariable, env, self)
	p.tmux("-f", "/dev/null", "-u", "new-session", "-d", "-x", "80", "-y", "24", "sh", "-c", shell)
	t.Cleanup(func() { p.tmux("kill-server") })
	return p
}

func (p *pane) tmux(args ...string) string {
	p.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", p.socket}, args...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// until waits until the pane shows something. What has scrolled out of it
// doesn't count: tmux moves text there when it becomes narrower.
func (p *pane) until(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var got string
	for range 200 {
		if got = p.tmux("capture-pane", "-p"); re.MatchString(got) {
			return got
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.t.Fatalf("no %q in:\n%s", pattern, got)
	return ""
}

func (p *pane) inOrder() {
	p.t.Helper()
	if got := p.tmux("display-message", "-p", "#{cursor_flag}#{wrap_flag}#{cursor_x}"); got != "110\n" {
		p.t.Errorf("cursor shown, line wrap, cursor's column: %s", got)
	}
}

// shape is a screen without what differs from run to run.
func shape(s string) string {
	s = regexp.MustCompile(`\d+\.\ds`).ReplaceAllString(s, "T.Ts")
	s = regexp.MustCompile(`RUN エコー.* T.Ts`).ReplaceAllString(s, "RUN エコー T.Ts") // terminals differ in emoji
	s = regexp.MustCompile(`pid \d+`).ReplaceAllString(s, "pid N")
	return strings.TrimRight(s, "\n") + "\n"
}

func TestTmux(t *testing.T) {
	p := newPane(t, "")
	sameText(t, shape(p.until(`downloading`)), `[+] Building T.Ts (5/9)
 => CACHED [build 1/6] RUN a step with a name that is longer than half ... T.Ts
 => CACHED [build 2/6] RUN a step with a name that is longer than half ... T.Ts
 => CACHED [build 3/6] RUN a step with a name that is longer than half ... T.Ts
 => [build 4/6] RUN a step with a name that is longer than half of the ... T.Ts
 => [build 5/6] RUN a step with a name that is longer than half of the ... T.Ts
 => [build 6/6] RUN エコー T.Ts
 => => # pid N
 => => # 30%
 => pull debian:12                                                         T.Ts
 => => downloading 3f4ca61aafcd 12.0MB / 48.6MB                            T.Ts
`)
	p.tmux("resize-window", "-x", "50", "-y", "20")
	narrow := p.until(`(?m)^ => pull debian:12 {25,29}\d+\.\ds$`)
	if n := strings.Count(narrow, "[+]"); n != 1 {
		t.Errorf("%d headers after the terminal became narrower:\n%s", n, narrow)
	}
	p.tmux("resize-window", "-x", "100", "-y", "30")
	wide := p.until(`(?m)^ => pull debian:12 {70,79}\d+\.\ds$`)
	if n := strings.Count(wide, "[+]"); n != 1 || !strings.Contains(wide, "[====>") {
		t.Errorf("after the terminal became wider:\n%s", wide)
	}
	p.tmux("send-keys", "C-c")
	end := p.until(`ended with`)
	p.inOrder()
	if !strings.Contains(end, "(7/9) CANCELED") || !strings.Contains(end, "s\nbye\nended with 0\n") || strings.Count(end, "[+]") != 1 {
		t.Errorf("at the end:\n%s", end)
	}
}

func TestTmuxKilled(t *testing.T) {
	p := newPane(t, "")
	before := p.until(`pid \d+`)
	pid, err := strconv.Atoi(regexp.MustCompile(`pid (\d+)`).FindStringSubmatch(before)[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	after := p.until(`ended with 137`)
	p.inOrder()
	if !regexp.MustCompile(`48.6MB .*\n(Killed\n)?ended with`).MatchString(after) {
		t.Errorf("after being killed:\n%s", after)
	}
}

func TestTmuxColors(t *testing.T) {
	for env, want := range map[string]bool{"NO_COLOR=": true, "NO_COLOR=1": false} {
		p := newPane(t, env)
		p.until(`downloading`)
		if got := strings.Contains(p.tmux("capture-pane", "-p", "-e"), "\x1b["); got != want {
			t.Errorf("%s: colours %v", env, got)
		}
	}
}

func TestTmuxDumb(t *testing.T) {
	p := newPane(t, "TERM=dumb")
	p.until(`#7 downloading`)
	p.tmux("send-keys", "C-c")
	if got := p.until(`ended with 0`); strings.Contains(got, "[+]") || !strings.Contains(got, "#7 CANCELED") {
		t.Errorf("got:\n%s", got)
	}
}
