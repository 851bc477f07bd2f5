// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
)

// TestMain lets the test binary be another process that uses a store.
func TestMain(m *testing.M) {
	switch os.Getenv("STORE_TEST_HELPER") {
	case "":
		os.Exit(m.Run())
	case "tag":
		helper(tagMany)
	case "temp":
		helper(holdTemp)
	}
}

func helper(f func(s *Store, args []string) error) {
	s, err := Open(os.Args[1])
	if err == nil {
		err = errors.Join(f(s, os.Args[2:]), s.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func helperCommand(name, root string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{root}, args...)...)
	cmd.Env = append(os.Environ(), "STORE_TEST_HELPER="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

func open(t testing.TB) *Store {
	t.Helper()
	return openAt(t, t.TempDir())
}

func openAt(t testing.TB, root string) *Store {
	t.Helper()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// add stores an image of one layer.
func add(t testing.TB, s *Store, name string) ocispec.Descriptor {
	t.Helper()
	desc, err := addTo(s, name, ocispec.MediaTypeImageConfig)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func addTo(s *Store, name, configType string) (ocispec.Descriptor, error) {
	layer, err := s.PutBlob(ocispec.MediaTypeImageLayer, []byte("layer of "+name))
	if err != nil {
		return layer, err
	}
	config := image.Config{}
	config.Author = name
	config.Platform = image.HostPlatform()
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}
	configDesc, err := putJSON(s, configType, config)
	if err != nil {
		return configDesc, err
	}
	return putJSON(s, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configDesc, Layers: []ocispec.Descriptor{layer},
	})
}

func putJSON(s *Store, mediaType string, doc any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.PutBlob(mediaType, data)
}

func index(t testing.TB, s *Store, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	desc, err := putJSON(s, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	})
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// table is the name table as NAME=first digits of the digest.
func table(t testing.TB, s *Store) []string {
	t.Helper()
	entries, err := s.Entries()
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Name+"="+short(e.Desc))
	}
	return out
}

func short(d ocispec.Descriptor) string { return d.Digest.Encoded()[:8] }

func checkTable(t testing.TB, s *Store, want ...string) {
	t.Helper()
	slices.Sort(want)
	want = append([]string{}, want...)
	if diff := cmp.Diff(want, table(t, s)); diff != "" {
		t.Errorf("name table: (-want +got)\n%s", diff)
	}
}

func TestOpen(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "b")
	s := openAt(t, root)
	for _, name := range []string{"oci-layout", "index.json", "version", "blobs/sha256", "tmp", "locks"} {
		if _, err := os.Stat(s.Path(name)); err != nil {
			t.Error(err)
		}
	}
	again := openAt(t, root)
	checkTable(t, again)

	write := func(name, data string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for version, want := range map[string]string{"2\n": "format version 2", "x": "no version", "": "no version", "0": "no version", "-1": "no version"} {
		write("version", version)
		if _, err := Open(root); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), root) {
			t.Errorf("version %q: %v, want %q", version, err, want)
		}
	}
	write("version", "1\n")
	write("index.json", "{")
	if s, err := Open(root); err != nil {
		t.Errorf("damaged name table: %v", err)
	} else if _, err := s.Entries(); err == nil || !strings.Contains(err.Error(), "index.json") {
		t.Errorf("damaged name table: %v", err)
	}

	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(other); err == nil || !strings.Contains(err.Error(), `"thesis.tex"`) {
		t.Errorf("a directory of something else: %v", err)
	}
}

// A first start that was cut off is taken up by the next.
func TestOpenHalfMade(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"blobs/sha256", "locks"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, ".tmp-oci-layout-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	checkTable(t, openAt(t, root))
}

