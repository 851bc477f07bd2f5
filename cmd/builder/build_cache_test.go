// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// twin is a second machine: another state directory with the same base image,
// and the same files to build from.
func (w *workbench) twin() *workbench {
	w.t.Helper()
	other := &workbench{t: w.t, root: w.t.TempDir(), dir: w.dir}
	archive := filepath.Join(w.t.TempDir(), "base.tar")
	w.ok("save", "-o", archive, "test/base")
	other.ok("load", "-q", "-i", archive)
	return other
}

// manySteps is a Dockerfile of 20 steps in two stages, of which the image has
// the layers of 12.
func manySteps() string {
	var b strings.Builder
	b.WriteString("FROM test/base AS tools\n")
	for i := range 8 {
		fmt.Fprintf(&b, "RUN head -c 20000 /dev/urandom > /tool%d\n", i)
	}
	b.WriteString("FROM test/base\nWORKDIR /app\nCOPY src .\nCOPY --from=tools /tool3 /usr/bin/\n")
	for i := range 8 {
		fmt.Fprintf(&b, "RUN head -c 10000 /dev/urandom > out%d\n", i)
	}
	b.WriteString("RUN --mount=from=tools,target=/t cp /t/tool5 /five\nENV A=b\nCMD [\"cat\", \"/five\"]\n")
	return b.String()
}

// TestCacheTravels builds on one machine and then on another one that has the
// first one's cache alone, in every form that a cache has: no step runs again,
// the image is the same, and of the layers only the image's are fetched.
func TestCacheTravels(t *testing.T) {
	host := startRegistry(t)
	for _, kind := range []struct {
		name, to, from string
		fetched        int
	}{
		{"registry max", "type=registry,mode=max,ref=HOST/cache:max", "type=registry,ref=HOST/cache:max", 12},
		{"registry min", "type=registry,ref=HOST/cache:min", "HOST/cache:min", 12},
		{"registry index", "type=registry,mode=max,image-manifest=false,ref=HOST/cache:index", "HOST/cache:index", 12},
		{"registry docker", "type=registry,mode=max,oci-mediatypes=false,ref=HOST/cache:docker", "HOST/cache:docker", 12},
		{"registry zstd", "type=registry,mode=max,compression=zstd,ref=HOST/cache:zstd", "HOST/cache:zstd", 12},
		{"local max", "type=local,mode=max,dest=DIR", "type=local,src=DIR", 12},
		{"local min", "type=local,dest=DIR,tag=x", "type=local,src=DIR,tag=x", 12},
		{"inline", "type=inline", "HOST/image:inline", 12},
	} {
		t.Run(kind.name, func(t *testing.T) {
			w := newBench(t)
			w.write("Dockerfile", manySteps())
			w.write("src/a", "a")
			fill := strings.NewReplacer("HOST", host, "DIR", filepath.Join(t.TempDir(), "cache")).Replace
			args := []string{"build", "--cache-to", fill(kind.to), "-t", "first", "."}
			if r := w.run(args...); r.code != 0 || strings.Contains(r.stderr, "not written") {
				t.Fatal(r.stderr)
			}
			if kind.name == "inline" {
				w.ok("tag", "first", host+"/image:inline")
				w.ok("push", "-q", host+"/image:inline")
			}
			other := w.twin()
			s := other.stats("--cache-from", fill(kind.from), "-t", "first", ".")
			if s["steps"]+s["deferred"] != 20 || s["cached"] != s["steps"] || s["imported"] != s["steps"] || (s["deferred"] == 0) != strings.Contains(kind.to, "max") {
				t.Errorf("%v: want every step imported, or deferred if its result is not in the cache", s)
			}
			if s["layersFetched"] != kind.fetched || s["layersWritten"] != 0 {
				t.Errorf("%d layers fetched and %d written, want %d and none", s["layersFetched"], s["layersWritten"], kind.fetched)
			}
			first, second := w.ok("images", "-q", "--no-trunc", "first"), other.ok("images", "-q", "--no-trunc", "first")
			if kind.name != "inline" && first != second {
				t.Errorf("images %q and %q", first, second)
			}
			// What was imported is in the state directory now.
			if again := other.stats("-t", "first", "."); again["cached"] != 12 || again["deferred"] != 8 || again["imported"] != 0 || again["layersWritten"] != 0 {
				t.Errorf("again, without the cache: %v", again)
			}
			if got, want := other.ok("run", "--rm", "first", "sh", "-c", "cat /five /usr/bin/tool3 out* src* a | sha256sum"),
				w.ok("run", "--rm", "first", "sh", "-c", "cat /five /usr/bin/tool3 out* src* a | sha256sum"); got != want {
				t.Errorf("the containers have %q and %q", got, want)
			}
			other.checkWhole()
			other.ok("rmi", "first")
			other.checkWhole()
			other.ok("prune", "-a", "-f")
			other.checkWhole()
			if left, _ := filepath.Glob(filepath.Join(other.root, "cache", "steps", "*", "*")); len(left) != 0 {
				t.Errorf("%d step records are left by prune", len(left))
			}
		})
	}
}

