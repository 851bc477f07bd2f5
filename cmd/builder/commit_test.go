// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCommit makes images of containers that run, are paused, have ended or were
// never started.
func TestCommit(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "runs", "-e", "A=b", "-w", "/tmp", "--user", "user", "--label", "l=m", "--expose", "80", "--stop-signal", "USR1",
		"--entrypoint", "/bin/sh", "test/base", "-c", "echo new > /tmp/new; echo ready; sleep 1000")
	waitFor(t, "the file", func() bool { return w.ok("logs", "runs") == "ready\n" })
	id := strings.TrimSpace(w.ok("commit", "-a", "me", "-m", "why", "runs", "test/made"))
	if !strings.HasPrefix(id, "sha256:") || w.field("test/made", "{{.Id}}") != id {
		t.Errorf("commit prints %q", id)
	}
	if got := w.field("runs", "{{.State.Status}}"); got != "running" {
		t.Errorf("after commit it is %s", got)
	}
	shown := "{{.Author}} {{.Config.Env}} {{.Config.WorkingDir}} {{.Config.User}} {{.Config.Labels}} {{.Config.ExposedPorts}} {{.Config.StopSignal}} {{json .Config.Entrypoint}} {{len .RootFS.Layers}}"
	if got := w.field("test/made", shown); got != `me [A=b] /tmp user map[l:m] map[80/tcp:{}] USR1 ["/bin/sh"] 2` {
		t.Errorf("the image has %s", got)
	}
	if got := w.ok("history", "--format", "{{.Comment}}", "test/made"); !strings.HasPrefix(got, "why\n") {
		t.Errorf("history begins with %q", got)
	}
	if got := w.ok("run", "--rm", "--entrypoint", "sh", "test/made", "-c", "cat /tmp/new; pwd; id -u; echo $A"); got != "new\n/tmp\n1000\nb\n" {
		t.Errorf("the image gives %q", got)
	}
	// Instructions go on top.
	w.ok("commit", "--pause=false", "-c", `CMD ["echo", "changed"]`, "-c", "ENTRYPOINT []", "--change", "ENV B=c A=", "-c", "USER root", "-c", "VOLUME /v", "-c", "LABEL x=y", "runs", "test/changed")
	if got := w.ok("run", "--rm", "test/changed"); got != "changed\n" {
		t.Errorf("the changed image gives %q", got)
	}
	if got := w.field("test/changed", "{{.Config.Env}} {{.Config.User}} {{.Config.Volumes}} {{.Config.Labels}}"); got != "[A= PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin B=c] root map[/v:{}] map[l:m x:y]" {
		t.Errorf("the changed image has %s", got)
	}
	for _, bad := range []string{"RUN true", "FROM test/base", "COPY a b", "NONSENSE x"} {
		if r := w.run("commit", "-c", bad, "runs", "test/bad"); r.code == 0 || r.stderr == "" {
			t.Errorf("commit -c %q: %+v", bad, r)
		}
	}
	w.fails(1, nil, "inspect", "--type", "image", "test/bad")
	w.ok("pause", "runs")
	w.ok("commit", "runs", "test/paused")
	if got := w.field("runs", "{{.State.Status}}"); got != "paused" {
		t.Errorf("after commit a paused one is %s", got)
	}
	w.ok("create", "--name", "made", "test/base", "true")
	w.ok("commit", "made", "test/never")
	if got := w.ok("diff", "test/never"); got != "" {
		t.Errorf("an image of one that was never started has %q", got)
	}
	w.ok("run", "--name", "ended", "test/base", "sh", "-c", "rm /etc/group; mkdir /etc/dir; echo > /etc/passwd; ln -s x /link")
	const want = "C /etc\nC /etc/passwd\nA /etc/dir\nD /etc/group\nA /link\n"
	if got := w.ok("diff", "ended"); !sameLines(got, want) {
		t.Errorf("diff of the container:\n%s", got)
	}
	anonymous := strings.TrimSpace(w.ok("commit", "-q", "ended"))
	if got := w.ok("diff", anonymous); !sameLines(got, want) {
		t.Errorf("diff of its image:\n%s", got)
	}
	if got := w.ok("diff", "--format", "json", "ended"); !strings.Contains(got, `"deleted":["/etc/group"]`) || !strings.Contains(got, `"/etc/dir"`) {
		t.Errorf("as JSON: %s", got)
	}
	w.fails(1, []string{"no such container: ghost"}, "commit", "ghost", "x")
	w.fails(1, []string{"UPPER"}, "commit", "ended", "UPPER")
}

func sameLines(a, b string) bool {
	have := map[string]int{}
	for _, l := range lines(a) {
		have[l]++
	}
	for _, l := range lines(b) {
		have[l]--
	}
	for _, n := range have {
		if n != 0 {
			return false
		}
	}
	return true
}

// TestWait waits for several containers, as they are.
func TestWait(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "--name", "ended", "test/base", "true")
	w.ok("create", "--name", "made", "test/base", "true")
	w.ok("run", "-d", "--name", "ends", "test/base", "sh", "-c", "read x < /proc/1/fd/0; sleep 0.1; exit 5")
	w.ok("run", "-d", "--name", "killed", "test/base", "sleep", "1000")
	cmd := w.command("wait", "killed", "ends", "ended")
	var out syncBuffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.ok("kill", "killed")
	if err := cmd.Wait(); err != nil || out.String() != "137\n5\n0\n" {
		t.Errorf("wait: %q (%v)", out.String(), err)
	}
	if got := w.ok("wait", "made"); got != "0\n" {
		t.Errorf("wait of one that was never started prints %q", got)
	}
	r := w.fails(1, []string{"no such container: ghost"}, "wait", "ghost", "ended")
	if r.stdout != "0\n" {
		t.Errorf("beside one that isn't there: %q", r.stdout)
	}
}

