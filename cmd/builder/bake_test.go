// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// baked sums up what the targets' builds tell of themselves.
func (w *workbench) baked(args ...string) (sum map[string]int, r result) {
	w.t.Helper()
	r = w.run(append([]string{"--debug", "bake"}, args...)...)
	if r.code != 0 {
		w.t.Fatalf("bake %s: exit code %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	sum = map[string]int{}
	for line := range strings.Lines(r.stderr) {
		if !strings.Contains(line, `msg="build done"`) {
			continue
		}
		sum["builds"]++
		for _, m := range regexp.MustCompile(`(\w+)=(\d+)`).FindAllStringSubmatch(line, -1) {
			n, _ := strconv.Atoi(m[2])
			sum[m[1]] += n
		}
	}
	return sum, r
}

// TestBakeSharesSteps: a step that several targets have is run once, though
// they are built side by side.
func TestBakeSharesSteps(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", `FROM test/base AS base
RUN sleep 0.3; head -c 8 /dev/urandom | od -An -tx8 > /stamp
RUN cat /stamp > /copy
FROM base
ARG NAME
RUN echo $NAME > /name
`)
	w.write("docker-bake.hcl", `
group "default" { targets = ["app"] }
target "app" {
  name = "app-${n}"
  matrix = { n = ["a", "b", "c"] }
  args = { NAME = n }
  tags = ["app:${n}"]
}
`)
	sum, r := w.baked()
	if sum["builds"] != 3 || sum["steps"] != 9 || sum["cached"] != 4 {
		t.Errorf("%d builds, %d steps, %d cached; want 3, 9 and 4", sum["builds"], sum["steps"], sum["cached"])
	}
	for _, n := range []string{"a", "b", "c"} {
		if !strings.Contains(r.stderr, "[app-"+n+" ") || !strings.Contains(r.stderr, "naming to docker.io/library/app:"+n) {
			t.Errorf("target app-%s is not shown:\n%s", n, r.stderr)
		}
		if got := w.ok("run", "--rm", "app:"+n, "cat", "/name"); got != n+"\n" {
			t.Errorf("app:%s says %q", n, got)
		}
	}
	if a, b := w.ok("run", "--rm", "app:a", "cat", "/copy"), w.ok("run", "--rm", "app:b", "cat", "/copy"); a != b {
		t.Errorf("the step ran twice: %q, %q", a, b)
	}
	if again, _ := w.baked(); again["cached"] != 9 {
		t.Errorf("again: %v, want 9 cached", again)
	}
}

// TestBakeLinkedContexts: the result of a target is a base image, and a place
// to copy from, of others; it is built once and has no name.
func TestBakeLinkedContexts(t *testing.T) {
	w := newBench(t)
	w.write("docker-bake.hcl", `
target "lib" {
  dockerfile-inline = <<-EOT
    FROM test/base
    ENV FROM_LIB=yes
    RUN echo lib > /lib
  EOT
}
target "mid" {
  contexts = { base = "target:lib" }
  dockerfile-inline = "FROM base\nRUN cat /lib > /mid && test $FROM_LIB = yes\n"
}
target "app" {
  contexts = { lib = "target:lib", mid = "target:mid", "docker.io/library/busybox" = "target:lib" }
  dockerfile-inline = "FROM mid\nCOPY --from=lib /lib /from-lib\nCOPY --from=busybox /lib /from-busybox\nRUN cat /mid /from-lib /from-busybox > /all\n"
  tags = ["app"]
}
`)
	sum, _ := w.baked("app", "--metadata-file", "meta.json")
	if sum["builds"] != 3 || sum["steps"] != 5 || sum["cached"] != 0 {
		t.Errorf("%v; want 3 builds of 5 steps, none cached", sum)
	}
	if got := w.ok("run", "--rm", "app", "sh", "-c", "cat /all; echo $FROM_LIB"); got != "lib\nlib\nlib\nyes\n" {
		t.Errorf("got %q", got)
	}
	if got := w.ok("images", "-q"); strings.Count(got, "\n") != 2 {
		t.Errorf("images test/base and app are wanted alone, there are\n%s", w.ok("images"))
	}
	var meta map[string]map[string]any
	if err := json.Unmarshal([]byte(w.read("meta.json")), &meta); err != nil {
		t.Fatal(err)
	}
	if meta["app"]["image.name"] != "docker.io/library/app:latest" || meta["app"]["containerimage.config.digest"] == "" || meta["lib"] == nil {
		t.Errorf("metadata %v", meta)
	}
	if again, _ := w.baked("app"); again["cached"] != 5 {
		t.Errorf("again: %v, want 5 cached", again)
	}
}

// TestBakeSharesContext: targets that copy different files of one directory
// remember all their digests together.
func TestBakeSharesContext(t *testing.T) {
	w := newBench(t)
	for _, name := range []string{"a/1", "a/2", "a/3", "b/1", "b/2", "b/3"} {
		w.write(name, name)
	}
	w.write("docker-bake.hcl", `
target "t" {
  name = "t${n}"
  matrix = { n = ["a", "b"] }
  dockerfile-inline = "FROM scratch\nCOPY ${n} /\n"
}
`)
	settle(t, w)
	first, _ := w.baked("t")
	if first["cached"] != 0 || first["filesHashed"] < 6 {
		t.Errorf("first: %v, want nothing cached and 6 files hashed", first)
	}
	again, _ := w.baked("t")
	if again["cached"] != 2 || again["filesHashed"] != 0 {
		t.Errorf("again: %v, want 2 steps cached and no file hashed", again)
	}
}

func TestBakeOfCompose(t *testing.T) {
	w := newBench(t)
	w.write("compose.yaml", `
services:
  web:
    image: web:${TAG:-one}
    build:
      context: ./web
      args: [WHAT]
      secrets: [token]
      labels: {l: "1"}
      additional_contexts: {extra: ./extra}
    environment: {WHAT: service}
  db:
    image: untouched
secrets:
  token: {file: ./token}
`)
	w.write(".env", "TAG=two\n")
	w.write("token", "secret-value")
	w.write("extra/file", "extra\n")
	w.write("web/Dockerfile", `FROM test/base
ARG WHAT
COPY --from=extra file /file
RUN --mount=type=secret,id=token test -s /run/secrets/token && echo $WHAT > /what
`)
	r := w.run("bake", "-q")
	if r.code != 0 || !regexp.MustCompile(`^web sha256:[0-9a-f]{64}\n$`).MatchString(r.stdout) {
		t.Fatalf("exit code %d, %q\n%s", r.code, r.stdout, r.stderr)
	}
	if got := w.ok("run", "--rm", "web:two", "cat", "/what", "/file"); got != "service\nextra\n" {
		t.Errorf("got %q", got)
	}
	if c := w.configOf("web:two"); c.Config.Labels["l"] != "1" {
		t.Errorf("labels %v", c.Config.Labels)
	}
}

func TestBakeOutputs(t *testing.T) {
	w := newBench(t)
	w.write("file", "x")
	definition := `
target "files" {
  dockerfile-inline = "FROM scratch\nCOPY file /\n"
  output = ["out"]
}
target "archive" {
  dockerfile-inline = "FROM scratch\nCOPY file /\n"
  output = [{ type = "oci", dest = "image.tar" }]
}
target "loaded" {
  dockerfile-inline = "FROM scratch\nCOPY file /\n"
  tags = ["loaded"]
}
`
	cmd := w.command("bake", "-f", "-", "files", "archive", "loaded", "--load")
	cmd.Stdin = strings.NewReader(definition)
	if r := w.finish(cmd); r.code != 0 {
		t.Fatalf("exit code %d\n%s", r.code, r.stderr)
	}
	if w.read("out/file") != "x" || w.read("image.tar") == "" || !strings.Contains(w.ok("images"), "loaded") {
		t.Error("an output is missing")
	}
}

func TestBakePrintAndList(t *testing.T) {
	corpus, err := filepath.Abs("../../testdata/bake")
	if err != nil {
		t.Fatal(err)
	}
	w := &workbench{t: t, root: t.TempDir(), dir: filepath.Join(corpus, "group-of-groups", "files")}
	want, err := os.ReadFile(filepath.Join(corpus, "group-of-groups", "expect.json"))
	if err != nil {
		t.Fatal(err)
	}
	// Byte for byte: others read it.
	if diff := cmp.Diff(string(want), w.ok("bake", "--print", "all")); diff != "" {
		t.Error(diff)
	}
	w.dir = t.TempDir()
	w.write("docker-bake.hcl", `
variable "TAG" {
  default = "v1"
  description = "the tag"
}
variable "L" {
  type = list(string)
  default = ["a<b"]
}
variable "NONE" { type = string }
group "default" {
  description = "all of it"
  targets = ["b", "a"]
}
group "plain" { targets = ["a"] }
target "a" { description = "the a" }
target "b" {}
target "_hidden" {}
`)
	// Recorded from docker buildx bake.
	for list, want := range map[string]string{
		"targets":   "TARGET\tDESCRIPTION\na\tthe a\nb\t\ndefault\tall of it (a, b)\nplain\ta\n",
		"variables": "VARIABLE\tTYPE\t\tVALUE\t\tDESCRIPTION\nL\t\tlist of string\t[\"a\\u003cb\"]\t\nNONE\t\tstring\t\t<null>\t\t\nTAG\t\t\t\tv2\t\tthe tag\n",
		"type=targets,format=json": `[
  {
    "name": "a",
    "description": "the a"
  },
  {
    "name": "b"
  },
  {
    "name": "default",
    "description": "all of it (a, b)",
    "group": true
  },
  {
    "name": "plain",
    "description": "a",
    "group": true
  }
]
`,
		"type=variables,format=json": `[
  {
    "name": "L",
    "type": "list of string",
    "value": "[\"a\\u003cb\"]"
  },
  {
    "name": "NONE",
    "type": "string"
  },
  {
    "name": "TAG",
    "description": "the tag",
    "value": "v2"
  }
]
`,
	} {
		got := w.ok("bake", "--list", list, "--var", "TAG=v2")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("--list %s: (-buildx +builder)\n%s", list, diff)
		}
	}
	if got := w.ok("bake", "--print", "a"); !strings.Contains(got, `"dockerfile": "Dockerfile"`) {
		t.Error(got)
	}
	if entries, err := os.ReadDir(w.root); err != nil || len(entries) > 0 {
		t.Errorf("the state directory was made: %v %v", entries, err)
	}
}

func TestBakeCalls(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nARG X=1\nRUN true\nCMD echo\n")
	w.write("docker-bake.hcl", `
target "a" { description = "the a" }
target "b" {
  dockerfile-inline = "FROM lib AS last\nRUN true\nCMD [\"x\"]\n"
  contexts = { lib = "target:a" }
}
group "default" { targets = ["a", "b"] }
`)
	r := w.run("bake", "--check")
	if r.code != 1 || !strings.HasPrefix(r.stdout, "a\nthe a\n\nCheck complete, 1 warning has been found!\n") ||
		!strings.HasSuffix(r.stdout, "\nb\n\nCheck complete, no warnings found.\n") {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	r = w.run("bake", "--call=targets,format=json", "b")
	var got struct {
		Group  map[string]any
		Target map[string]struct {
			Build   map[string]any
			Targets struct{ Targets []struct{ Name string } }
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || r.code != 0 {
		t.Fatalf("exit code %d, %v\n%s%s", r.code, err, r.stdout, r.stderr)
	}
	if b := got.Target["b"]; len(b.Targets.Targets) != 1 || b.Targets.Targets[0].Name != "last" || b.Build["context"] != "." {
		t.Errorf("%+v", got)
	}
	if got := w.ok("images", "-q"); strings.Count(got, "\n") != 1 {
		t.Error("something was built")
	}
}

func TestBakeFailure(t *testing.T) {
	w := newBench(t)
	w.write("docker-bake.hcl", `
target "good" { dockerfile-inline = "FROM test/base\nRUN sleep 30\n" }
target "bad" { dockerfile-inline = "FROM test/base\nRUN echo oops; exit 3\n" }
target "user" {
  contexts = { bad = "target:bad" }
  dockerfile-inline = "FROM bad\nRUN true\n"
}
`)
	r := w.fails(1, []string{"target bad: ", "oops", "exit code 3", ">>> RUN echo oops"}, "bake", "good", "user")
	if strings.Contains(r.stderr, "interrupted") {
		t.Error(r.stderr)
	}
}

func TestBakeWrong(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\n")
	outside := t.TempDir()
	for _, c := range []struct {
		name, definition string
		code             int
		words, args      []string
	}{
		{"unknown target", `target "webapp" {}`, 1, []string{`there is no target "webap" (did you mean "webapp"?)`, "hint: there are: webapp"}, []string{"webap"}},
		{"syntax", "target \"a\" {\n  tags = [\n}\n", 1, []string{"docker-bake.hcl:3: invalid expression", "   2 |       tags = ["}, nil},
		{"policy", "target \"a\" {\n  policy = [\"filename=x\"]\n}\n", 1, []string{"docker-bake.hcl:2: target a: policy: filename=x: not supported", ">>>   policy"}, []string{"a"}},
		{"attest", "target \"a\" {\n  attest = [\"type=sbom\"]\n}\n", 1, []string{"docker-bake.hcl:2: target a: attest: type=sbom: not supported"}, []string{"a"}},
		{"cache-from", "target \"a\" {\n  cache-from = [\"type=ftp\"]\n}\n", 1, []string{"docker-bake.hcl:2: target a: cache-from", "not known"}, []string{"a"}},
		{"cache-to", "target \"a\" {\n  cache-to = [\"type=gha\"]\n}\n", 1, []string{"docker-bake.hcl:2: target a: cache-to", "not supported"}, []string{"a"}},
		{"inherited", "target \"base\" {\n  cache-to = [\"type=gha\"]\n}\ntarget \"a\" {\n  inherits = [\"base\"]\n}\n", 1, []string{"docker-bake.hcl:2: target a: cache-to"}, []string{"a"}},
		{"tag", "target \"a\" {\n  tags = [\"UP:1\"]\n}\n", 1, []string{"docker-bake.hcl:2: target a: tags: ", `"UP:1"`}, []string{"a"}},
		{"platform", "target \"a\" {\n  platforms = [\"x y\"]\n}\n", 1, []string{"docker-bake.hcl:2: target a: platforms: "}, []string{"a"}},
		{"output", "target \"a\" {\n  output = [\"type=nonsense\"]\n}\n", 1, []string{"docker-bake.hcl:2: target a: output: ", "nonsense"}, []string{"a"}},
		{"secret", "target \"a\" {\n  secret = [\"id=s,src=gone\"]\n}\n", 1, []string{"docker-bake.hcl:2: target a: secret: ", "gone"}, []string{"a"}},
		{"host", "target \"a\" {\n  extra-hosts = { h = \"x\" }\n}\n", 1, []string{"docker-bake.hcl:2: target a: extra-hosts: ", "no IP address"}, []string{"a"}},
		{"network", "target \"a\" {\n  network = \"net\"\n}\n", 1, []string{"docker-bake.hcl:2: target a: network: "}, []string{"a"}},
		{"shm-size", "target \"a\" {\n  shm-size = \"much\"\n}\n", 1, []string{"docker-bake.hcl:2: target a: shm-size: "}, []string{"a"}},
		{"ulimit", "target \"a\" {\n  ulimits = [\"nofile\"]\n}\n", 1, []string{"docker-bake.hcl:2: target a: ulimits: "}, []string{"a"}},
		{"call", "target \"a\" {\n  call = \"dance\"\n}\n", 1, []string{"docker-bake.hcl:2: target a: call: "}, []string{"a"}},
		{"context", "target \"a\" {\n  context = \"gone\"\n}\n", 1, []string{"target a: ", `"gone"`}, []string{"a"}},
		{"named context", "target \"a\" {\n  contexts = { x = \"gone\" }\n}\n", 1, []string{"docker-bake.hcl:2: target a: contexts: ", "gone"}, []string{"a"}},
		{"stdin context", "target \"a\" {\n  context = \"-\"\n}\n", 1, []string{"docker-bake.hcl:2: target a: context: standard input"}, []string{"a"}},
		{"stage", "target \"a\" {\n  target = \"gone\"\n}\n", 1, []string{"target a: ", "gone"}, []string{"a"}},
		{"two to stdout", "target \"a\" {\n  output = [\"-\"]\n}\ntarget \"b\" {\n  output = [\"type=tar,dest=-\"]\n}\n", 1, []string{"target b: output: standard output is taken by target a"}, []string{"a", "b"}},
		{"privileges", `target "a" { entitlements = ["security.insecure"] }`, 2, []string{"security.insecure", "--allow=security.insecure"}, []string{"a"}},
		{"host network", `target "a" { network = "host" }`, 2, []string{"--allow=network.host"}, []string{"a"}},
		{"read outside", `target "a" { context = "` + outside + `" }`, 2, []string{"--allow=fs.read=" + outside}, []string{"a"}},
		{"read outside by a link", `target "a" { contexts = { x = "link" } }`, 2, []string{"--allow=fs.read=link"}, []string{"a"}},
		{"write outside", `target "a" { output = ["type=local,dest=../gone/x"] }`, 2, []string{"--allow=fs.write=../gone/x"}, []string{"a"}},
		{"cache from outside", `target "a" { cache-from = ["type=local,src=` + outside + `"] }`, 2, []string{"--allow=fs.read=" + outside}, []string{"a"}},
		{"cache to outside", `target "a" { cache-to = ["type=local,dest=../gone/x"] }`, 2, []string{"--allow=fs.write=../gone/x"}, []string{"a"}},
		{"granted elsewhere", `target "a" { output = ["type=local,dest=` + outside + `"] }`, 2, []string{"--allow=fs.write="}, []string{"a", "--allow", "fs.read=" + outside}},
		{"unknown grant", `target "a" {}`, 2, []string{"--allow", "everything"}, []string{"a", "--allow", "everything"}},
		{"print and list", `target "a" {}`, 2, []string{"--print and --list"}, []string{"--print", "--list", "targets"}},
		{"list of what", `target "a" {}`, 2, []string{"want targets or variables"}, []string{"--list", "groups"}},
		{"list format", `target "a" {}`, 2, []string{"unknown format"}, []string{"--list", "targets,format=xml"}},
		{"sarif", `target "a" {}`, 2, []string{"sarif"}, []string{"--call=check,format=sarif"}},
		{"var", `target "a" {}`, 2, []string{"--var", "want NAME=VALUE"}, []string{"--var", "X"}},
		{"elsewhere", `target "a" {}`, 2, []string{"not supported yet", "hint: fetch it"}, []string{"https://example.test/x.git"}},
		{"no such file", `target "a" {}`, 1, []string{"read build definition", "gone.hcl"}, []string{"-f", "gone.hcl"}},
		{"linked platform", `
target "lib" {
  platforms = ["linux/amd64", "linux/s390x"]
  dockerfile-inline = "FROM scratch\nENV A=1\n"
}
target "a" {
  platforms = ["linux/arm64"]
  dockerfile-inline = "FROM lib\n"
  contexts = { lib = "target:lib" }
}
`, 1, []string{"docker-bake.hcl:9: target a: contexts: target lib is not built for linux/arm64"}, []string{"a"}},
		{"linked call", `
target "lib" {
  call = "check"
  dockerfile-inline = "FROM test/base\n"
}
target "a" {
  dockerfile-inline = "FROM lib\n"
  contexts = { lib = "target:lib" }
}
`, 1, []string{"docker-bake.hcl:8: target a: contexts: target lib is not built: it is only to check"}, []string{"a", "lib"}},
		{"sbom", `target "a" {}`, 2, []string{"--sbom", "not supported"}, []string{"a", "--sbom=true"}},
		{"agent", `target "a" { ssh = ["default"] }`, 2, []string{"--allow=ssh"}, []string{"a"}},
		{"pull", `target "a" {}`, 1, []string{"pull", "sometimes"}, []string{"a", "--pull=sometimes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			own := *w
			own.t = t
			own.write("docker-bake.hcl", c.definition)
			os.Remove(filepath.Join(w.dir, "link"))
			if err := os.Symlink(outside, filepath.Join(w.dir, "link")); err != nil {
				t.Fatal(err)
			}
			own.fails(c.code, c.words, append([]string{"bake"}, c.args...)...)
		})
	}
	os.Remove(filepath.Join(w.dir, "docker-bake.hcl"))
	w.fails(2, []string{"there is no build definition", "docker-bake.hcl"}, "bake")
	w.write("docker-bake.hcl", `target "a" { context = "`+outside+`" }`)
	if err := os.WriteFile(filepath.Join(outside, "Dockerfile"), []byte("FROM test/base\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.ok("bake", "a", "--allow", "fs.read="+outside)
	// What the command line says is allowed by being said.
	w.ok("bake", "a", "--allow", "fs.read="+outside, "--set", "a.output=type=local,dest="+filepath.Join(outside, "out"))
	if _, err := os.Stat(filepath.Join(outside, "out", "bin", "sh")); err != nil {
		t.Error(err)
	}
	cmd := w.command("bake", "a")
	cmd.Env = append(cmd.Env, "BUILDX_BAKE_ENTITLEMENTS_FS=0")
	if r := w.finish(cmd); r.code != 0 {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}