// TestCacheOfOtherSources changes what is built from: only what depends on it
// runs again, on top of what was imported.
func TestCacheOfOtherSources(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo 1 > /one\nCOPY a /\nRUN cat /a /one > /two\n")
	w.write("a", "a")
	dir := filepath.Join(t.TempDir(), "cache")
	w.ok("build", "--cache-to", "type=local,dest="+dir, ".")
	other := w.twin()
	other.write("a", "changed")
	s := other.stats("--cache-from", "type=local,src="+dir, "--cache-to", "type=local,mode=max,dest="+dir, "-t", "x", ".")
	if s["steps"] != 3 || s["imported"] != 1 || s["cached"] != 1 || s["layersFetched"] != 1 {
		t.Errorf("%v: want one step of three imported", s)
	}
	if got := other.ok("run", "--rm", "x", "cat", "/two"); got != "changed1\n" {
		t.Errorf("the container has %q", got)
	}
	third := w.twin()
	if s := third.stats("--cache-from", "type=local,src="+dir, "-t", "x", "."); s["imported"] != 3 || s["layersFetched"] != 3 {
		t.Errorf("%v: want all imported from what the second machine wrote", s)
	}
}

// TestCacheBroken imports caches that lack what they promise: the build warns
// and does without.
func TestCacheBroken(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo 1 > /one\nRUN echo 2 > /two\n")
	good := filepath.Join(t.TempDir(), "cache")
	w.ok("build", "--cache-to", "type=local,mode=max,dest="+good, ".")
	for _, broken := range []struct {
		name  string
		want  string
		spoil func(dir string) error
	}{
		{"nothing there", "no such cache", os.RemoveAll},
		{"index", "invalid", func(dir string) error { return os.WriteFile(filepath.Join(dir, "index.json"), []byte("{"), 0o644) }},
		{"blobs gone", "building without it", func(dir string) error {
			return eachBlob(dir, 4000, func(name string) error {
				data, err := os.ReadFile(name)
				if err == nil && data[0] == 0x1f {
					err = os.Remove(name)
				}
				return err
			})
		}},
		{"blobs changed", "building without it", func(dir string) error {
			return eachBlob(dir, 4000, func(name string) error {
				data, err := os.ReadFile(name)
				if err == nil && len(data) > 40 && data[0] == 0x1f {
					data[30] ^= 1
					err = os.WriteFile(name, data, 0o644)
				}
				return err
			})
		}},
		{"documents changed", "other bytes", func(dir string) error {
			return eachBlob(dir, 4000, func(name string) error {
				data, err := os.ReadFile(name)
				if err == nil && data[0] == '{' {
					err = os.WriteFile(name, append(data, ' '), 0o644)
				}
				return err
			})
		}},
	} {
		t.Run(broken.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			if err := broken.spoil(dir); err != nil {
				t.Fatal(err)
			}
			other := w.twin()
			out := other.run("build", "--progress=plain", "--cache-from", "type=local,src="+dir, "-t", "x", ".").stderr
			if !strings.Contains(out, broken.want) {
				t.Errorf("output does not say %q:\n%s", broken.want, out)
			}
			if got := other.ok("run", "--rm", "x", "cat", "/one", "/two"); got != "1\n2\n" {
				t.Errorf("the container has %q", got)
			}
		})
	}
}

// eachBlob calls f for the blobs of a layout that are smaller than most.
func eachBlob(dir string, most int64, f func(name string) error) error {
	names, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	for _, name := range names {
		if fi, statErr := os.Stat(name); statErr == nil && fi.Size() < most && err == nil {
			err = f(name)
		}
	}
	return err
}