// TestEventFilters shows the events of the containers, kinds and times that are
// asked for.
func TestEventFilters(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "--name", "one", "--label", "l=m", "test/base", "true")
	time.Sleep(2 * time.Millisecond)
	between := time.Now()
	w.ok("create", "--name", "two", "test/base", "true")
	id := w.field("one", "{{.Id}}")
	stamp := fmt.Sprintf("%d.%09d", between.Unix(), between.Nanosecond())
	all := "create one, attach one, start one, die one, create two"
	image := "import test/base:latest"
	for flags, want := range map[string]string{
		"":                                  image + ", " + all,
		"--filter container=one":            "create one, attach one, start one, die one",
		"-f container=" + id[:12]:           "create one, attach one, start one, die one",
		"-f container=one -f container=two": all,
		"-f event=create":                   "create one, create two",
		"-f event=create -f event=die":      "create one, die one, create two",
		"-f event=start -f container=two":   "",
		"-f label=l":                        "create one, attach one, start one, die one",
		"-f label=l=m -f event=die":         "die one",
		"-f label=l=x":                      "",
		"-f image=test/base":                image + ", " + all,
		"-f image=test/other":               "",
		"-f type=container":                 all,
		"-f type=image":                     image,
		"-f type=image -f type=container":   image + ", " + all,
		"-f scope=swarm":                    "",
		"--since 10m":                       image + ", " + all,
		"--until 10m":                       "",
		"--since " + stamp:                  "create two",
		"--until " + stamp:                  image + ", create one, attach one, start one, die one",
	} {
		args := append([]string{"events", "--stream=false", "--format", `{{.Action}} {{.Actor.Attributes.name}}`}, strings.Fields(flags)...)
		if got := strings.Join(lines(w.ok(args...)), ", "); got != want {
			t.Errorf("events %s: %q, want %q", flags, got, want)
		}
	}
	if out := w.ok("events", "--stream=false", "--format", "json", "-f", "event=die"); !strings.Contains(out, `"exitCode":"0"`) || !strings.Contains(out, `"id":"`+id+`"`) {
		t.Errorf("as JSON: %s", out)
	}
	w.fails(2, []string{"no such filter"}, "events", "-f", "colour=red")
	w.fails(2, []string{"--since"}, "events", "--since", "tomorrow")

	// What happens while it is looked at.
	w.fails(1, []string{"Colour"}, "events", "--format", "{{.Colour}}") // and doesn't wait for an event
	cmd := w.command("events", "--format", "{{.Action}}", "-f", "container=three")
	var out syncBuffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "an event", func() bool {
		w.ok("create", "--name", "three", "test/base", "true")
		w.ok("rm", "three")
		return strings.Contains(out.String(), "create\ndestroy\n")
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
}

// TestMountPointsAreNoChange: what was made to mount a container's own files on is
// nothing that it has changed, whether it runs, has ended or nobody has cleaned up.
func TestMountPointsAreNoChange(t *testing.T) {
	w := newLifeBench(t)
	w.write("bare/Dockerfile", "FROM scratch\nCOPY --from=test/base /bin /bin\n")
	w.write("etc/Dockerfile", "FROM bare\nRUN mkdir -p /etc && echo x > /etc/x\n")
	w.write("full/Dockerfile", "FROM etc\nRUN rm -f /etc/hosts; echo 192.0.2.1 a > /h\nRUN [\"mv\", \"/h\", \"/etc/hostname\"]\n")
	for _, name := range []string{"bare", "etc", "full"} {
		w.ok("build", "-t", name, name)
		w.ok("run", "-d", "--name", name, "--network", "none", name, "sleep", "1000")
		w.ok("exec", name, "test", "-f", "/.dockerenv")
		if out := w.ok("diff", name); out != "" {
			t.Errorf("%s has changed\n%s", name, out)
		}
		w.ok("commit", name, "made")
		if out := w.ok("diff", name, "made"); out != "" {
			t.Errorf("an image of %s differs from its own in\n%s", name, out)
		}
		w.ok("exec", name, "sh", "-c", "echo x > /etc/mine; : > /etc/hosts.allow")
		want := "C /etc\nA /etc/hosts.allow\nA /etc/mine\n"
		if name == "bare" {
			want = "A /etc\nA /etc/hosts.allow\nA /etc/mine\n"
		}
		if out := w.ok("diff", name); out != want {
			t.Errorf("%s has changed\n%swant\n%s", name, out, want)
		}
	}
	w.withoutMonitor(func() { syscall.Kill(w.pid("bare"), syscall.SIGKILL) })
	w.waitField("bare", "{{.State.Status}}", "exited")
	if out := w.ok("diff", "bare"); out != "A /etc\nA /etc/hosts.allow\nA /etc/mine\n" {
		t.Errorf("that has ended without its monitor has changed\n%s", out)
	}
}
