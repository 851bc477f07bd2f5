// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/base64"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"builder/internal/testutil"
	"builder/layer"
)

// TestRunSecrets holds where a secret is, for whom, and that nothing is left of
// it. What is wanted was seen with BuildKit of August 2026.
func TestRunSecrets(t *testing.T) {
	w := newBench(t)
	w.write("tok", "token-value-1\n")
	w.write("Dockerfile", `FROM test/base
WORKDIR /w
RUN --mount=type=secret,id=a --mount=type=secret,id=a,target=rel/x,mode=0640,uid=5,gid=6 \
    --mount=type=secret,source=a,dst=/both,env=BOTH --mount=type=secret,target=/z/e,mode=4755 \
    --mount=type=secret,id=a,env=TOK --mount=type=secret,id=none,env=NONE --mount=type=secret,id=none <<END
set -e
{
  stat -c '%n %a %u:%g %s' /run/secrets/* /w/rel/x /both /z/e
  grep -cE ' (/run/secrets/a|/w/rel/x|/both) tmpfs ro,nosuid,nodev,noexec' /proc/mounts
  grep -c '/z/e tmpfs ro,nosuid,nodev,relatime' /proc/mounts
  wc -c < /run/secrets/a
  echo "${#TOK} ${#BOTH} ${NONE-unset}"
  echo x 2>&1 > /run/secrets/a || echo read-only
} > /seen 2>&1
END
`)
	w.ok("build", "--secret", "id=a,src=tok", "--secret", "id=e,type=env,src=FROMENV", "-o", "type=tar,dest=out.tar", ".")
	seen := w.fromTar("out.tar", "seen")
	want := `/run/secrets/a 400 0:0 14
/w/rel/x 640 5:6 14
/both 400 0:0 14
/z/e 755 0:0 0
3
1
14
14 14 
`
	if !strings.HasPrefix(seen, want) || !strings.Contains(seen, "Read-only file system") {
		t.Errorf("the step sees\n%s\nwant\n%s", seen, want)
	}
	if left := w.inTar("out.tar", "run/", "w/rel/", "both", "z/"); left != nil {
		t.Errorf("left in the layer: %s", left)
	}
}

// inTar are those of the names that an archive in the working directory has.
func (w *workbench) inTar(archive string, names ...string) (found []string) {
	w.t.Helper()
	out, err := exec.Command("tar", "-tf", filepath.Join(w.dir, archive)).Output()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, entry := range strings.Fields(string(out)) {
		if slices.Contains(names, entry) {
			found = append(found, entry)
		}
	}
	return found
}

// fromTar is a file of an archive in the working directory.
func (w *workbench) fromTar(archive, name string) string {
	w.t.Helper()
	out, err := exec.Command("tar", "-xOf", filepath.Join(w.dir, archive), name).Output()
	if err != nil {
		w.t.Fatalf("%s in %s: %v", name, archive, err)
	}
	return string(out)
}