func TestOpenAtOnce(t *testing.T) {
	for range 20 {
		root := t.TempDir()
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				s, err := Open(root)
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				desc, err := addTo(s, fmt.Sprint(i), ocispec.MediaTypeImageConfig)
				if err == nil {
					err = s.Tag(desc, fmt.Sprint("n", i))
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := table(t, openAt(t, root)); len(got) != 4 {
			t.Fatalf("names %q, want 4", got)
		}
	}
}

func TestBlobs(t *testing.T) {
	s := open(t)
	data := []byte("hello")
	desc, err := s.PutBlob("text/plain", data)
	if err != nil {
		t.Fatal(err)
	}
	want := ocispec.Descriptor{MediaType: "text/plain", Digest: digest.FromBytes(data), Size: 5}
	if diff := cmp.Diff(want, desc); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if again, err := s.PutBlob("text/plain", data); err != nil || again.Digest != desc.Digest {
		t.Errorf("PutBlob again: %v %v", again, err)
	}
	got, err := s.ReadBlob(desc, 100)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("ReadBlob = %q, %v", got, err)
	}
	if _, err := s.ReadBlob(desc, 4); err == nil || !strings.Contains(err.Error(), "at most 4") {
		t.Errorf("ReadBlob over its limit: %v", err)
	}
	wrongSize := desc
	wrongSize.Size = 4
	if !s.Has(desc) || s.Has(wrongSize) || s.Has(ocispec.Descriptor{}) || s.Has(ocispec.Descriptor{Digest: "sha256:../../x"}) {
		t.Error("Has")
	}
	missing := ocispec.Descriptor{Digest: digest.FromString("missing"), Size: 7}
	if _, err := s.OpenBlob(missing); !errors.Is(err, ErrNotFound) {
		t.Errorf("OpenBlob of none: %v", err)
	}
	if _, err := s.OpenBlobFile(missing); !errors.Is(err, ErrNotFound) {
		t.Errorf("OpenBlobFile of none: %v", err)
	}
	for _, d := range []digest.Digest{"", "x", "sha256:x", "sha256:../../../etc/passwd"} {
		if _, err := s.OpenBlob(ocispec.Descriptor{Digest: d}); err == nil {
			t.Errorf("OpenBlob(%q): no error", d)
		}
		if _, err := s.OpenBlobFile(ocispec.Descriptor{Digest: d}); err == nil {
			t.Errorf("OpenBlobFile(%q): no error", d)
		}
	}
}

func TestBlobWriter(t *testing.T) {
	const data = "some bytes"
	good := ocispec.Descriptor{Digest: digest.FromString(data), Size: int64(len(data))}
	for _, tt := range []struct {
		name string
		want ocispec.Descriptor
		ok   bool
	}{
		{"unknown", ocispec.Descriptor{MediaType: "m"}, true},
		{"known", good, true},
		{"other digest", ocispec.Descriptor{Digest: digest.FromString("x"), Size: good.Size}, false},
		{"other size", ocispec.Descriptor{Digest: good.Digest, Size: 3}, false},
	} {
		s := open(t)
		w, err := s.NewBlob()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, data[:3])
		io.WriteString(w, data[3:])
		desc, err := w.Commit(tt.want)
		if tt.ok && (err != nil || desc.Digest != good.Digest || desc.Size != good.Size || desc.MediaType != tt.want.MediaType || !s.Has(good)) {
			t.Errorf("%s: %v %v", tt.name, desc, err)
		}
		if !tt.ok && (!errors.Is(err, ErrCorrupt) || s.Has(good) || s.Has(tt.want)) {
			t.Errorf("%s: %v", tt.name, err)
		}
		w.Abort()
		if left, _ := filepath.Glob(s.Path("tmp", "*", "*")); len(left) > 0 {
			t.Errorf("%s: left %v", tt.name, left)
		}
	}
	s := open(t)
	w, err := s.NewBlob()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w.File(), data[:3])
	if err := w.CommitFile(good); !errors.Is(err, ErrCorrupt) || s.Has(good) {
		t.Errorf("CommitFile of too few bytes: %v", err)
	}
}

