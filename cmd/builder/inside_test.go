// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// insideDockerfile uses what works in a container without rights.
const insideDockerfile = ownersDockerfile + `USER root
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/mem echo cached >>/cache/n && cp /cache/n /mem/n && cp /mem/n /from-cache
RUN --mount=type=cache,target=/cache cat /cache/n >/again
RUN --mount=type=bind,from=test/base,source=/etc,target=/base cp /base/passwd /base-passwd
RUN <<EOT
echo script >/script
echo shown >/dev/stdout
echo shown too >/dev/stderr
EOT
RUN rm -rf /w/a /etc/group && mkdir /w/a && ln -s x /w/a/l && mv /w /moved2 && chmod 700 /moved2
RUN sleep 1234 & setsid sleep 1234 & true
FROM scratch AS second
COPY --from=0 /moved2 /moved2
COPY --from=0 /bin /bin
RUN ls -d /moved2 && rm /bin/sh
FROM test/base
COPY --from=second / /all
`

// copyOfSelf is builder, for a container to have.
func copyOfSelf(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "builder")
	self, err := os.ReadFile(program(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	return exe
}

// inside runs a command of builder in a container.
func (w *workbench) inside(exe string, flags []string, script string) result {
	args := append([]string{"run", "--rm", "--network", "none", "-v", exe + ":/builder:ro", "-v", w.dir + ":/here", "-w", "/here",
		"-e", "BUILDER_TEST_MAIN=1", "-e", "BUILDER_ROOT", "-e", "SOURCE_DATE_EPOCH", "-e", "BUILDER_PROGRESS=plain", "-e", "BUILDER_NETWORK=host"}, flags...)
	return w.run(append(args, "test/base", "sh", "-c", script)...)
}

// TestInsideContainer builds in a container with the default confinement, where
// nothing can be mounted and no namespace made, and in one where that can be but
// for a new /proc: the image is the same, byte for byte, as outside.
func TestInsideContainer(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	w := newBench(t)
	exe := copyOfSelf(t)
	w.write("Dockerfile", insideDockerfile)
	w.write("file", "data\n")
	w.ok("save", "-o", filepath.Join(w.dir, "base.tar"), "test/base")
	want := w.ok("build", "-q", "--target", "0", "--output", "type=image,rewrite-timestamp=true", ".") +
		w.ok("build", "-q", "--output", "type=image,rewrite-timestamp=true", ".")
	const script = `set -e
/builder load -q -i base.tar >/dev/null
for i in 1 2; do # the second time from the cache
	/builder build -q --target 0 --output type=image,rewrite-timestamp=true . && /builder build -q --output type=image,rewrite-timestamp=true .
done
ps | grep "[s]leep 1234" >&2 && exit 9
test -z "$(ls $BUILDER_ROOT/tmp)"
/builder df >/dev/null && /builder rmi test/base && /builder prune -af >/dev/null
find $BUILDER_ROOT/snapshots $BUILDER_ROOT/blobs -type f ! -name ".*" >&2`
	for name, flags := range map[string][]string{
		"default":                   {"-e", "BUILDER_ROOT=/state"},
		"default, on a volume":      {"-e", "BUILDER_ROOT=/state", "-v", "/state"},
		"namespaces, a masked proc": {"-e", "BUILDER_ROOT=/state", "-v", "/state", "--security-opt", "seccomp=unconfined"},
	} {
		r := w.inside(exe, flags, script)
		images, _, _ := strings.Cut(r.stdout, "Untagged")
		if r.code != 0 || images != want+want {
			t.Errorf("%s: code %d, %q, want twice %q\n%s", name, r.code, images, want, r.stderr)
		}
		if warned := strings.Contains(r.stderr, "RUN steps get no namespaces"); warned != strings.HasPrefix(name, "default") {
			t.Errorf("%s: it warns: %v", name, warned)
		}
	}
}

// TestInsideRefused asks for what can't be had in a container with the default
// confinement, and tries to get out of the root of a step.
func TestInsideRefused(t *testing.T) {
	w := newBench(t)
	exe := copyOfSelf(t)
	w.write("secret", "a secret of mine\n")
	w.ok("save", "-o", filepath.Join(w.dir, "base.tar"), "test/base")
	for dockerfile, word := range map[string]string{
		"RUN --network=none true":                         "--network=none can't be had here",
		"RUN --security=insecure true":                    "--security=insecure can't be had here",
		"RUN --mount=type=secret,id=s cat /run/secrets/s": "a secret can be a variable",
		"RUN exit 7":                "exit code 7",
		"RUN no-such":               "not found",
		"RUN [\"nope\"]":            "executable file not found in $PATH",
		"RUN kill -9 $$":            "killed by signal 9",
		"USER nobody-has\nRUN true": "nobody-has",
	} {
		w.write("Dockerfile", "FROM test/base\n"+dockerfile+"\n")
		r := w.inside(exe, []string{"-e", "BUILDER_ROOT=/state"}, "/builder load -q -i base.tar >/dev/null && /builder build --allow security.insecure --secret id=s,src=secret .")
		if r.code != 1 || !strings.Contains(r.stderr, word) {
			t.Errorf("%s: code %d, want %q in\n%s", dockerfile, r.code, word, r.stderr)
		}
	}
	// What works, and what a step reaches.
	w.write("Dockerfile", `FROM test/base
RUN --mount=type=secret,id=s,env=S test ${#S} -gt 10
RUN chroot / true 2>/dev/null && echo chroot; true
RUN for up in .. ../../../../../../.. /proc/1/root /proc/self/root; do test -e $up/here/secret && echo $up; done; true
RUN for d in 8:0 253:0 254:0 1:1; do mknod /tmp/n b ${d%:*} ${d#*:} && ( : </tmp/n ) 2>/dev/null && echo device $d; rm -f /tmp/n; done; true
RUN test -z "$(ls /proc)" && test -z "$(ls /sys)" && echo nothing
`)
	r := w.inside(exe, []string{"-e", "BUILDER_ROOT=/state"}, "/builder load -q -i base.tar >/dev/null && /builder build --secret id=s,src=secret . 2>&1 | grep -v '^#.* DONE'; /builder run --rm test/base true")
	for _, bad := range []string{" chroot\n", " ..\n", "/root\n", " device"} {
		for line := range strings.Lines(r.stdout) {
			if strings.HasSuffix(line, bad) && !strings.Contains(line, "] RUN") {
				t.Errorf("a step reaches: %s", line)
			}
		}
	}
	if !strings.Contains(r.stdout, " nothing\n") || !strings.Contains(r.stderr, "seccomp=unconfined") || r.code == 0 {
		t.Errorf("code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// TestInsideCaches has stages side by side use one cache, which can be in one place
// at a time, and steps that do to it what can't be done to a mount.
func TestInsideCaches(t *testing.T) {
	w := newBench(t)
	exe := copyOfSelf(t)
	w.ok("save", "-o", filepath.Join(w.dir, "base.tar"), "test/base")
	w.write("Dockerfile", `FROM test/base AS one
RUN --mount=type=cache,id=x,target=/c --mount=type=cache,id=y,target=/d echo 1 >>/c/n; echo 1 >>/d/n; sleep 0.2
FROM test/base AS two
RUN --mount=type=cache,id=y,target=/c --mount=type=cache,id=x,target=/d echo 2 >>/c/n; echo 2 >>/d/n; sleep 0.2
FROM test/base AS three
RUN --mount=type=cache,id=x,target=/etc echo 3 >>/etc/n; sleep 0.2
FROM test/base
COPY --from=one /bin/sh /one
COPY --from=two /bin/sh /two
COPY --from=three /bin/sh /three
RUN --mount=type=cache,id=x,target=/c --mount=type=cache,id=y,target=/d wc -l </c/n; wc -l </d/n; test -f /etc/passwd && echo all
RUN --mount=type=cache,id=x,target=/c/deep rm -rf /c || true
RUN --mount=type=cache,id=x,target=/c ls /c | wc -l
RUN --mount=type=cache,id=x,target=/c cd /c && ( while :; do touch here; done & ) ; sleep 0.1
RUN --mount=type=cache,id=x,target=/c ls /c
`)
	r := w.inside(exe, []string{"-e", "BUILDER_ROOT=/state"}, "/builder load -q -i base.tar >/dev/null && /builder build . 2>&1; find /state/cache/mounts -type f; ls /state/tmp")
	for _, line := range []string{" 3\n", " 2\n", " all\n", " 0\n", " here\n"} {
		if !strings.Contains(r.stdout, line) {
			t.Errorf("no line ends with %q", line)
		}
	}
	if r.code != 0 || !strings.HasSuffix(r.stdout, "/here\n") || t.Failed() {
		t.Errorf("code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.write("Dockerfile", "FROM test/base\nRUN --mount=type=cache,target=/a,id=x --mount=type=cache,target=/b,id=x true\n")
	r = w.inside(exe, []string{"-e", "BUILDER_ROOT=/state"}, "/builder load -q -i base.tar >/dev/null && /builder build .")
	if r.code != 1 || !strings.Contains(r.stderr, "a cache can't be in two places") {
		t.Errorf("one cache in two places: %d\n%s", r.code, r.stderr)
	}
}

// TestInsideOneForm uses a state directory where mounts can be made, and where not.
func TestInsideOneForm(t *testing.T) {
	w := newBench(t)
	exe := copyOfSelf(t)
	w.ok("save", "-o", filepath.Join(w.dir, "base.tar"), "test/base")
	w.write("Dockerfile", "FROM test/base\nRUN rm -rf /home && mkdir /home\n")
	flags := []string{"-e", "BUILDER_ROOT=/state", "-v", "state:/state"}
	if r := w.inside(exe, flags, "/builder load -q -i base.tar && /builder build -t x ."); r.code != 0 {
		t.Fatalf("code %d\n%s", r.code, r.stderr)
	}
	mounts := append(flags, "--security-opt", "seccomp=unconfined")
	if r := w.inside(exe, mounts, "/builder build -t x ."); r.code == 0 || !strings.Contains(r.stderr, "was made where nothing can be mounted") {
		t.Errorf("where mounts can be made: code %d\n%s", r.code, r.stderr)
	}
	if r := w.inside(exe, flags, "/builder rmi x test/base && /builder prune -af"); r.code != 0 {
		t.Errorf("emptied: code %d\n%s", r.code, r.stderr)
	}
	if r := w.inside(exe, mounts, "/builder load -q -i base.tar && /builder build -t x ."); r.code != 0 {
		t.Errorf("empty, where mounts can be made: code %d\n%s", r.code, r.stderr)
	}
	if r := w.inside(exe, flags, "/builder build -t x ."); r.code == 0 || !strings.Contains(r.stderr, "has snapshots to be mounted") {
		t.Errorf("where nothing can be mounted: code %d\n%s", r.code, r.stderr)
	}
}
