// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// tools are shortcuts of the tests here.
func (w *workbench) output(name string, args ...string) string {
	w.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// importTar imports the base image under another name, as another image.
func (w *workbench) importTar(name string, flags ...string) string {
	w.t.Helper()
	cmd := w.command(append(append([]string{"import"}, flags...), "-", name)...)
	cmd.Stdin = bytes.NewReader(baseTar(w.t))
	r := w.finish(cmd)
	if r.code != 0 {
		w.t.Fatalf("import: %s", r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

func TestImages(t *testing.T) {
	w := newBench(t)
	old := w.importTar("example.com:5000/team/app:1", "--change", "LABEL kind=old team=a", "--message", "made by hand")
	newer := w.importTar("app", "--change", "LABEL kind=new", "--change", "ENV A=1 B=2")
	w.ok("tag", "app", "app:2", "other/app")

	table := lines(w.ok("images"))
	heading := regexp.MustCompile(`^REPOSITORY +TAG +IMAGE ID +CREATED +SIZE$`)
	row := regexp.MustCompile(`^app +latest +` + newer[7:19] + ` +(Less than a second|\d+ seconds?|About a minute) ago +[\d.]+[kM]B$`)
	if len(table) != 6 || !heading.MatchString(table[0]) || !slices.ContainsFunc(table, row.MatchString) {
		t.Errorf("images:\n%s", strings.Join(table, "\n"))
	}
	if got := lines(w.ok("images", "--digests"))[0]; !regexp.MustCompile(`^REPOSITORY +TAG +DIGEST +IMAGE ID`).MatchString(got) {
		t.Errorf("--digests: %s", got)
	}
	if got := w.ok("images", "-q", "--no-trunc", "app"); got != newer+"\n" {
		t.Errorf("-q --no-trunc app: %q", got)
	}
	if got := w.ok("images", "--format", "table {{.ID}}\\t{{.Tag}}", "app:2"); !regexp.MustCompile(`^IMAGE ID +TAG\n` + newer[7:19] + ` +2\n$`).MatchString(got) {
		t.Errorf("--format table: %q", got)
	}
	var one map[string]string
	if err := json.Unmarshal([]byte(w.ok("images", "--format", "json", "other/app")), &one); err != nil || one["ID"] != newer[7:19] || one["Repository"] != "other/app" {
		t.Errorf("--format json: %v %v", one, err)
	}
	for _, tt := range []struct{ filter, want string }{
		{"reference=app", "app:2 app:latest"},
		{"reference=a*:2", "app:2"},
		{"reference=*/app", "other/app:latest"},
		{"reference=example.com:5000/*/*", "example.com:5000/team/app:1"},
		{"label=kind", "app:2 app:latest example.com:5000/team/app:1 other/app:latest"},
		{"label=kind=old", "example.com:5000/team/app:1"},
		{"label=kind=none", ""},
		{"dangling=true", ""},
		{"dangling=false", "app:2 app:latest example.com:5000/team/app:1 other/app:latest test/base:latest"},
		{"before=app", "example.com:5000/team/app:1 test/base:latest"},
		{"since=" + old, "app:2 app:latest other/app:latest"},
		{"until=24h", ""},
	} {
		got := strings.Fields(w.ok("images", "--filter", tt.filter, "--format", "{{.Repository}}:{{.Tag}}"))
		slices.Sort(got)
		if strings.Join(got, " ") != tt.want {
			t.Errorf("--filter %s: %q, want %q", tt.filter, got, tt.want)
		}
	}
	w.fails(2, []string{`"x": want NAME=VALUE`}, "images", "--filter", "x")
	w.fails(2, []string{"no such filter"}, "images", "--filter", "x=y")
	w.fails(2, []string{"--format"}, "images", "--format", "{{.Nothing}}")
	w.fails(2, []string{"--format"}, "images", "--format", "{{")
	w.fails(1, []string{"nothing:latest: not found"}, "images", "--filter", "before=nothing")

	// A name that moves leaves its image without one.
	w.ok("tag", "test/base", "example.com:5000/team/app:1")
	if got := w.ok("images", "--filter", "dangling=true", "--format", "{{.Repository}} {{.Tag}} {{.ID}}"); got != "<none> <none> "+old[7:19]+"\n" {
		t.Errorf("dangling: %q", got)
	}
}

func TestInspectAndHistory(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nENV A=1\nRUN echo hello > /hello\nCMD [\"cat\", \"/hello\"]\n")
	w.ok("build", "-q", "-t", "app:1", ".")
	id := strings.TrimSpace(w.ok("images", "-q", "--no-trunc", "app:1"))

	var found []map[string]any
	if err := json.Unmarshal([]byte(w.ok("inspect", "app:1", "test/base")), &found); err != nil || len(found) != 2 {
		t.Fatalf("inspect: %v %v", found, err)
	}
	for _, name := range []string{"Id", "RepoTags", "RepoDigests", "Comment", "Created", "Author", "Architecture", "Os", "Size", "RootFS", "Metadata", "Config"} {
		if _, ok := found[0][name]; !ok {
			t.Errorf("inspect lacks %s", name)
		}
	}
	for _, tt := range []struct{ format, want string }{
		{"{{.ID}}", id},
		{"{{.Os}}/{{.Architecture}}", "linux/" + runtime.GOARCH},
		{"{{json .RepoTags}}", `["app:1"]`},
		{"{{join .Config.Cmd \",\"}}", "cat,/hello"},
		{"{{len .RootFS.Layers}}", "2"},
		{"{{index .Config.Env 1}}", "A=1"},
	} {
		got := strings.TrimSpace(w.ok("inspect", "--format", tt.format, id[7:19]))
		if tt.format == "{{index .Config.Env 1}}" {
			got = w.ok("inspect", "-f", "{{.Config.Env}}", "app:1")
			if !strings.Contains(got, "A=1") {
				t.Errorf("Env: %s", got)
			}
			continue
		}
		if got != tt.want {
			t.Errorf("inspect --format %q: %q, want %q", tt.format, got, tt.want)
		}
	}
	r := w.fails(1, []string{"no such container, image, network or volume: nothing"}, "inspect", "nothing")
	if r.stdout != "[]\n" {
		t.Errorf("inspect of nothing prints %q", r.stdout)
	}
	w.fails(2, []string{"--type"}, "inspect", "--type", "box", "app:1")

	rows := lines(w.ok("history", "--no-trunc", "--format", "{{.ID}} {{.CreatedBy}}", "app:1"))
	if !strings.HasPrefix(rows[0], id+" CMD [") || !strings.Contains(rows[1], "<missing> RUN /bin/sh -c echo hello") {
		t.Errorf("history:\n%s", strings.Join(rows, "\n"))
	}
	if got := lines(w.ok("history", "app:1"))[0]; !regexp.MustCompile(`^IMAGE +CREATED +CREATED BY +SIZE +COMMENT$`).MatchString(got) {
		t.Errorf("history's heading: %s", got)
	}
	if got := lines(w.ok("history", "-q", "app:1")); got[0] != id[7:19] || got[1] != "<missing>" {
		t.Errorf("history -q: %q", got)
	}
	if got := lines(w.ok("history", "--human=false", "app:1"))[0]; !strings.Contains(got, "CREATED AT") {
		t.Errorf("history --human=false: %s", got)
	}
	w.fails(1, []string{"not found"}, "history", "nothing")
}

func TestTagAndRmi(t *testing.T) {
	w := newBench(t)
	id := w.importTar("a", "--change", "LABEL x=1")
	w.ok("tag", id[7:20], "b", "c:1", "example.com/d")
	w.fails(1, []string{"repository names are lower case"}, "tag", "a", "A")
	w.fails(1, []string{"has a digest"}, "tag", "a", "a@"+id)
	w.fails(1, []string{"nothing:latest: not found"}, "tag", "nothing", "b")
	w.fails(2, []string{"usage: builder tag"}, "tag", "a")

	if got := w.ok("rmi", "b"); got != "Untagged: b:latest\n" {
		t.Errorf("rmi b: %q", got)
	}
	w.fails(1, []string{"a:latest, c:1, example.com/d:latest", "--force"}, "rmi", id)
	w.fails(1, []string{"nothing:latest: not found"}, "rmi", "nothing")
	w.ok("rmi", "--force", "nothing")
	r := w.run("rmi", "nothing", "c:1")
	if r.code != 1 || r.stdout != "Untagged: c:1\n" {
		t.Errorf("rmi of one that is there: %+v", r)
	}
	if got := lines(w.ok("rmi", "-f", id[:19])); len(got) != 3 || got[2] != "Deleted: "+id {
		t.Errorf("rmi by ID: %q", got)
	}
	if blob := filepath.Join(w.root, "blobs", "sha256", id[7:]); exists(blob) {
		t.Errorf("%s is left", blob)
	}
	if got := w.ok("images", "--format", "{{.Repository}}"); got != "test/base\n" {
		t.Errorf("images left: %q", got)
	}

	// What a container came from stays until that is gone.
	w.ok("run", "--name", "ended", "test/base", "true")
	w.fails(1, []string{"container ended", "--force"}, "rmi", "test/base")
	w.ok("tag", "test/base", "second")
	if got := w.ok("rmi", "second"); got != "Untagged: second:latest\n" {
		t.Errorf("rmi second: %q", got)
	}
	w.ok("rm", "ended")
	if got := w.ok("rmi", "test/base"); !strings.HasPrefix(got, "Untagged: test/base:latest\nDeleted: sha256:") {
		t.Errorf("rmi test/base: %q", got)
	}
	if left, err := os.ReadDir(filepath.Join(w.root, "blobs", "sha256")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestSaveAndLoad(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo hello > /hello\nCMD [\"cat\", \"/hello\"]\n")
	w.ok("build", "-q", "-t", "app:1", ".")
	w.ok("tag", "app:1", "app:2")
	id := strings.TrimSpace(w.ok("images", "-q", "--no-trunc", "app:1"))
	for _, format := range []string{"", "oci-archive", "docker-archive", "oci-dir"} {
		t.Run("format "+format, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "saved")
			args := []string{"save", "-o", file, "app:1", "app:2"}
			if format != "" {
				args = append(args, "--format", format)
			}
			w.ok(args...)
			other := &workbench{t: t, root: t.TempDir(), dir: w.dir}
			if got := other.ok("load", "-q", "-i", file); got != "Loaded image: app:1\nLoaded image: app:2\n" {
				t.Errorf("load prints %q", got)
			}
			if got := other.ok("images", "-q", "--no-trunc", "app:2"); got != id+"\n" {
				t.Errorf("ID %q, want %q", got, id)
			}
			if got := other.ok("run", "--rm", "app:1"); got != "hello\n" {
				t.Errorf("run prints %q", got)
			}
			if format == "oci-dir" {
				return
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			byStdin := other.command("load")
			byStdin.Stdin = bytes.NewReader(data)
			if r := other.finish(byStdin); r.code != 0 || !strings.HasPrefix(r.stdout, "Loaded image: app:1\n") {
				t.Errorf("load from standard input: %+v", r)
			}
			byStdout := w.ok(append([]string{"save", "app:1", "app:2"}, args[5:]...)...)
			if byStdout != string(data) {
				t.Errorf("standard output and file differ")
			}
		})
	}
	for name, magic := range map[string]string{"gzip": "\x1f\x8b", "zstd": "\x28\xb5\x2f\xfd"} {
		file := filepath.Join(t.TempDir(), "saved")
		w.ok("save", "-o", file, "--compression", name, "--format", "docker-archive", "app:1")
		if data, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(data), magic) {
			t.Errorf("--compression %s: %v", name, err)
		}
		other := &workbench{t: t, root: t.TempDir(), dir: w.dir}
		other.ok("load", "-q", "-i", file)
		if got := other.ok("images", "-q", "--no-trunc", "app:1"); got != id+"\n" {
			t.Errorf("--compression %s: ID %q, want %q", name, got, id)
		}
		w.fails(1, []string{"nothing:latest: not found"}, "save", "-o", w.dir+"/x", "--compression", name, "nothing")
	}
	w.fails(2, []string{"--compression \"xz\""}, "save", "--compression", "xz", "app:1")
	w.fails(2, []string{"not compressed"}, "save", "--compression", "gzip", "--format", "oci-dir", "-o", w.dir+"/x", "app:1")
	whole := filepath.Join(t.TempDir(), "whole")
	w.ok("save", "-o", whole, "app")
	if got := (&workbench{t: t, root: t.TempDir(), dir: w.dir}).ok("load", "-q", "-i", whole); got != "Loaded image: app:1\nLoaded image: app:2\n" {
		t.Errorf("of a repository there is %q", got)
	}
	byID := w.ok("save", id[7:20])
	other := &workbench{t: t, root: t.TempDir(), dir: w.dir}
	cmd := other.command("load")
	cmd.Stdin = strings.NewReader(byID)
	if r := other.finish(cmd); r.stdout != "Loaded image ID: "+id+"\n" {
		t.Errorf("load of an image without name: %+v", r)
	}
	w.fails(2, []string{"--format"}, "save", "--format", "x", "app:1")
	w.fails(2, []string{"--output"}, "save", "--format", "oci-dir", "app:1")
	w.fails(1, []string{"nothing:latest: not found"}, "save", "-o", w.dir+"/x", "nothing")
	if exists(w.dir + "/x") {
		t.Error("a failed save leaves its file")
	}
	w.fails(1, []string{"no such file"}, "load", "-i", w.dir+"/none.tar")
	w.write("bad.tar", strings.Repeat("no tar at all", 100))
	w.fails(1, []string{"invalid archive: it is no tar"}, "load", "-i", w.dir+"/bad.tar")
}

func TestSkopeoReadsSaved(t *testing.T) {
	testutil.Require(t, "skopeo")
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo hello > /hello\n")
	w.ok("build", "-q", "-t", "app:1", ".")
	w.ok("save", "-o", "app.tar", "app:1")
	for _, transport := range []string{"oci-archive", "docker-archive"} {
		w.output("skopeo", "--insecure-policy", "copy", "-q", transport+":"+w.dir+"/app.tar", "dir:"+t.TempDir())
	}
	// The state directory is an image layout itself.
	w.output("skopeo", "--insecure-policy", "copy", "-q", "oci:"+w.root+":docker.io/library/app:1", "dir:"+t.TempDir())
}

func TestPull(t *testing.T) {
	testutil.Require(t, "docker-registry", "skopeo")
	host := startRegistry(t)
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo hello > /hello\nCMD [\"cat\", \"/hello\"]\n")
	w.ok("build", "-q", "-t", "app:1", ".")
	w.ok("save", "-o", "app.tar", "app:1")
	name := host + "/team/app:1"
	w.output("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "--format", "v2s2", "oci-archive:"+w.dir+"/app.tar", "docker://"+name)

	other := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	first := other.ok("pull", name)
	want := regexp.MustCompile(`^Digest: (sha256:[0-9a-f]{64})\nStatus: Downloaded newer image for ` + regexp.QuoteMeta(name) + `\n` + regexp.QuoteMeta(name) + `\n$`)
	m := want.FindStringSubmatch(first)
	if m == nil {
		t.Fatalf("pull prints %q", first)
	}
	if got := other.ok("pull", name); !strings.Contains(got, "Status: Image is up to date for "+name) {
		t.Errorf("second pull prints %q", got)
	}
	if got := other.ok("pull", "-q", host+"/team/app@"+m[1]); got != host+"/team/app@"+m[1]+"\n" {
		t.Errorf("pull -q by digest prints %q", got)
	}
	if got := other.ok("run", "--rm", name); got != "hello\n" {
		t.Errorf("run prints %q", got)
	}
	if got := other.ok("inspect", "-f", "{{json .RepoDigests}}", name); !strings.Contains(got, host+"/team/app@"+m[1]) {
		t.Errorf("RepoDigests %s", got)
	}
	other.write("Dockerfile", "FROM "+name+"\nRUN cat /hello\n")
	other.ok("build", "--pull", "-q", ".")
	r := other.run("pull", "--platform", "linux/s390x", name)
	if r.code != 0 || !strings.Contains(r.stderr, "not for linux/s390x") {
		t.Errorf("pull for another platform: %+v", r)
	}
	other.fails(1, []string{"not found at " + host, "manifest unknown"}, "pull", host+"/team/app:2")
	other.fails(1, []string{"connection refused"}, "pull", "127.0.0.1:1/x")
	other.fails(1, []string{"invalid image reference"}, "pull", "UPPER")
	other.fails(2, []string{"--platform"}, "pull", "--platform", "a/b/c/d", name)
}

func TestPush(t *testing.T) {
	testutil.Require(t, "docker-registry", "skopeo")
	host := startRegistry(t)
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo hello > /hello\nCMD [\"cat\", \"/hello\"]\n")
	name := host + "/team/app:1"
	w.ok("build", "-q", "-t", name, ".")
	m := regexp.MustCompile(`^Digest: (sha256:[0-9a-f]{64})\n` + regexp.QuoteMeta(name) + `\n$`).FindStringSubmatch(w.ok("push", name))
	if m == nil {
		t.Fatal("push doesn't print digest and name")
	}
	if got := w.ok("push", "-q", name); got != name+"\n" {
		t.Errorf("push -q prints %q", got)
	}
	w.output("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "docker://"+host+"/team/app@"+m[1], "dir:"+t.TempDir())
	other := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	other.ok("pull", name)
	if got := other.ok("run", "--rm", name); got != "hello\n" {
		t.Errorf("run prints %q", got)
	}
	w.fails(1, []string{"nothing:latest: not found"}, "push", "nothing")
	// One platform of several.
	arm := w.importTar("arm", "--platform", "linux/arm64")
	w.ok("manifest", "create", host+"/several:1", name, arm)
	if got := w.ok("push", "--platform", "linux/arm64", host+"/several:1"); !strings.HasPrefix(got, "Digest: "+w.digestOf("arm")+"\n") {
		t.Errorf("push --platform says %q", got)
	}
	if got := w.output("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+host+"/several:1"); !strings.Contains(got, `"layers"`) {
		t.Errorf("pushed for one platform is %s", got)
	}
	w.fails(1, []string{"linux/s390x"}, "push", "--platform", "linux/s390x", host+"/several:1")
	w.ok("tag", name, "127.0.0.1:1/x")
	w.fails(1, []string{"push 127.0.0.1:1/x:latest", "connection refused"}, "push", "127.0.0.1:1/x")
}

func TestImport(t *testing.T) {
	w := newBench(t)
	w.write("base.tar", string(baseTar(t)))
	a := w.importTar("a", "--message", "by hand", "--platform", "linux/arm64")
	if got := w.ok("inspect", "-f", "{{.Comment}} {{.Os}}/{{.Architecture}}", "a"); got != "by hand linux/arm64\n" {
		t.Errorf("inspect: %q", got)
	}
	b := strings.TrimSpace(w.ok("import", "--change", `ENTRYPOINT ["/bin/echo"]`, "--change", `CMD ["x", "a b"]`, "--change", "WORKDIR /tmp", "--change", "ENV A=1 B=\"2 3\"", "base.tar", "b:1"))
	if a == b {
		t.Error("same image of different input")
	}
	if got := w.ok("inspect", "-f", "{{json .Config}}", "b:1"); got != `{"Env":["A=1","B=2 3"],"Entrypoint":["/bin/echo"],"Cmd":["x","a b"],"WorkingDir":"/tmp"}`+"\n" {
		t.Errorf("config %s", got)
	}
	if got := w.ok("run", "--rm", "b:1"); got != "x a b\n" {
		t.Errorf("run prints %q", got)
	}
	w.fails(2, []string{"--change can't be RUN"}, "import", "-c", "RUN x", "base.tar")
	w.fails(2, []string{"--change can't be FROM"}, "import", "-c", "FROM x", "base.tar")
	w.fails(1, []string{"unknown instruction"}, "import", "-c", "FOO x", "base.tar")
	w.fails(2, []string{"is a directory", "tar -C"}, "import", ".")
	w.fails(2, []string{"can't be imported", "curl"}, "import", "https://example.com/x.tar")
	w.fails(1, []string{"no such file"}, "import", "none.tar")
	w.write("bad.tar", strings.Repeat("x", 4000))
	w.fails(1, []string{"no tar"}, "import", "bad.tar")
}

func TestVersion(t *testing.T) {
	w := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	if got := w.ok("version"); !strings.Contains(got, runtime.Version()) || !strings.Contains(got, runtime.GOOS+"/"+runtime.GOARCH) {
		t.Errorf("version prints %q", got)
	}
	if got := w.ok("version", "--format", "{{.Os}} {{.GoVersion}}"); got != runtime.GOOS+" "+runtime.Version()+"\n" {
		t.Errorf("--format: %q", got)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(w.ok("version", "-f", "json")), &v); err != nil || v["Arch"] != runtime.GOARCH {
		t.Errorf("-f json: %v %v", v, err)
	}
	if exists(filepath.Join(w.root, "version")) {
		t.Error("version makes a state directory")
	}
}

// TestRmiOfRunning takes the name of an image away on which a container runs.
func TestRmiOfRunning(t *testing.T) {
	w := newLifeBench(t)
	w.ok("tag", "test/base", "app")
	w.ok("run", "-d", "--name", "cc", "app", "sleep", "1000")
	id := w.field("app", "{{.Id}}")
	w.ok("rmi", "app") // it has another name
	w.fails(1, []string{"container cc", "runs on it"}, "rmi", "test/base")
	w.fails(1, []string{"container cc", "runs on it"}, "rmi", "-f", id)
	if out := w.ok("rmi", "-f", "test/base"); out != "Untagged: test/base:latest\n" {
		t.Errorf("it says %q", out)
	}
	if out := w.ok("images", "--no-trunc", "--format", "{{.Repository}} {{.ID}}"); out != "<none> "+id+"\n" {
		t.Errorf("then there are %q", out)
	}
	w.ok("exec", "cc", "true")
	w.ok("restart", "-t", "0", "cc")
	w.ok("rm", "-f", "cc")
	w.ok("rmi", id)
	w.checkWhole()
}