func TestCorruptBlob(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"changed":   func(b []byte) []byte { b[3] ^= 1; return b },
		"truncated": func(b []byte) []byte { return b[:len(b)-1] },
		"longer":    func(b []byte) []byte { return append(b, 'x') },
		"emptied":   func(b []byte) []byte { return nil },
	} {
		s := open(t)
		desc := add(t, s, "x")
		path := s.blobPath(desc.Digest)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, damage(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadBlob(desc, 1<<20); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), desc.Digest.String()) {
			t.Errorf("%s: ReadBlob: %v", name, err)
		}
		if _, err := s.Image(desc, image.HostPlatform()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: Image: %v", name, err)
		}
		if err := s.Tag(desc, "x"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: Tag: %v", name, err)
		}
		checkTable(t, s)
	}
}

func TestTag(t *testing.T) {
	s := open(t)
	a, b := add(t, s, "a"), add(t, s, "b")
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(s.Tag(a, "x", "y"))
	checkTable(t, s, "x="+short(a), "y="+short(a))

	before, err := os.Stat(s.Path("index.json"))
	do(err)
	do(s.Tag(a, "y"))
	after, err := os.Stat(s.Path("index.json"))
	do(err)
	if !os.SameFile(before, after) {
		t.Error("tagging again what has the name already writes the name table")
	}
	// A name that moves leaves its image its other names.
	do(s.Tag(b, "x"))
	checkTable(t, s, "x="+short(b), "y="+short(a))
	// An image that loses its last name stays.
	do(s.Tag(b, "y"))
	checkTable(t, s, "="+short(a), "x="+short(b), "y="+short(b))
	// A new name takes the place of namelessness.
	do(s.Tag(a, "z"))
	checkTable(t, s, "x="+short(b), "y="+short(b), "z="+short(a))

	c := add(t, s, "c")
	do(s.Tag(c))
	do(s.Tag(c))
	do(s.Tag(a))
	checkTable(t, s, "="+short(c), "x="+short(b), "y="+short(b), "z="+short(a))

	if err := s.Tag(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("none")}, "n"); !errors.Is(err, ErrNotFound) {
		t.Errorf("tag what isn't here: %v", err)
	}

	removed, err := s.Untag([]string{"x"})
	do(err)
	if len(removed) != 1 || removed[0].Name != "x" {
		t.Errorf("removed %v", removed)
	}
	checkTable(t, s, "="+short(c), "y="+short(b), "z="+short(a))
	removed, err = s.Untag(nil, b.Digest, c.Digest)
	do(err)
	if len(removed) != 2 {
		t.Errorf("removed %v", removed)
	}
	checkTable(t, s, "z="+short(a))
	for _, bad := range []func() ([]Entry, error){
		func() ([]Entry, error) { return s.Untag([]string{"z", "none"}) },
		func() ([]Entry, error) { return s.Untag([]string{"z"}, b.Digest) },
	} {
		if _, err := bad(); !errors.Is(err, ErrNotFound) {
			t.Errorf("untag what isn't here: %v", err)
		}
	}
	checkTable(t, s, "z="+short(a))
}

