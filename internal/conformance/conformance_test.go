// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"builder/internal/testutil"

	"github.com/google/go-cmp/cmp"
)

var old = time.Unix(1000000000, 0)

// entry is an entry of a layer.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: old}
	return entry{Header: h, content: content}
}

func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: time.Now()}}
}

func link(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}

func layerOf(t *testing.T, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// archiveOf makes an archive of an image with these layers; change may spoil
// its files before they are written.
func archiveOf(t *testing.T, config map[string]any, change func(map[string][]byte), layers ...[]entry) string {
	t.Helper()
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	blob := func(mediaType string, data []byte) ociDescriptor {
		files["blobs/sha256/"+digest(data)[len("sha256:"):]] = data
		return ociDescriptor{MediaType: mediaType, Digest: digest(data), Size: int64(len(data))}
	}
	m := ociManifest{SchemaVersion: 2}
	diffIDs, history := []string{}, []map[string]any{}
	for i, l := range layers {
		data := layerOf(t, l)
		diffIDs = append(diffIDs, digest(data))
		history = append(history, map[string]any{"created_by": fmt.Sprint("step ", i), "created": time.Now()})
		var z bytes.Buffer
		zw := gzip.NewWriter(&z)
		if _, err := zw.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, blob("layer", z.Bytes()))
	}
	m.Config = blob("config", marshal(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": config, "history": history, "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	}))
	files["index.json"] = marshal(t, ociIndex{Manifests: []ociDescriptor{blob("manifest", marshal(t, m))}})
	if change != nil {
		change(files)
	}
	return writeArchive(t, files)
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeArchive(t *testing.T, files map[string][]byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "a.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLoadTree(t *testing.T) {
	symlink := entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "d/l", Linkname: "a", Mode: 0o777, Uid: 3, ModTime: old}}
	device := entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "c", Devmajor: 1, Devminor: 3, Mode: 0o666, ModTime: old}}
	attr := entry{Header: tar.Header{
		Typeflag: tar.TypeDir, Name: "x", Mode: 0o1777, Uid: 1, Gid: 2, ModTime: old,
		PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"},
	}}
	base := []entry{dir("d"), file("d/a", "one"), file("d/b", "two"), dir("e"), file("e/f", "three"), file("gone", "")}
	tests := []struct {
		name    string
		layers  [][]entry
		tree    map[string]string
		removed []string
		listing [][]string
	}{
		{name: "nothing on top", tree: map[string]string{}},
		{
			name:   "every type",
			layers: [][]entry{{symlink, device, attr, file("big", strings.Repeat("x", 300))}},
			tree: map[string]string{
				"d/l": "link 3:0 -> a 2001-09-09T01:46:40Z", "c": "char 0666 0:0 1,3 2001-09-09T01:46:40Z",
				"x":   `dir 1777 1:2 user.a="b" 2001-09-09T01:46:40Z`,
				"big": "file 0644 0:0 300 bytes 0d4e2ca9e9cbced7 2001-09-09T01:46:40Z",
			},
			listing: [][]string{{"big", "c", "d/l", "x/"}},
		},
		{
			name:    "whiteouts",
			layers:  [][]entry{{dir("d"), file("d/.wh.a", ""), dir("e"), file("e/.wh..wh..opq", ""), file("e/g", "new"), file(".wh.gone", "")}},
			tree:    map[string]string{"e/g": `file 0644 0:0 "new" 2001-09-09T01:46:40Z`},
			removed: []string{"d/a", "e/f", "gone"},
			listing: [][]string{{".wh.gone", "d/", "d/.wh.a", "e/", "e/.wh..wh..opq", "e/g"}},
		},
		{
			name:    "a file replaces a directory and one replaces a file",
			layers:  [][]entry{{file("e", "file"), dir("gone"), file("gone/x", "")}},
			tree:    map[string]string{"e": `file 0644 0:0 "file" 2001-09-09T01:46:40Z`, "gone": "dir 0755 0:0", "gone/x": `file 0644 0:0 "" 2001-09-09T01:46:40Z`},
			listing: [][]string{{"e", "gone/", "gone/x"}},
		},
		{
			name:   "hard links, one of them broken by a later layer",
			layers: [][]entry{{file("m", "m"), link("n", "m"), link("o", "m"), link("to-base", "d/a")}, {file("o", "o")}},
			tree: map[string]string{
				"m": `file 0644 0:0 "m" 2001-09-09T01:46:40Z`, "n": `file 0644 0:0 "m" 2001-09-09T01:46:40Z = m`,
				"o": `file 0644 0:0 "o" 2001-09-09T01:46:40Z`, "to-base": `file 0644 0:0 "one" 2001-09-09T01:46:40Z = d/a`,
			},
			listing: [][]string{{"m", "n = m", "o = m", "to-base = d/a"}, {"o"}},
		},
		{
			name:    "a name that is no text",
			layers:  [][]entry{{file("b\xffd", "")}},
			tree:    map[string]string{`"b\xffd"`: `file 0644 0:0 "" 2001-09-09T01:46:40Z`},
			listing: [][]string{{`"b\xffd"`}},
		},
	}
	below, err := load(archiveOf(t, nil, nil, base))
	if err != nil {
		t.Fatal(err)
	}
	below.Base = "below"
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img, err := Load(archiveOf(t, nil, nil, append([][]entry{base}, tt.layers...)...), []*Image{below})
			if err != nil {
				t.Fatal(err)
			}
			if img.Base != "below" || img.BaseLayers != 1 {
				t.Errorf("base %q of %d layers", img.Base, img.BaseLayers)
			}
			if d := cmp.Diff(tt.tree, img.Tree); d != "" {
				t.Errorf("tree (-want +got):\n%s", d)
			}
			if !slices.Equal(tt.removed, img.Removed) {
				t.Errorf("removed %q, want %q", img.Removed, tt.removed)
			}
			if !slices.EqualFunc(tt.listing, img.Layers, slices.Equal[[]string]) {
				t.Errorf("layers %q, want %q", img.Layers, tt.listing)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	one := []entry{file("a", "a")}
	spoil := func(what string, with func([]byte) []byte) func(map[string][]byte) {
		return func(files map[string][]byte) {
			for name, data := range files {
				if strings.Contains(string(data), what) || strings.HasPrefix(string(data), what) {
					files[name] = with(data)
				}
			}
		}
	}
	tests := []struct {
		name   string
		change func(map[string][]byte)
		layers [][]entry
		want   string
	}{
		{"no layout", func(f map[string][]byte) { delete(f, "oci-layout") }, nil, "no oci-layout"},
		{"layout of another version", func(f map[string][]byte) { f["oci-layout"] = []byte(`{"imageLayoutVersion":"2"}`) }, nil, `version "2"`},
		{"no index", func(f map[string][]byte) { delete(f, "index.json") }, nil, "no index.json"},
		{"no image in an index", func(f map[string][]byte) { f["index.json"] = []byte(`{"manifests":[{}]}`) }, nil, "digest"},
		{"two images", func(f map[string][]byte) { f["index.json"] = []byte(`{"manifests":[{},{}]}`) }, nil, "2 manifests"},
		{"changed config", spoil("amd64", func(b []byte) []byte { return bytes.Replace(b, []byte("amd64"), []byte("arm64"), 1) }), nil, "has the digest"},
		{"short layer", spoil("\x1f\x8b", func(b []byte) []byte { return b[:len(b)-1] }), nil, "bytes, not"},
		{"missing layer", func(f map[string][]byte) {
			for name, data := range f {
				if bytes.HasPrefix(data, []byte("\x1f\x8b")) {
					delete(f, name)
				}
			}
		}, nil, "is missing"},
		{"a name twice", nil, [][]entry{{file("b", ""), file("./b", "")}}, "twice"},
		{"no parent", nil, [][]entry{{file("dir/b", "")}}, "in no directory"},
		{"a parent that is a file", nil, [][]entry{{file("a/b", "")}}, "in no directory"},
		{"hard link to nothing", nil, [][]entry{{link("b", "c")}}, "isn't there"},
		{"whiteout of nothing", nil, [][]entry{{file(".wh.c", "")}}, "isn't there"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(archiveOf(t, nil, tt.change, append([][]entry{one}, tt.layers...)...), nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestCompare(t *testing.T) {
	layers := [][]entry{{dir("d"), file("d/a", "one")}, {file("b", "two")}}
	config := map[string]any{"Env": []string{"A=b"}, "Cmd": []string{"x"}, "Volumes": nil, "User": ""}
	load := func(config map[string]any, layers ...[]entry) *Image {
		t.Helper()
		img, err := Load(archiveOf(t, config, nil, layers...), nil)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	recorded := func(img *Image) *Image {
		t.Helper()
		data, err := img.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back := &Image{}
		if err := json.Unmarshal(data, back); err != nil {
			t.Fatal(err)
		}
		return back
	}
	want := recorded(load(config, layers...))
	if lines := Compare(load(config, layers...), want); lines != nil {
		t.Errorf("the same image differs: %q", lines)
	}
	dated := dir("d")
	dated.ModTime = old
	if lines := Compare(load(config, []entry{dated, file("d/a", "one")}, layers[1]), want); lines != nil {
		t.Errorf("an older directory differs: %q", lines)
	}
	if lines := Compare(load(config, layers...), recorded(load(config, []entry{dated, file("d/a", "one")}, layers[1]))); len(lines) != 1 {
		t.Errorf("a younger directory does not differ: %q", lines)
	}

	got := load(map[string]any{"Env": []string{"A=c"}, "Cmd": []string{"x"}, "User": "u"},
		[]entry{dir("d"), file("d/a", "ONE"), dir("proc")}, []entry{file("c", "two")})
	got.History[1].CreatedBy = "other"
	wantLines := []string{
		"config.Env:\n   got [\"A=c\"]\n  want [\"A=b\"]",
		"config.User:\n   got u\n  want nothing",
		"history[1]:\n   got {\"created_by\":\"other\"}\n  want {\"created_by\":\"step 1\"}",
		"tree b:\n   got nothing\n  want file 0644 0:0 \"two\" 2001-09-09T01:46:40Z",
		"tree c:\n   got file 0644 0:0 \"two\" 2001-09-09T01:46:40Z\n  want nothing",
		"tree d/a:\n   got file 0644 0:0 \"ONE\" 2001-09-09T01:46:40Z\n  want file 0644 0:0 \"one\" 2001-09-09T01:46:40Z",
		"layer[1]: +c -b",
	}
	if d := cmp.Diff(wantLines, Compare(got, want)); d != "" {
		t.Errorf("lines (-want +got):\n%s", d)
	}
}

// newCase writes a case's files.
func newCase(t *testing.T, files map[string]string) Case {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "c")
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	c, err := readCase(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newServer(t *testing.T) *Server {
	t.Helper()
	s, err := Serve(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestPrepare(t *testing.T) {
	c := newCase(t, map[string]string{
		"ctx/dir/f":  "f",
		"ctx/script": "#!",
		"work/lib/l": "l",
		"Dockerfile": "FROM scratch\nADD @HTTP@/f /",
		"setup.sh":   "mkdir empty ../more\ntouch -d @1000000000 dated\nchmod 600 dir/f\n",
		"args":       "--target=x\n--build-context=lib=@WORK@/lib\n--ssh=default=@AGENT@\n",
	})
	if err := os.Chmod(filepath.Join(c.Dir, "ctx/script"), 0o700); err != nil {
		t.Fatal(err)
	}
	server, dir := newServer(t), t.TempDir()
	w, err := c.Prepare(dir, "/base", server)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	err = filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && path != dir {
			got[strings.TrimPrefix(path, dir)] = fmt.Sprintf("%v %d", info.Mode(), info.ModTime().Unix())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"/ctx": "drwxr-xr-x 1234567890", "/ctx/dir": "drwxr-xr-x 1234567890", "/ctx/dir/f": "-rw------- 1234567890",
		"/ctx/script": "-rwxr-xr-x 1234567890", "/ctx/empty": "drwxr-xr-x 1234567890", "/ctx/dated": "-rw-r--r-- 1000000000",
		"/lib": "drwxr-xr-x 1234567890", "/lib/l": "-rw-r--r-- 1234567890", "/more": "drwxr-xr-x 1234567890", "/Dockerfile": "-rw-r--r-- 1234567890",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}
	args := []string{"--target=x", "--build-context=lib=" + dir + "/lib", "--ssh=default=" + server.Agent, "--file=" + dir + "/Dockerfile"}
	if d := cmp.Diff(args, w.Args); d != "" {
		t.Errorf("args (-want +got):\n%s", d)
	}
	data, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := w.Hide(string(data)), "FROM scratch\nADD @HTTP@/f /"; got != want || !strings.Contains(string(data), "http://127.0.0.1:") {
		t.Errorf("Dockerfile %q, hidden %q", data, got)
	}
}

// TestPrepareInput holds where Dockerfile and standard input come from.
func TestPrepareInput(t *testing.T) {
	tests := []struct {
		name, args, context, setup string
		stdin                      string // within the directory
		file                       bool   // the Dockerfile is named
	}{
		{name: "directory", file: true},
		{name: "Dockerfile on standard input", args: "--file=-", stdin: "/Dockerfile"},
		{name: "nothing but a Dockerfile", context: "-", stdin: "/Dockerfile"},
		{name: "archive", context: "-", setup: "mkdir ../http\ntouch ../http/context.tar", stdin: "/http/context.tar"},
		{name: "address", context: "@HTTP@/c.tar"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCase(t, map[string]string{"Dockerfile": "FROM scratch", "args": tt.args, "context": tt.context, "setup.sh": tt.setup})
			dir := t.TempDir()
			w, err := c.Prepare(dir, "/base", newServer(t))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimPrefix(w.Stdin, dir); got != tt.stdin {
				t.Errorf("standard input %q, want %q", got, tt.stdin)
			}
			if got := slices.Contains(w.Args, "--file="+dir+"/Dockerfile"); got != tt.file {
				t.Errorf("flags %q", w.Args)
			}
		})
	}
}

func TestServer(t *testing.T) {
	testutil.Require(t, "git")
	c := newCase(t, map[string]string{
		"work/http/f": "content",
		"setup.sh":    "git init -q -b main ../git/repo\ncd ../git/repo\necho a > a\ngit add a\ngit commit -qm first\ncd ../../ctx\n",
	})
	server := newServer(t)
	w, err := c.Prepare(t.TempDir(), "/base", server)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.Get(w.url + "/f?filename=other")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil || string(data) != "content" {
		t.Errorf("got %q, %v", data, err)
	}
	if got := r.Header.Get("Last-Modified"); got != "Fri, 13 Feb 2009 23:31:30 GMT" {
		t.Errorf("last modified %q", got)
	}
	if got := r.Header.Get("Content-Disposition"); got != `attachment; filename="other"` {
		t.Errorf("disposition %q", got)
	}
	for _, bad := range []string{"/nothing", "/../../Dockerfile", "x/f"} {
		r, err := http.Get(w.url + bad)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", bad, r.Status)
		}
	}
	// The commit's name depends on nothing of this machine.
	const first = "0add8986b2c3345d89790edf507b40fb3767b731"
	out, err := exec.Command("git", "ls-remote", w.url+"/git/repo", "refs/heads/main").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), first) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestCorpus holds that every case can be read and has what it needs.
func TestCorpus(t *testing.T) {
	for _, d := range []string{"dockerfiles", "dockerfiles-negative"} {
		all, err := Cases(filepath.Join("../../testdata", d))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if d == "dockerfiles" {
				_, err = c.Expected()
			} else {
				_, err = c.ExpectedFailure()
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
}
