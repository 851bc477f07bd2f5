// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"builder/internal/testutil"
	"builder/store"
)

// du is what du says of the state directory, in bytes.
func (w *workbench) du() int64 {
	w.t.Helper()
	out, err := exec.Command("du", "-s", "--block-size=1", w.root).Output()
	if err != nil {
		w.t.Fatal(err)
	}
	word, _, _ := strings.Cut(string(out), "\t")
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// df is what df says of each type, and of "Total".
func (w *workbench) df() (bytes, count map[string]int64) {
	w.t.Helper()
	bytes, count = map[string]int64{}, map[string]int64{}
	for _, line := range lines(w.ok("df", "--format", "json")) {
		var row dfRow
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			w.t.Fatal(err)
		}
		bytes[row.Type] = w.number(row.Bytes)
		count[row.Type] = w.number(row.TotalCount)
	}
	return bytes, count
}

func (w *workbench) number(s string) int64 {
	w.t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// checkWhole holds that every blob has its digest, that every image has all its
// blobs, and that df agrees with du.
func (w *workbench) checkWhole() {
	w.t.Helper()
	blobs, err := filepath.Glob(filepath.Join(w.root, "blobs", "sha256", "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range blobs {
		data, err := os.ReadFile(name)
		if err != nil {
			w.t.Fatal(err)
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != filepath.Base(name) {
			w.t.Errorf("blob %s doesn't have its digest", name)
		}
	}
	s, err := store.Open(w.root)
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	entries, err := s.Entries()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		refs, err := s.References(e.Desc)
		if err != nil {
			w.t.Errorf("image %s: %v", e.Name, err)
		}
		for _, r := range refs {
			if !s.Has(r) {
				w.t.Errorf("image %s lacks blob %s", e.Name, r.Digest)
			}
		}
	}
	sizes, _ := w.df()
	if du := w.du(); sizes["Total"] != du {
		w.t.Errorf("df says %d bytes, du %d", sizes["Total"], du)
	}
}

const pruneDockerfile = `FROM test/base
RUN mkdir /x && dd if=/dev/zero of=/x/zeros bs=1024 count=2000
COPY file /file
RUN --mount=type=cache,target=/c cat /file >> /c/all && echo %s > /mark
`

// TestDf holds that the rows of df are all that du finds, hard links once.
func TestDf(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", fmt.Sprintf(pruneDockerfile, "one"))
	w.write("file", "one")
	w.ok("build", "-t", "app", "-t", "app:again", ".")
	w.write("file", "two")
	w.ok("build", "-t", "app", ".")
	w.fail("FROM test/base\nRUN echo x > /y && false\n")
	w.ok("run", "app", "sh", "-c", "dd if=/dev/zero of=/big bs=1024 count=500")
	big := filepath.Join(w.root, "cache", "mounts", "big")
	if err := os.WriteFile(big, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	// The same bytes under another name and in another row.
	if err := os.MkdirAll(filepath.Join(w.root, "cache", "http", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(big, filepath.Join(w.root, "cache", "http", "x", "big")); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(w.root, "tmp", "dead")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	w.checkWhole()
	sizes, count := w.df()
	// Of the temporary things two are blobs that import left.
	want := map[string]int64{"Images": 3, "Containers": 1, "Cache mounts": 2, "Contexts": 2, "Fetched": 1, "Failed steps": 1, "Temporary": 3}
	for name, n := range want {
		if count[name] != n {
			t.Errorf("%s: df counts %d, want %d", name, count[name], n)
		}
	}
	if sizes["Containers"] < 500<<10 || sizes["Cache mounts"] < 1<<20 || sizes["Fetched"] > 1<<16 || sizes["Images"] < 2000<<10 {
		t.Errorf("df says %v", sizes)
	}
	w.ok("volume", "create", "idle")
	w.ok("run", "-d", "--name", "runs", "-v", "used:/used", "app", "sleep", "1000")
	defer w.run("rm", "-f", "runs")
	for line := range strings.Lines(w.ok("df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}")) {
		// The container that ended keeps app, whose first build is without a name.
		want := map[string]string{"Images": "3 1", "Containers": "2 1", "Volumes": "2 1"}
		if name, counts, _ := strings.Cut(strings.TrimSpace(line), " "); want[name] != "" && counts != want[name] {
			t.Errorf("%s: of all are active %s, want %s", name, counts, want[name])
		}
	}
	verbose := w.ok("df", "-v")
	for _, word := range []string{"app:latest", "app:again", "COPY file /file", "RUN echo x", "left by a command that was killed"} {
		if !strings.Contains(verbose, word) {
			t.Errorf("df -v lacks %q:\n%s", word, verbose)
		}
	}
}

// TestPrune holds what each way of pruning leaves, and that a build after it is
// right.
func TestPrune(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", fmt.Sprintf(pruneDockerfile, "one"))
	w.write("file", "one")
	w.ok("build", "-t", "app", ".")
	w.write("file", "two")
	w.ok("build", "-t", "app", ".") // the first is without a name now
	w.fail("FROM test/base\nRUN echo x > /y && false\n")

	before := w.du()
	if out := w.ok("prune", "--dry-run", "--all"); w.du() != before || !strings.Contains(out, "Would reclaim: ") {
		t.Errorf("a dry run changes something, or says\n%s", out)
	}
	cmd := w.command("prune")
	cmd.Stdin = strings.NewReader("n\n")
	if r := w.finish(cmd); r.code != 1 || w.du() != before || !strings.Contains(r.stdout, "[y/N]") {
		t.Errorf("answered with n: exit code %d, %s", r.code, r.stdout)
	}

	cmd = w.command("prune")
	cmd.Stdin = strings.NewReader("y\n")
	if r := w.finish(cmd); r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	w.checkWhole()
	_, count := w.df()
	for name, n := range map[string]int64{"Images": 2, "Step cache": 3, "Cache mounts": 0, "Contexts": 0, "Failed steps": 1, "Temporary": 0} {
		if count[name] != n {
			t.Errorf("after a prune: %s: %d, want %d", name, count[name], n)
		}
	}
	if s := w.stats("-t", "app", "."); s["cached"] != s["steps"] {
		t.Errorf("what the image needs was pruned: %v", s)
	}

	w.ok("run", "app", "true") // a container keeps its image
	w.ok("prune", "--all", "--force")
	w.checkWhole()
	_, count = w.df()
	for name, n := range map[string]int64{"Images": 1, "Containers": 1, "Step cache": 3, "Failed steps": 0} {
		if count[name] != n {
			t.Errorf("after prune --all: %s: %d, want %d", name, count[name], n)
		}
	}
	if out := w.ok("run", "--rm", "app", "cat", "/file"); out != "two" {
		t.Errorf("the image of a container says %q", out)
	}
	w.ok("rm", strings.TrimSpace(w.ok("ps", "-aq")))
	w.ok("prune", "--all", "--force")
	if _, count := w.df(); count["Images"]+count["Containers"]+count["Step cache"]+count["Temporary"] != 0 {
		t.Errorf("without containers prune --all leaves %v", count)
	}
	cmd = w.command("import", "-", "test/base")
	cmd.Stdin = bytes.NewReader(baseTar(t))
	if r := w.finish(cmd); r.code != 0 {
		t.Fatal(r.stderr)
	}
	if s := w.stats("-t", "app2", "."); s["cached"] != 0 {
		t.Errorf("after prune --all steps are cached: %v", s)
	}
}

// TestPruneFetched holds that what was fetched goes, and is fetched again.
func TestPruneFetched(t *testing.T) {
	w, git, web := newBench(t), testutil.NewGitServer(t), newWebServer(t)
	git.Repository(t, "src").Commit("Dockerfile", "FROM test/base\nADD "+web.URL+"/file /file\nCOPY Dockerfile /\n")
	web.put("/file", "content")
	for range 2 {
		w.ok("build", "-t", "app", git.RepositoryURL("src"))
		if gets, _ := web.count(); gets != 1 {
			t.Errorf("%d requests for the file, want 1", gets)
		}
		if _, count := w.df(); count["Fetched"] != 3 {
			t.Errorf("df counts %d fetched things, want a file, a repository and a tree", count["Fetched"])
		}
		w.ok("prune", "-f")
		if _, count := w.df(); count["Fetched"] != 0 {
			t.Errorf("a prune leaves %d fetched things", count["Fetched"])
		}
		w.checkWhole()
	}
	if out := w.ok("run", "--rm", "app", "cat", "/file"); out != "content" {
		t.Errorf("the image says %q", out)
	}
}

// TestPruneFilters holds what filters let through.
func TestPruneFilters(t *testing.T) {
	w := newBench(t)
	for _, name := range []string{"a", "b", "c"} {
		w.write(name+"/Dockerfile", "FROM scratch\nLABEL is="+name+"\nCOPY f /f\n")
		w.write(name+"/f", name)
		w.ok("build", "-t", name, name)
	}
	w.ok("prune", "-af", "--filter", "until=1h")
	if _, count := w.df(); count["Images"] != 4 || count["Contexts"] != 3 || count["Step cache"] < 3 {
		t.Errorf("until=1h removes what is younger: %v", count)
	}
	w.ok("prune", "-af", "--filter", "label=is=a")
	w.ok("prune", "-af", "--filter", "label=is", "--filter", "label!=is=c")
	if _, count := w.df(); count["Images"] != 2 || count["Contexts"] != 3 {
		t.Errorf("after label filters: %v, want test/base and c, and no cache removed", count)
	}
	w.ok("prune", "-f", "--filter", "type=source.local")
	if _, count := w.df(); count["Contexts"] != 0 || count["Step cache"] < 3 {
		t.Errorf("after type=source.local: %v", count)
	}
	w.ok("prune", "-af", "--keep-duration", "1h", "--filter", "type=regular")
	if _, count := w.df(); count["Step cache"] < 3 {
		t.Errorf("--keep-duration removes what is younger: %v", count)
	}
	for _, args := range [][]string{{"--filter", "color=red"}, {"--filter", "until"}, {"--filter", "until=soon"}, {"--filter", "type=x"}, {"--max-used-space", "much"}, {"--nope"}, {"word"}} {
		w.fails(2, []string{"prune"}, append([]string{"prune", "-f"}, args...)...)
	}
	w.checkWhole()
}

// TestPruneSize holds that a size is come down to by what was not used for
// longest, that a hit is a use, and that the time of a use costs a change of
// the record only once an hour.
func TestPruneSize(t *testing.T) {
	w := newBench(t)
	age := map[string]time.Duration{"a": 30 * time.Hour, "b": 50 * time.Hour, "c": 40 * time.Hour}
	record := map[string]string{}
	for name := range age {
		w.write(name+"/Dockerfile", "FROM test/base\nRUN : "+name+"; dd if=/dev/zero of=/big bs=1024 count=3000\n")
		w.ok("build", "-o", "type=cacheonly", name)
	}
	records, err := filepath.Glob(filepath.Join(w.root, "cache", "steps", "*", "*.json"))
	if err != nil || len(records) != 3 {
		t.Fatal(records, err)
	}
	now := time.Now()
	for _, f := range records {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for name, d := range age {
			if strings.Contains(string(data), "RUN : "+name) {
				record[name] = f
				w.setTime(f, now.Add(-d))
			}
		}
		meta := struct{ Snapshot string }{}
		if err := json.Unmarshal(data, &meta); err != nil {
			t.Fatal(err)
		}
		w.backdate(meta.Snapshot, now.Add(-100*time.Hour))
	}
	w.stats("-o", "type=cacheonly", "b") // b is used, though it was oldest
	if used := modified(record["b"]); now.Sub(used) > time.Hour {
		t.Errorf("a hit leaves the time of last use at %v", used)
	}
	half := now.Add(-30 * time.Minute)
	w.setTime(record["b"], half)
	w.stats("-o", "type=cacheonly", "b")
	if used := modified(record["b"]); !used.Equal(half) {
		t.Errorf("a second hit within the hour changes the time of last use from %v to %v", half, used)
	}
	w.ok("prune", "-f", "--max-used", "1GB")
	w.ok("prune", "-f", "--min-free", "1kB")
	if _, count := w.df(); count["Step cache"] != 3 || count["Contexts"] != 0 && count["Contexts"] != 3 {
		t.Errorf("a prune within its limits removes something: %v", count)
	}
	w.ok("prune", "-f", "--filter", "type=regular", "--max-used", strconv.FormatInt(w.du()-(1<<20), 10))
	w.checkRecords(record, "a", "b")
	w.ok("prune", "-f", "--filter", "type=regular", "--max-used", "1", "--reserved", strconv.FormatInt(w.du()-(1<<20), 10))
	w.checkRecords(record, "b")
	w.ok("prune", "-f", "--filter", "until=24h")
	w.checkRecords(record, "b")
	w.ok("prune", "-f", "--min-free", "4000PB")
	w.checkRecords(record)
	w.checkWhole()
}

func (w *workbench) setTime(name string, at time.Time) {
	w.t.Helper()
	if err := os.Chtimes(name, at, at); err != nil {
		w.t.Fatal(err)
	}
}

// backdate makes a snapshot an old one.
func (w *workbench) backdate(id string, at time.Time) {
	w.t.Helper()
	name := filepath.Join(w.root, "snapshots", id, "meta.json")
	data, err := os.ReadFile(name)
	if err != nil {
		w.t.Fatal(err)
	}
	var meta map[string]any
	if err := json.Unmarshal(data, &meta); err != nil {
		w.t.Fatal(err)
	}
	meta["created"] = at.UTC()
	if data, err = json.Marshal(meta); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *workbench) checkRecords(records map[string]string, want ...string) {
	w.t.Helper()
	for name, file := range records {
		_, err := os.Lstat(file)
		if wanted := strings.Contains(strings.Join(want, " "), name); wanted != (err == nil) {
			w.t.Errorf("step %s: kept %t, want %t", name, err == nil, wanted)
		}
	}
}

// TestPruneInUse holds that what a running command uses stays, and works.
func TestPruneInUse(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nCOPY file /file\nRUN --mount=type=cache,id=used,target=/c touch /c/here /busy; until [ -e /c/go ]; do sleep 0.01; done; cat /c/here /file > /all\n")
	w.write("file", "content")
	cmd := w.command("build", "-t", "app", ".")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	mount := ""
	waitFor(t, "the step's start", func() bool {
		found, err := filepath.Glob(filepath.Join(w.root, "cache", "mounts", "*", "here"))
		if err != nil || len(found) == 0 {
			return false
		}
		mount = filepath.Dir(found[0])
		return true
	})
	unused := filepath.Join(w.root, "cache", "mounts", "unused")
	if err := os.Mkdir(unused, 0o700); err != nil {
		t.Fatal(err)
	}
	r := w.fails(1, []string{"another builder command", "hint: "}, "prune", "--all", "--force")
	if !strings.Contains(r.stdout, "unused") || strings.Contains(r.stdout, "test/base") {
		t.Errorf("beside a build prune says it removed\n%s", r.stdout)
	}
	if _, err := os.Lstat(unused); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a cache mount that nobody uses stays: %v", err)
	}
	if err := os.WriteFile(filepath.Join(mount, "go"), nil, 0o600); err != nil {
		t.Fatalf("the cache mount of a running step is gone: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("build beside a prune: %v\n%s", err, out.String())
	}
	if out := w.ok("run", "--rm", "app", "cat", "/all"); out != "content" {
		t.Errorf("what was built beside a prune says %q", out)
	}
	w.checkWhole()
}

// TestPruneBesideBuilds prunes all the time while other processes build.
func TestPruneBesideBuilds(t *testing.T) {
	w := newBench(t)
	w.ok("run", "test/base", "true") // its image stays
	done := make(chan struct{})
	ended := make(chan int)
	go func() {
		pruned := 0
		for {
			select {
			case <-done:
				ended <- pruned
				return
			default:
			}
			cmd := w.command("prune", "--all", "--force")
			out, err := cmd.CombinedOutput()
			switch {
			case err == nil:
				pruned++
			case !strings.Contains(string(out), "another builder command"):
				t.Errorf("prune: %v\n%s", err, out)
			}
		}
	}()
	for i := range 12 {
		w.write("Dockerfile", fmt.Sprintf(pruneDockerfile, strconv.Itoa(i%3)))
		w.write("file", strconv.Itoa(i%2))
		r := w.run("build", "-t", "app"+strconv.Itoa(i), ".")
		if r.code != 0 {
			t.Errorf("build %d beside prunes: %s", i, r.stderr)
		}
	}
	close(done)
	if n := <-ended; n == 0 {
		t.Error("no prune got its turn")
	}
	w.checkWhole()
}

// TestPruneKilled kills prunes wherever they happen to be: what is left is
// whole, an image that comes again is right on what is left of its snapshots,
// and so is a build.
func TestPruneKilled(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", fmt.Sprintf(pruneDockerfile, "one"))
	w.write("file", "file")
	w.ok("build", "-t", "app", ".")
	saved := filepath.Join(w.dir, "saved.tar")
	w.ok("save", "-o", saved, "app")
	w.write("on/Dockerfile", "FROM app\nRUN cat /file /mark > /both\nRUN cp /both /again\n")
	killed := 0
	for i := range 20 {
		w.ok("load", "-i", saved)
		w.ok("build", "-t", "on", "on")
		if out := w.ok("run", "--rm", "on", "cat", "/again"); out != "fileone\n" {
			t.Errorf("after a killed prune the image says %q", out)
		}
		cmd := w.command("prune", "--all", "--force")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(5+i) * time.Millisecond)
		cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed++
		}
		w.checkWhole()
	}
	if killed == 0 {
		t.Error("no prune was killed")
	}
	w.ok("prune", "--all", "--force")
	if _, count := w.df(); count["Temporary"]+count["Step cache"]+count["Images"] != 0 {
		t.Errorf("a prune leaves what killed ones left: %v", count)
	}
}

// TestPruneBesideRun prunes while a container runs, which keeps its files and
// nothing else.
func TestPruneBesideRun(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo kept > /kept\n")
	w.ok("build", "-t", "runs", ".")
	w.write("Dockerfile", "FROM test/base\nRUN echo gone > /gone\n")
	w.ok("build", "-t", "idle", ".")
	cmd := w.command("run", "--rm", "runs", "sh", "-c", "echo ready; read line; cat /kept; ls /gone")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args = slices.Insert(cmd.Args, 2, "-i")
	out := &syncBuffer{}
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the container's start", func() bool { return strings.Contains(out.String(), "ready") })
	w.ok("rmi", "idle")
	w.ok("prune", "--all", "--force")
	if got := w.ok("images", "-q"); len(lines(got)) != 1 || got == "" {
		t.Errorf("images are left: %q, want the one that runs", got)
	}
	w.checkWhole()
	stdin.Close()
	cmd.Wait()
	if got := out.String(); got != "ready\nkept\n" {
		t.Errorf("the container said %q", got)
	}
	w.ok("prune", "--all", "--force")
	if _, count := w.df(); count["Images"]+count["Step cache"]+count["Containers"] != 0 {
		t.Errorf("what is left: %v", count)
	}
}

// TestPruneGroups holds what docker's other commands of the name prune remove.
func TestPruneGroups(t *testing.T) {
	w := newLifeBench(t)
	w.write("Dockerfile", "FROM scratch\nCOPY f /f\n")
	for _, text := range []string{"one", "two"} {
		w.write("f", text)
		w.ok("build", "-t", "app", ".") // the first is without a name then
	}
	w.write("f", "used")
	w.ok("build", "-t", "used", "--label", "keep", ".")
	w.ok("run", "--name", "done", "--network", "none", "test/base", "true")
	w.ok("run", "--name", "kept", "--label", "keep", "--network", "none", "-v", "/anonymous", "test/base", "true")
	w.ok("run", "-d", "--name", "runs", "--network", "none", "test/base", "sleep", "1000")
	w.ok("volume", "create", "named")
	w.ok("network", "create", "free")
	lines := func(args ...string) int { return len(strings.Fields(w.ok(args...))) }
	check := func(when string, containers, images, volumes, networks int) {
		t.Helper()
		got := []int{lines("ps", "-aq"), lines("images", "-q"), lines("volume", "ls", "-q"), lines("network", "ls", "-q", "--filter", "driver=bridge")}
		if want := []int{containers, images, volumes, networks}; !slices.Equal(got, want) {
			t.Errorf("%s: containers, images, volumes and networks are %v, want %v", when, got, want)
		}
	}
	steps := func() int64 { _, count := w.df(); return count["Step cache"] }
	before := steps()
	check("at first", 3, 4, 2, 2)
	if r := w.with("n\n", "image", "prune"); r.code != 1 || !strings.Contains(r.stdout, "images without a name") {
		t.Errorf("answered with n: %+v", r)
	}
	check("after n", 3, 4, 2, 2)
	w.with("y\n", "image", "prune")
	check("after image prune", 3, 3, 2, 2)
	w.ok("image", "prune", "-af", "--filter", "label!=keep")
	check("after image prune -a with a filter", 3, 2, 2, 2)
	if now := steps(); now != before {
		t.Errorf("image prune has removed steps: %d of %d are left", now, before)
	}

	for _, group := range []string{"container", "network", "volume"} {
		if r := w.with("", group, "prune"); r.code != 1 || !strings.Contains(r.stdout, "[y/N]") || !strings.Contains(r.stderr, group+" prune: cancelled") {
			t.Errorf("%s prune without an answer: %+v", group, r)
		}
	}
	check("after no answer", 3, 2, 2, 2)
	if r := w.with("n\n", "system", "prune", "--volumes"); r.code != 1 || !strings.Contains(r.stdout, "anonymous volumes") || !strings.Contains(r.stdout, "containers that don't run") {
		t.Errorf("answered with n: %+v", r)
	}
	check("after n", 3, 2, 2, 2)
	// What docker's config file keeps.
	config := t.TempDir()
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(`{"pruneFilters": ["label!=keep", "label=none"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", config)
	for _, command := range []string{"container prune", "image prune -a", "network prune", "volume prune -a", "builder prune -a", "system prune -a --volumes"} {
		w.ok(append(strings.Fields(command), "-f")...)
	}
	check("after docker's config file asked for a label that nothing has", 3, 2, 2, 2)
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	w.ok("system", "prune", "-f", "--filter", "label=keep")
	check("after system prune with a filter", 2, 2, 2, 2)
	out := w.ok("system", "prune", "-f", "--volumes")
	check("after system prune", 1, 2, 1, 1)
	if !strings.Contains(out, "Deleted Containers:\n") || !strings.Contains(out, "Deleted Networks:\nfree\n") || !strings.Contains(out, "Deleted Volumes:\n") {
		t.Errorf("system prune says\n%s", out)
	}
	w.ok("system", "prune", "-af")
	check("after system prune -a", 1, 1, 1, 1)
	if steps() != 0 {
		t.Error("steps are left")
	}
	w.ok("exec", "runs", "true")
	w.checkWhole()
	for _, args := range [][]string{{"system", "prune", "--volumes", "--filter", "until=1h"}, {"system", "prune", "--filter", "type=image"}, {"image", "prune", "--filter", "color=red"}, {"image", "prune", "--filter", "type=exec.cachemount"}} {
		w.fails(2, []string{"prune"}, append(args, "-f")...)
	}
}