func TestResolve(t *testing.T) {
	s := open(t)
	a, b := add(t, s, "a"), add(t, s, "b")
	// One config under two manifests, as an image has that was loaded twice.
	c1, err := addTo(s, "c", ocispec.MediaTypeImageConfig)
	if err != nil {
		t.Fatal(err)
	}
	c2, err := addTo(s, "c", image.MediaTypeDockerConfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		desc  ocispec.Descriptor
		names []string
	}{
		{a, []string{"docker.io/library/a:1", "docker.io/library/a:latest"}},
		{b, []string{"docker.io/library/deadbeef:latest", "example.com/x/b@" + b.Digest.String()}},
		{c1, nil},
		{c2, []string{"docker.io/library/c:latest"}},
	} {
		if err := s.Tag(row.desc, row.names...); err != nil {
			t.Fatal(err)
		}
	}
	id := func(d ocispec.Descriptor) string {
		img, err := s.Image(d, image.HostPlatform())
		if err != nil {
			t.Fatal(err)
		}
		return img.ID().String()
	}
	for name, want := range map[string]ocispec.Descriptor{
		"a": a, "a:1": a, "docker.io/library/a": a, "deadbeef": b,
		"a@" + a.Digest.String():               a,
		"a:nothing@" + a.Digest.String():       a,
		"example.com/x/b@" + b.Digest.String(): b,
		a.Digest.String():                      a,
		a.Digest.Encoded():                     a,
		a.Digest.Encoded()[:12]:                a,
		id(a):                                  a,
		strings.TrimPrefix(id(a), "sha256:"):   a,
		id(a)[:19]:                             a,
		id(c1):                                 c2, // of two, the one with a name
		"c":                                    c2,
		c1.Digest.String():                     c1,
	} {
		e, err := s.Resolve(name)
		if err != nil || e.Desc.Digest != want.Digest {
			t.Errorf("Resolve(%q) = %v, %v, want %s", name, e.Desc.Digest, err, want.Digest)
		}
	}
	for _, name := range []string{
		"none", "a:2", "A", "", "sha256:", "abc", strings.Repeat("0", 64), "zzzz",
		"lib@" + a.Digest.String(), // the beginning of a name is no name
		"docker.io/library/deadbee@" + b.Digest.String(),
		"a@" + b.Digest.String(),
	} {
		if e, err := s.Resolve(name); err == nil || (!errors.Is(err, ErrNotFound) && !errors.Is(err, image.ErrInvalidRef)) {
			t.Errorf("Resolve(%q) = %v, %v", name, e, err)
		}
	}

	// IDs of which one digit tells them apart.
	many := open(t)
	first := map[string]int{}
	for i := range 3000 {
		desc, err := many.PutBlob(ocispec.MediaTypeImageManifest, fmt.Appendf(nil, "%d", i))
		if err != nil {
			t.Fatal(err)
		}
		first[desc.Digest.Encoded()[:4]]++
		if first[desc.Digest.Encoded()[:4]] == 2 {
			entries := []Entry{{Name: "docker.io/library/one:latest", Desc: desc}}
			for j := range i {
				if d := digest.FromString(fmt.Sprint(j)); d.Encoded()[:4] == desc.Digest.Encoded()[:4] {
					entries = append(entries, Entry{Name: "docker.io/library/two:latest", Desc: ocispec.Descriptor{MediaType: desc.MediaType, Digest: d, Size: 1}})
				}
			}
			if err := many.writeIndex(entries); err != nil {
				t.Fatal(err)
			}
			if _, err := many.Resolve(desc.Digest.Encoded()[:4]); err == nil || !strings.Contains(err.Error(), "ambiguous") {
				t.Errorf("ambiguous ID: %v", err)
			}
			return
		}
	}
	t.Error("no two digests begin alike")
}

func TestImageOfIndex(t *testing.T) {
	s := open(t)
	host := image.HostPlatform()
	other := image.Platform{OS: "linux", Architecture: "s390x"}
	own, missing := add(t, s, "own"), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}
	own.Platform, missing.Platform = &host, &other
	idx := index(t, s, missing, own)
	img, err := s.Image(idx, host)
	if err != nil || img.Desc.Digest != own.Digest || img.Config.Author != "own" {
		t.Errorf("Image = %v, %v", img.Desc, err)
	}
	if _, err := s.Image(idx, other); !errors.Is(err, ErrNotFound) {
		t.Errorf("a platform that isn't here: %v", err)
	}
	if _, err := s.Image(idx, image.Platform{OS: "linux", Architecture: "riscv64"}); err == nil || !strings.Contains(err.Error(), "linux/riscv64") {
		t.Errorf("a platform that the index lacks: %v", err)
	}
	refs, err := s.References(idx)
	if err != nil || len(refs) != 4 || refs[0].Digest != idx.Digest {
		t.Errorf("References = %v, %v", refs, err)
	}
	nested := idx
	nested.Platform = &host
	if _, err := s.Image(index(t, s, nested), host); !errors.Is(err, image.ErrInvalid) {
		t.Errorf("index in an index: %v", err)
	}
}