// TestCacheNotWritten writes caches where they can't be: the build succeeds and
// warns, unless it was told not to.
func TestCacheNotWritten(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo 1 > /one\n")
	w.write("file", "")
	for _, to := range []string{"type=registry,ref=localhost:1/x", "type=local,dest=" + filepath.Join(w.dir, "file", "dir")} {
		if out := w.run("build", "--progress=plain", "--retry", "0", "--cache-to", to, "-t", "x", ".").stderr; !strings.Contains(out, "the cache is not written") {
			t.Errorf("%s: no warning:\n%s", to, out)
		}
		if out := w.fails(1, []string{"export cache to"}, "build", "--progress=plain", "--retry", "0", "--cache-to", to+",ignore-error=false", "-t", "x", "."); out.stdout != "" {
			t.Errorf("%s: %s", to, out.stdout)
		}
	}
}

// TestWrongCacheFlags gives flags that can't be meant.
func TestWrongCacheFlags(t *testing.T) {
	w := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	w.write("Dockerfile", "FROM scratch\n")
	for _, c := range []struct{ flag, value, want string }{
		{"cache-to", "type=gha", "not supported: a registry"},
		{"cache-to", "type=s3,bucket=x", "not supported: a registry"},
		{"cache-to", "type=ftp", "not known"},
		{"cache-to", "ref=x", "no type"},
		{"cache-to", "type=registry", "no ref"},
		{"cache-to", "type=registry,ref=UPPER", "UPPER"},
		{"cache-to", "type=registry,ref=x,mode=all", "want min or max"},
		{"cache-to", "type=registry,ref=x,mode", "want NAME=VALUE"},
		{"cache-to", "type=registry,ref=x,ref=y", "twice"},
		{"cache-to", "type=registry,ref=x,dest=y", "no such option"},
		{"cache-to", "type=registry,ref=x,compression=xz", "want gzip, zstd or uncompressed"},
		{"cache-to", "type=registry,ref=x,compression-level=-1", "compression-level"},
		{"cache-to", "type=registry,ref=x,oci-mediatypes=false,image-manifest=true", "image-manifest"},
		{"cache-to", "type=registry,ref=x,ignore-error=perhaps", "want true or false"},
		{"cache-to", "type=local", "no dest"},
		{"cache-to", "type=local,dest=x,tag=", "tag"},
		{"cache-to", "type=inline,mode=max", "inline the layers are the image's"},
		{"cache-to", "type=inline,ref=x", "no such option"},
		{"cache-to", "\"", "cache-to"},
		{"cache-from", "type=inline", "type=registry,ref=IMAGE"},
		{"cache-from", "type=local", "no src"},
		{"cache-from", "type=local,src=x,digest=y", "digest"},
		{"cache-from", "type=registry", "no ref"},
		{"cache-from", "type=registry,ref=x,mode=max", "not known"},
		{"cache-from", "a b", "a b"},
		{"build-arg", "BUILDKIT_INLINE_CACHE=perhaps", "want true or false"},
	} {
		w.fails(2, []string{"--" + c.flag, c.want}, "build", "--"+c.flag, c.value, ".")
	}
}

// TestNoWait holds that a stage doesn't wait, before its first step, for one
// that only a later step of it needs: the two of them meet in the middle, with
// a cache to import from and without.
func TestNoWait(t *testing.T) {
	w := newBench(t)
	meet := func(mine, other string) string {
		return "RUN --mount=type=cache,target=/m touch /m/" + mine + "; i=0; until [ -e /m/" + other + " ]; do i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.05; done; echo " + mine + " > /" + mine + "\n"
	}
	for i, args := range [][]string{nil, {"--cache-from", "type=local,src=" + t.TempDir()}} {
		id := string(rune('a' + i))
		w.write("Dockerfile", "FROM test/base AS one\n"+meet("one"+id, "two"+id)+
			"FROM test/base AS two\n"+meet("two"+id, "one"+id)+"COPY --from=one /one"+id+" /\n"+
			"FROM test/base\nCOPY --from=two /one"+id+" /two"+id+" /\n")
		w.ok(append(append([]string{"build"}, args...), ".")...)
	}
}