// traces are the files below dir that have a value in some form, compressed
// layers included.
func traces(t *testing.T, dir, value string) (found []string) {
	t.Helper()
	forms := [][]byte{[]byte(value), []byte(url.QueryEscape(value)), []byte(url.PathEscape(value))}
	for before := range 3 {
		padded := append(make([]byte, before), value...)
		digits := base64.RawStdEncoding.EncodeToString(padded)
		forms = append(forms, []byte(digits[(before*8+5)/6:len(padded)*8/6]))
	}
	looked := 0
	look := func(name string, r io.Reader) {
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		looked++
		for _, form := range forms {
			if bytes.Contains(data, form) {
				found = append(found, name)
				return
			}
		}
	}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, form := range forms {
			if strings.Contains(d.Name(), string(form)) {
				found = append(found, name)
			}
		}
		if !d.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		look(name, f)
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if r, kind, err := layer.Decompress(f); err == nil && kind != "" {
			defer r.Close()
			look(name+" decompressed", r)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if looked < 20 {
		t.Errorf("only %d files looked at: the test looks in the wrong place", looked)
	}
	return found
}

// TestSecretsLeaveNoTrace uses secrets and keys in every honest way, fails in
// between, and then searches the state directory and all that was said.
func TestSecretsLeaveNoTrace(t *testing.T) {
	w := newBench(t)
	const value = "s3cr3t/value+with=odd&chars"
	w.write("tok", value+"\n")
	w.write("Dockerfile", `FROM test/base AS build
RUN --mount=type=secret,id=tok --mount=type=secret,id=env,env=TOKEN cat /run/secrets/tok; echo "$TOKEN"; wc -c < /run/secrets/tok > /size
RUN --mount=type=secret,id=tok,target=/root/.netrc --mount=type=cache,target=/c wc -c /root/.netrc > /c/size
FROM test/base
COPY --from=build /size /size
ENV X=1
RUN --mount=type=secret,id=tok,env=T test "${#T}" -gt 3 && test ! -e /fail
`)
	t.Setenv("SECRET_VALUE", value)
	args := []string{"--debug", "build", "--secret", "id=tok,src=tok", "--secret", "id=env,env=SECRET_VALUE", "-t", "app"}
	said := ""
	for _, more := range [][]string{{"."}, {"--progress", "rawjson", "--no-cache", "."}, {"-o", "type=oci,dest=out.tar", "."}} {
		r := w.run(append(args, more...)...)
		if r.code != 0 {
			t.Fatalf("%s", r.stderr)
		}
		said += r.stdout + r.stderr
	}
	w.write("bad/Dockerfile", "FROM app\nRUN --mount=type=secret,id=tok,env=T echo \"[$T]\"; cp /etc/passwd /kept; false\n")
	r := w.fails(1, []string{"[***", "exit code 1", "builder debug"}, "build", "--secret", "id=tok,src=tok", "bad")
	said += r.stdout + r.stderr
	w.write("bad/Dockerfile", "FROM app\nRUN --mount=type=secret,id=tok,env=T echo \"$T\" > /stolen; false\n")
	r = w.fails(1, []string{"exit code 1"}, "build", "--secret", "id=tok,src=tok", "bad")
	if strings.Contains(r.stderr, "builder debug") {
		t.Errorf("a failed step that holds a secret is kept:\n%s", r.stderr)
	}
	said += r.stdout + r.stderr
	if n := strings.Count(said, "***"); n < 5 {
		t.Errorf("the values are blanked out %d times, want 5:\n%s", n, said)
	}
	if strings.Contains(said, value) {
		t.Errorf("the value is shown:\n%s", said)
	}
	if found := traces(t, w.root, value); len(found) > 0 {
		t.Errorf("the value is in %s", strings.Join(found, "\n"))
	}
	// The search does find: a build that is allowed to, leaks.
	w.ok("build", "--allow", "secret.leak", "--secret", "id=tok,src=tok", "-t", "leaky", "--build-arg", "X="+value, "-f", "leaky/Dockerfile", w.leaky())
	if found := traces(t, w.root, value); len(found) < 3 {
		t.Errorf("after a leak the value is found only in %q", found)
	}
	// Which is no result for a build that isn't.
	w.fails(1, []string{"Dockerfile:3", "/etc/leaked holds"}, "build", "--secret", "id=tok,src=tok", "leaky")
}

func (w *workbench) leaky() string {
	w.write("leaky/Dockerfile", "FROM test/base\nARG X\nRUN --mount=type=secret,id=tok base64 /run/secrets/tok > /etc/leaked\n")
	return "leaky"
}

// TestLeaksFail holds that a build ends at the first thing that would be kept
// with a secret in it, that the message names place, file and secret, and that
// nothing of it is kept.
func TestLeaksFail(t *testing.T) {
	w := newBench(t)
	const value = "p4ss/w0rd+value with spaces, and long enough to be broken into several lines of base64"
	w.write("tok", value+"\n")
	w.write("ctx/copied", "x "+value+" y")
	const use = "RUN --mount=type=secret,id=tok,required"
	tests := []struct {
		name       string
		dockerfile string
		args       []string
		words      []string
	}{
		{"copied", "FROM test/base\n" + use + " mkdir /d && cp /run/secrets/tok /d/netrc\n", nil, []string{"Dockerfile:2", "/d/netrc holds"}},
		{"variable", "FROM test/base\nRUN --mount=type=secret,id=tok,env=T echo \"url=https://user:$T@host\" > /cfg\n", nil, []string{"Dockerfile:2", "/cfg holds"}},
		{"base64", "FROM test/base\n" + use + " (printf 'user:'; cat /run/secrets/tok) | base64 > /auth\n", nil, []string{"Dockerfile:2", "/auth holds"}},
		{"base64 in one line", "FROM test/base\n" + use + " (printf 'u:'; cat /run/secrets/tok) | base64 -w0 > /auth\n", nil, []string{"Dockerfile:2", "/auth holds"}},
		{"hexadecimal", "FROM test/base\n" + use + " xxd -p -c 999 /run/secrets/tok > /hex\n", nil, []string{"Dockerfile:2", "/hex holds"}},
		{"later step", "FROM test/base\n" + use + " --mount=type=cache,id=leak,target=/c cp /run/secrets/tok /c/\nRUN --mount=type=cache,id=leak,target=/c cp /c/tok /out\n", nil, []string{"Dockerfile:3", "/out holds"}},
		{"stage that isn't exported", "FROM test/base AS b\n" + use + " cp /run/secrets/tok /root\nFROM test/base\nCOPY --from=b /etc/passwd /x\n", nil, []string{"Dockerfile:2", "/root holds"}},
		{"file name", "FROM test/base\n" + use + ",env=T touch \"/$(printf %s \"$T\" | tr / _ | cut -c1-3)\" && ln -s \"$T\" /link\n", nil, []string{"Dockerfile:2", "/link holds"}},
		{"context", "FROM test/base\n" + use + " true\nCOPY copied /data/\n", nil, []string{"Dockerfile:3", "/data/copied holds"}},
		{"command line", "FROM test/base\n" + use + " true\nRUN echo '" + value + "'\n", nil, []string{"Dockerfile:3", "history holds"}},
		{"ENV", "FROM test/base\nENV X=\"" + value + "\"\n" + use + " true\n", nil, []string{"Dockerfile:2", "history holds"}},
		{"build argument", "FROM test/base\nARG A\n" + use + " true\n", []string{"--build-arg", "A=" + value}, []string{"Dockerfile:2", "history holds"}},
		{"label flag", "FROM test/base\n" + use + " true\n", []string{"--label", "l=" + value}, []string{"config holds"}},
		{"no step uses it", "FROM test/base\nCOPY copied /data/\n", nil, []string{"Dockerfile:2", "/data/copied holds"}},
		{"no image", "FROM test/base\n" + use + " cp /run/secrets/tok /x\n", []string{"-o", "type=local,dest=out"}, []string{"Dockerfile:2", "/x holds"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &workbench{t: t, root: w.root, dir: w.dir}
			w.write("ctx/Dockerfile", tt.dockerfile)
			args := append([]string{"build", "--secret", "id=tok,src=tok"}, tt.args...)
			words := append(tt.words, `secret "tok"`, "hint:", "--allow secret.leak")
			r := w.fails(1, words, append(args, "ctx")...)
			if strings.Contains(r.stderr, "done") && strings.Contains(r.stderr, "naming to") {
				t.Errorf("there is an image:\n%s", r.stderr)
			}
		})
	}
	for _, name := range traces(t, w.root, value) {
		// A cache mount is where the Dockerfile itself put it.
		if !strings.Contains(name, "/cache/mounts/") {
			t.Errorf("the value is in %s", name)
		}
	}
	w.write("ctx/Dockerfile", "FROM test/base\nRUN --mount=type=secret,id=tok cp /run/secrets/tok /x\n")
	w.write("short", "seven77\n")
	r := w.run("build", "--secret", "id=tok,src=short", "ctx")
	if r.code != 0 || !strings.Contains(r.stderr, `secret "tok" is shorter than 8 bytes`) {
		t.Errorf("a short secret: exit code %d\n%s", r.code, r.stderr)
	}
}

// TestLeakFromCache holds that a result which was made before the secret was
// known is looked through, once, before an image has it.
func TestLeakFromCache(t *testing.T) {
	w := newBench(t)
	const value = "value-of-the-token"
	w.write("tok", value)
	w.write("other", "another-token")
	w.write("ctx/file", value)
	w.write("ctx/Dockerfile", "FROM test/base AS files\nCOPY file /in-stage\nFROM test/base\nCOPY file /copied\nRUN --mount=type=secret,id=tok true\n")
	w.ok("build", "ctx") // without the secret it is but a file
	for range 2 {
		w.fails(1, []string{"Dockerfile:4", "/copied holds", `secret "tok"`}, "build", "--secret", "id=tok,src=tok", "ctx")
	}
	w.ok("build", "--secret", "id=tok,src=tok", "--allow", "secret.leak", "ctx")
	// Another value is looked for anew, and then known not to be there.
	memos := func() int {
		names, err := filepath.Glob(filepath.Join(w.root, "cache/memo/*/*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := memos()
	for range 2 {
		if s := w.stats("--secret", "id=tok,src=other", "ctx"); s["cached"] != s["steps"] {
			t.Errorf("%d of %d steps cached", s["cached"], s["steps"])
		}
		if n := memos() - before; n != 2 {
			t.Errorf("%d results are known to be clean, want the two of the image", n)
		}
	}
	if found := traces(t, w.root, "another-token"); len(found) > 0 {
		t.Errorf("the value is in %v", found)
	}
}

// TestSecretKeys holds that a step is not run again for another value, and is
// for another place.
func TestSecretKeys(t *testing.T) {
	w := newBench(t)
	w.write("one", "value-one")
	w.write("two", "value-two")
	cached := func(mount, secret string) int {
		t.Helper()
		w.write("Dockerfile", "FROM test/base\nRUN --mount=type=secret,"+mount+" date > /out\n")
		return w.stats("--secret", "id=a,src="+secret, ".")["cached"]
	}
	if n := cached("id=a", "one"); n != 0 {
		t.Errorf("the first build has %d steps cached", n)
	}
	for _, tt := range []struct {
		mount, secret string
		want          int
	}{
		{"id=a", "two", 1}, {"id=b", "one", 0}, {"id=a,target=/x", "one", 0}, {"id=a,env=X", "one", 0}, {"id=a,mode=0444", "one", 0}, {"id=a,required", "one", 0}, {"id=a", "one", 1},
	} {
		if n := cached(tt.mount, tt.secret); n != tt.want {
			t.Errorf("%s from %s: %d steps cached, want %d", tt.mount, tt.secret, n, tt.want)
		}
	}
}

// hostPrograms let a RUN use the machine's own programs.
var hostPrograms = []string{"-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro"}

// TestRunAgent uses an agent's keys and a key file in a step, and sees that
// neither can be changed and that the sockets are gone afterwards.
func TestRunAgent(t *testing.T) {
	w := newBench(t)
	testutil.Require(t, "ssh-keygen", "ssh-agent", "ssh-add")
	keygen := func(name, passphrase string) {
		t.Helper()
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f", filepath.Join(w.dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	keygen("held", "")
	keygen("file", "")
	keygen("locked", "passphrase")
	socket := filepath.Join(t.TempDir(), "agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	waitFor(t, "the agent's start", func() bool { _, err := os.Stat(socket); return err == nil })
	t.Setenv("SSH_AUTH_SOCK", socket)
	if out, err := exec.Command("ssh-add", "-q", filepath.Join(w.dir, "held")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.write("Dockerfile", `FROM test/base
RUN --mount=type=ssh --mount=type=ssh,id=key,target=/s/key,mode=0666,uid=3 --mount=type=ssh,id=none <<END
{
  echo "$SSH_AUTH_SOCK"
  stat -c '%n %F %a %u:%g' /run/buildkit/* /s/key
  ssh-add -L
  SSH_AUTH_SOCK=/s/key ssh-add -L
  ssh-add -D || SSH_AUTH_SOCK=/s/key ssh-add -D || echo kept
  ssh-add -L | wc -l
} > /seen 2>&1
END
ENV SSH_AUTH_SOCK=/mine
RUN --mount=type=ssh echo "$SSH_AUTH_SOCK" > /own
`)
	args := append([]string{"build", "--ssh", "default", "--ssh", "key=file", "-o", "type=tar,dest=out.tar"}, hostPrograms...)
	w.ok(append(args, ".")...)
	seen := w.fromTar("out.tar", "seen")
	for _, want := range []string{
		"/run/buildkit/ssh_agent.0\n/run/buildkit/ssh_agent.0 socket 600 0:0\n/s/key socket 666 3:0\n",
		w.read("held.pub"), strings.TrimSuffix(w.read("file.pub"), "file\n"), "kept\n1\n",
	} {
		if !strings.Contains(seen, want) {
			t.Errorf("the step's view lacks %q:\n%s", want, seen)
		}
	}
	if own := w.fromTar("out.tar", "own"); own != "/mine\n" {
		t.Errorf("SSH_AUTH_SOCK of the image is %q in the step", own)
	}
	if left := w.inTar("out.tar", "run/", "s/"); left != nil {
		t.Errorf("left in the layer: %s", left)
	}
	for args, word := range map[string]string{
		"--ssh default=locked": "passphrase", "--ssh default=nothere": "no such file", "--ssh default=Dockerfile": "no private key",
		"--ssh default=held,file," + socket: "can't be combined", "--ssh a=held --ssh a=file": "duplicate agent ID", "--ssh default=.": "neither a socket nor a key file",
		"--ssh default=" + socket + "," + socket: "single socket", "--ssh x=" + socket + ",raw=true": "raw sockets",
	} {
		w.fails(2, []string{"--ssh", word}, append(append([]string{"build"}, strings.Fields(args)...), ".")...)
	}
	os.Unsetenv("SSH_AUTH_SOCK")
	w.fails(2, []string{"--ssh", "SSH_AUTH_SOCK is not set", "default=PATH"}, "build", "--ssh", "default", ".")
}