func TestCollect(t *testing.T) {
	s := open(t)
	kept, gone := add(t, s, "kept"), add(t, s, "gone")
	if err := s.Tag(kept, "x"); err != nil {
		t.Fatal(err)
	}
	extra, err := s.PutBlob("", []byte("extra"))
	if err != nil {
		t.Fatal(err)
	}
	goneRefs, err := s.References(gone)
	if err != nil {
		t.Fatal(err)
	}
	var want int64
	for _, r := range goneRefs {
		want += r.Size
	}
	other := openAt(t, s.root)
	if err := s.Exclusive(0, func() error { return nil }); !errors.Is(err, ErrBusy) {
		t.Errorf("Exclusive beside another: %v", err)
	}
	other.Close()
	var freed int64
	err = s.Exclusive(0, func() (err error) {
		freed, err = s.Collect(map[digest.Digest]bool{extra.Digest: true})
		return err
	})
	if err != nil || freed != want {
		t.Errorf("Collect = %d, %v, want %d", freed, err, want)
	}
	refs, err := s.References(kept)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range append(refs, extra) {
		if !s.Has(r) {
			t.Errorf("%s is gone", r.Digest)
		}
	}
	for _, r := range goneRefs {
		if s.Has(r) {
			t.Errorf("%s is left", r.Digest)
		}
	}
	// The store is held again.
	if err := openAt(t, s.root).Exclusive(0, func() error { return nil }); !errors.Is(err, ErrBusy) {
		t.Errorf("Exclusive beside the first: %v", err)
	}
}

func tagMany(s *Store, args []string) error {
	for i := range 20 {
		desc, err := addTo(s, fmt.Sprint(i), ocispec.MediaTypeImageConfig)
		if err != nil {
			return err
		}
		if err := s.Tag(desc, fmt.Sprintf("%s-%d", args[0], i), "shared"); err != nil {
			return err
		}
	}
	return nil
}

// Processes that name images at the same time lose none of each other's names.
func TestTagFromManyProcesses(t *testing.T) {
	root := t.TempDir()
	var helpers []*exec.Cmd
	for i := range 4 {
		cmd := helperCommand("tag", root, fmt.Sprint("p", i))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		helpers = append(helpers, cmd)
	}
	for _, cmd := range helpers {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	names := map[string]int{}
	s := openAt(t, root)
	entries, err := s.Entries()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names[e.Name]++
		if refs, err := s.References(e.Desc); err != nil || len(refs) != 3 {
			t.Errorf("%s: %v %v", e.Name, refs, err)
		}
	}
	if len(entries) != 81 || len(names) != 81 {
		t.Errorf("%d rows, %d names, want 81", len(entries), len(names))
	}
}

func holdTemp(s *Store, _ []string) error {
	dir, err := s.TempDir()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
		return err
	}
	fmt.Println(dir)
	_, err = io.ReadAll(os.Stdin) // until told to end, or killed
	return err
}

// What a killed process left is removed by the next, what a living one has is
// not.
func TestReap(t *testing.T) {
	s := open(t)
	var dirs []string
	var helpers []*exec.Cmd
	for range 2 {
		cmd := helperCommand("temp", s.root)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stdin.Close() })
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		dirs, helpers = append(dirs, strings.TrimSpace(line)), append(helpers, cmd)
	}
	own, err := s.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	stray := s.Path("tmp", "stray", "deep")
	if err := os.MkdirAll(stray, 0o700); err != nil {
		t.Fatal(err)
	}
	helpers[0].Process.Kill()
	helpers[0].Wait()
	s.Reap()
	for dir, want := range map[string]bool{dirs[0]: false, dirs[1]: true, own: true, stray: false} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v, want there: %t", dir, err, want)
		}
	}
	helpers[1].Process.Kill()
	helpers[1].Wait()
	s.Reap()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(s.root, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
