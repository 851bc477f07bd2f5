// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// copyScene makes what the copies of TestCp are made of: in a container and, with
// a $ for its place, on this machine.
const copyScene = `umask 022; mkdir -p $S/src/sub $S/have/src $S/empty && cd $S && echo one > src/one && echo two > src/sub/two &&
chmod 640 src/one && chown 7:8 src/one && ln -s one src/link && ln -s src dirlink && ln -s nothing/there dangling && ln -s there tonew && ln -s src/one filelink &&
echo old > have/one && echo file > file && mkdir -p have/dir/one && echo old > have/src/old`

// copies are copies from one scene to another and what is then at a place of the
// second one: all names in it, with what the files have. The rules are docker's.
var copies = []struct {
	flags, from, to string
	at, want        string // or
	err             string
}{
	// A file.
	{"", "src/one", "new", "new", "=one", ""},
	{"", "src/one", "have", "have/one", "=one", ""},
	{"", "src/one", "have/", "have/one", "=one", ""},
	{"", "src/one", "have/.", "have/one", "=one", ""},
	{"", "src/one", "file", "file", "=one", ""},
	{"", "src/one", "new/", "", "", "no directory"},
	{"", "src/one", "no/new", "", "", "no such file"},
	{"", "src/one", "file/", "", "", "not a directory"},
	{"", "src/one", "have/dir", "", "", "directory in its place"},
	{"", "src/nothing", "new", "", "", "no such file"},
	{"", "src/one/", "new", "", "", "not a directory"},
	{"", "src/one/.", "new", "", "", "not a directory"},
	// A directory.
	{"", "src", "new", "new", "/ link>one one=one sub/ sub/two=two", ""},
	{"", "src", "new/", "new", "/ link>one one=one sub/ sub/two=two", ""},
	{"", "src/.", "new", "new", "/ link>one one=one sub/ sub/two=two", ""},
	{"", "src", "have", "have/src", "/ link>one old=old one=one sub/ sub/two=two", ""},
	{"", "src/", "have", "have/src", "/ link>one old=old one=one sub/ sub/two=two", ""},
	{"", "src/.", "have", "have", "/ dir/ dir/one/ link>one one=one src/ src/old=old sub/ sub/two=two", ""},
	{"", "src/.", "have/src", "have/src", "/ link>one old=old one=one sub/ sub/two=two", ""},
	{"", "src", "file", "", "", "no directory"},
	{"", "src/.", "file", "", "", "no directory"},
	{"", "src/.", "have/dir", "", "", "directory in its place"},
	{"", "src", "no/new", "", "", "no such file"},
	{"", "empty", "new", "new", "/", ""},
	{"", "empty/.", "have/dir", "have/dir", "/ one/", ""},
	// Links: they are copied, unless something is behind the slash, and copied to
	// what they lead to.
	{"", "src/link", "new", "new", ">one", ""},
	{"-L", "src/link", "new", "new", "=one", ""},
	{"", "dangling", "new", "new", ">nothing/there", ""},
	{"-L", "dangling", "new", "", "", "no such file"},
	{"", "dirlink", "new", "new", ">src", ""},
	{"", "dirlink/.", "new", "new", "/ link>one one=one sub/ sub/two=two", ""},
	{"", "dirlink/sub", "new", "new", "/ two=two", ""},
	{"-L", "dirlink", "new", "new", "/ link>one one=one sub/ sub/two=two", ""},
	{"", "file", "dirlink", "src", "/ file=file link>one one=one sub/ sub/two=two", ""},
	{"", "file", "filelink", "src/one", "=file", ""},
	{"", "file", "filelink", "filelink", ">src/one", ""},
	{"", "file", "tonew", "there", "=file", ""},
	{"", "file", "dangling", "", "", "no such file"},
	{"", "src", "tonew", "there", "/ link>one one=one sub/ sub/two=two", ""},
}

// tree is what is at a path: names with / for a directory, =TEXT for a file and
// >TARGET for a link.
func tree(t *testing.T, top string) string {
	t.Helper()
	var words []string
	err := filepath.Walk(top, func(p string, st os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p, top), "/")
		switch {
		case st.IsDir():
			words = append(words, name+"/")
		case st.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(p)
			words = append(words, name+">"+target)
			return err
		default:
			data, err := os.ReadFile(p)
			words = append(words, name+"="+strings.TrimSpace(string(data)))
			return err
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	return strings.Join(words, " ")
}

// TestCp copies in all directions, with running and ended containers.
func TestCp(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "runs", "test/base", "sleep", "1000")
	w.ok("run", "--name", "ended", "test/base", "true")
	w.ok("run", "-d", "--name", "other", "test/base", "sleep", "1000")
	inside := func(name string) string {
		return fmt.Sprintf("/proc/%d/root", readState(t, w, name).Pid)
	}
	scene := func(dir string) { // as seen from here
		t.Helper()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("sh", "-c", "S="+dir+"; "+copyScene).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	here := t.TempDir() + "/s"
	there := t.TempDir() + "/s"
	for _, way := range []struct {
		name     string
		from, to string // before a path
		source   func() string
		dest     func() string
	}{
		{"to a running one", here + "/", "runs:/s/", func() string { return here }, func() string { return inside("runs") + "/s" }},
		{"from a running one", "runs:/s/", there + "/", func() string { return inside("runs") + "/s" }, func() string { return there }},
		{"from one to another", "runs:/s/", "other:s/", func() string { return inside("runs") + "/s" }, func() string { return inside("other") + "/s" }},
		{"within one", "runs:/s/", "runs:/t/", func() string { return inside("runs") + "/s" }, func() string { return inside("runs") + "/t" }},
	} {
		t.Run(way.name, func(t *testing.T) {
			scene(way.source())
			for _, tc := range copies {
				scene(way.dest())
				r := w.run(append(append([]string{"cp"}, strings.Fields(tc.flags)...), way.from+tc.from, way.to+tc.to)...)
				if tc.err != "" {
					if r.code != 1 || !strings.Contains(r.stderr, tc.err) {
						t.Errorf("cp %s %s %s: code %d, want %q\n%s", tc.flags, tc.from, tc.to, r.code, tc.err, r.stderr)
					}
					continue
				}
				if got := tree(t, way.dest()+"/"+tc.at); r.code != 0 || got != tc.want {
					t.Errorf("cp %s %s %s: code %d, %s has\n%s, want\n%s\n%s", tc.flags, tc.from, tc.to, r.code, tc.at, got, tc.want, r.stderr)
				}
			}
		})
	}
	t.Run("an ended one", func(t *testing.T) {
		scene(here)
		w.ok("cp", here, "ended:/")
		for _, tc := range copies {
			w.ok("run", "--replace", "--name", "ended", "test/base", "true")
			w.ok("cp", here, "ended:/s")
			out := t.TempDir() + "/out"
			r := w.run(append(append([]string{"cp"}, strings.Fields(tc.flags)...), "ended:/s/"+tc.from, "ended:/s/x/../"+tc.to)...)
			if tc.err != "" {
				if r.code != 1 || !strings.Contains(r.stderr, tc.err) {
					t.Errorf("cp %s %s %s: code %d, want %q\n%s", tc.flags, tc.from, tc.to, r.code, tc.err, r.stderr)
				}
				continue
			}
			w.ok("cp", "ended:/s/"+tc.at, out)
			if got := tree(t, out); r.code != 0 || got != tc.want {
				t.Errorf("cp %s %s %s: code %d, %s has\n%s, want\n%s\n%s", tc.flags, tc.from, tc.to, r.code, tc.at, got, tc.want, r.stderr)
			}
		}
	})
	w.fails(2, []string{"CONTAINER:PATH"}, "cp", "a", "b")
	w.fails(2, []string{"a path is empty"}, "cp", "runs:", here)
	w.fails(1, []string{"no such container: ghost"}, "cp", "ghost:/x", "runs:/")
	w.fails(1, []string{"no such container: ghost"}, "cp", "runs:/etc", "ghost:/")
}

// TestCpOwners copies files of others.
func TestCpOwners(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "cc", "--user", "user", "test/base", "sleep", "1000")
	owner := func(p string) string {
		t.Helper()
		out, err := exec.Command("stat", "-c", "%u:%g:%a", p).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	w.write("file", "text\n")
	file := filepath.Join(w.dir, "file")
	if err := errors.Join(os.Chown(file, 7, 8), os.Chmod(file, 0o751|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ flag, in, out string }{{"-q", "0:0:4751", "0:0:4751"}, {"-a", "7:8:4751", "7:8:4751"}} {
		w.ok("cp", tc.flag, "file", "cc:/file")
		if got := strings.TrimSpace(w.ok("exec", "cc", "stat", "-c", "%u:%g:%a", "/file")); got != tc.in {
			t.Errorf("cp %s in: %s, want %s", tc.flag, got, tc.in)
		}
		w.ok("cp", tc.flag, "cc:/file", "back")
		if got := owner(filepath.Join(w.dir, "back")); got != tc.out {
			t.Errorf("cp %s out: %s, want %s", tc.flag, got, tc.out)
		}
	}
	// A tar has the owners that it says.
	cmd := w.command("cp", "cc:/file", "-")
	var buf bytes.Buffer
	cmd.Stdout = &buf
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	h, err := tar.NewReader(&buf).Next()
	if err != nil || h.Name != "file" || h.Uid != 7 || h.Gid != 8 {
		t.Errorf("the tar begins with %+v (%v)", h, err)
	}
}

// TestCpStreams copies to standard output and from standard input.
func TestCpStreams(t *testing.T) {
	w := newLifeBench(t)
	// The working directory is there as soon as the container is.
	w.write("given", "contents")
	w.ok("create", "--name", "works", "-w", "/work/deep", "-v", "/v", "test/base", "cat", "given")
	w.ok("cp", filepath.Join(w.dir, "given"), "works:/work/deep/")
	if r := w.run("start", "-a", "works"); r.stdout != "contents" {
		t.Errorf("in the working directory is %q\n%s", r.stdout, r.stderr)
	}
	w.ok("create", "--name", "mounted", "-w", "/v/deep", "-v", "/v", "test/base", "pwd")
	if r := w.run("start", "-a", "mounted"); r.stdout != "/v/deep\n" {
		t.Errorf("the working directory is %q\n%s", r.stdout, r.stderr)
	}
	w.fails(1, []string{"--workdir /etc/passwd/x"}, "create", "-w", "/etc/passwd/x", "test/base", "true")
	w.ok("rm", "works", "mounted")
	// A file that is mounted can be copied also while it isn't there.
	w.write("mounted", "contents")
	for _, m := range []string{"-v=" + filepath.Join(w.dir, "mounted") + ":/m/file", "--mount=type=volume,src=files,dst=/m/file,volume-subpath=sub"} {
		w.ok("run", "--rm", "-v", "files:/v", "test/base", "sh", "-c", "echo -n contents > /v/sub")
		w.ok("create", "--name", "mounts", m, "test/base", "true")
		tr := tar.NewReader(strings.NewReader(w.ok("cp", "mounts:/m/file", "-")))
		if h, err := tr.Next(); err != nil || h.Name != "file" {
			t.Errorf("%s: %+v, %v", m, h, err)
		} else if data, err := io.ReadAll(tr); err != nil || string(data) != "contents" {
			t.Errorf("%s: %q, %v", m, data, err)
		}
		w.fails(1, []string{"not a directory"}, "cp", "mounts:/m/file/x", "-")
		w.ok("rm", "mounts")
		// Of one that runs it is not replaced, which would be the end of the mount.
		w.ok("run", "-d", "--name", "mounts", m, "test/base", "sleep", "1000")
		for _, to := range []string{"/m/file", "/m", "/etc/hosts"} {
			name := filepath.Join(w.dir, filepath.Base(to))
			if to == "/m" {
				name = filepath.Join(w.dir, "tree")
				w.write("tree/file", "other")
				name += "/."
			} else {
				w.write(filepath.Base(to), "other")
			}
			w.fails(1, []string{"busy"}, "cp", name, "mounts:"+to)
		}
		if got := w.ok("exec", "mounts", "sh", "-c", "cat /m/file; grep -c -e ' /m/file ' -e ' /etc/hosts ' /proc/mounts"); got != "contents2\n" {
			t.Errorf("%s: afterwards there is %q", m, got)
		}
		w.ok("rm", "-f", "mounts")
	}
	w.ok("run", "-d", "--name", "cc", "test/base", "sh", "-c", "mkdir -p /d/sub; echo x > /d/sub/x; ln /d/sub/x /d/hard; sleep 1000")
	waitFor(t, "the files", func() bool { return w.run("exec", "cc", "test", "-e", "/d/hard").code == 0 })
	names := func(p string) string {
		t.Helper()
		var out []string
		tr := tar.NewReader(strings.NewReader(w.ok("cp", "cc:"+p, "-")))
		for {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, h.Name)
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	for p, want := range map[string]string{
		"/d": "d/ d/hard d/sub/ d/sub/x", "d/": "d/ d/hard d/sub/ d/sub/x", "/d/sub/x": "x", "/d/sub": "sub/ sub/x",
	} {
		if got := names(p); got != want {
			t.Errorf("cp cc:%s - has %q, want %q", p, got, want)
		}
	}
	data := w.ok("cp", "cc:/d", "-")
	in := func(to string) result {
		cmd := w.command("cp", "-", "cc:"+to)
		cmd.Stdin = strings.NewReader(data)
		return w.finish(cmd)
	}
	if r := in("/tmp"); r.code != 0 {
		t.Errorf("cp - cc:/tmp: %+v", r)
	}
	if out := w.ok("exec", "cc", "sh", "-c", "cat /tmp/d/hard; stat -c %h /tmp/d/sub/x"); out != "x\n2\n" {
		t.Errorf("what came in is %q", out)
	}
	for to, want := range map[string]string{"/nothing": "no such file", "/etc/passwd": "not a directory"} {
		if r := in(to); r.code != 1 || !strings.Contains(r.stderr, want) {
			t.Errorf("cp - cc:%s: %+v", to, r)
		}
	}
	data = data[:1800]
	if r := in("/tmp"); r.code != 1 || !strings.Contains(r.stderr, "unexpected EOF") {
		t.Errorf("half an archive: %+v", r)
	}
	// Of a read-only container, and of a volume of one that doesn't run.
	w.ok("run", "--name", "ro", "--read-only", "-v", "vol:/vol", "-v", "vol:/volro:ro", "--tmpfs", "/mem", "test/base", "sh", "-c", "echo kept > /vol/f")
	w.write("file", "file\n")
	w.fails(1, []string{"read-only"}, "cp", "file", "ro:/file")
	w.fails(1, []string{"read-only"}, "cp", "file", "ro:/volro/file")
	w.fails(1, []string{"while the container runs"}, "cp", "file", "ro:/mem/file")
	w.ok("cp", "file", "ro:/vol/")
	w.ok("cp", "ro:/volro/.", "got")
	if got := tree(t, filepath.Join(w.dir, "got")); got != "/ f=kept file=file" {
		t.Errorf("the volume has %s", got)
	}
}

// TestCpLive: what a running container puts in the place of a file while it is
// copied is not opened.
func TestCpLive(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "cc", "test/base", "sleep", "1000")
	w.ok("exec", "cc", "sh", "-c", "mkdir /d; cd /d; truncate -s 100M a; echo z > z; mkfifo fifo")
	for _, from := range []string{"cc:/d", "cc:/d/."} {
		w.ok("exec", "cc", "sh", "-c", "cd /d; echo z > new; mv new z; rm -f fifo; mkfifo fifo")
		cmd := w.command("cp", from, "-")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The directory is listed by then, and z not yet read.
		if _, err := io.CopyN(io.Discard, out, 1<<20); err != nil {
			t.Error(err)
		}
		w.ok("exec", "cc", "mv", "/d/fifo", "/d/z")
		if _, err := io.Copy(io.Discard, out); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), `open "z": file changed while it was read: it is no regular file now`) {
			t.Errorf("cp %s -: %v, %s", from, err, stderr.String())
		}
	}
}
