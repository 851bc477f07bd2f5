// SPDX-License-Identifier: Apache-2.0

package remotecache

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"builder/image"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func sum(s string) digest.Digest { return digest.FromString(s) }

// layersOf makes layers of which blobs and diffIDs follow from names.
func layersOf(created time.Time, names ...string) Layers {
	l := Layers{Created: created}
	for _, n := range names {
		l.Blobs = append(l.Blobs, ocispec.Descriptor{MediaType: image.MediaTypeDockerLayerGzip, Digest: sum("blob " + n), Size: int64(len(n))})
		l.DiffIDs = append(l.DiffIDs, sum("diff "+n))
	}
	return l
}

// TestRoundTrip writes a cache and reads what was written: inline and not.
func TestRoundTrip(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	one, two := layersOf(at, "base", "one"), layersOf(at.Add(time.Hour), "base", "one", "two")
	write := func() *Writer {
		w := &Writer{}
		root := w.Add(sum("root"), nil, nil)
		first := w.Add(sum("step"), [][]Input{{{Selector: "all", Link: root}}}, &one)
		w.Add(sum("step"), [][]Input{{{Link: first}}}, &two)
		w.Add(sum("flat"), nil, &two)
		w.Add(sum("flat"), nil, &one) // has a result already
		w.Add(sum("memo"), [][]Input{{{Link: w.Add(sum("content"), nil, nil)}}}, nil)
		return w
	}
	w := write()
	if n := len(w.Blobs()); n != 3 {
		t.Errorf("%d blobs, want 3", n)
	}
	config, err := w.Config()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := write().Config(); string(again) != string(config) {
		t.Error("the same calls gave other bytes")
	}
	check := func(c *Cache) {
		t.Helper()
		if got, ok := c.Find(sum("flat")); !ok || !slices.Equal(got.DiffIDs, two.DiffIDs) || !got.Created.Equal(two.Created) {
			t.Errorf("flat: %+v, %t", got, ok)
		}
		if d, ok := c.Linked(sum("memo")); !ok || d != sum("content") {
			t.Errorf("memo: %s, %t", d, ok)
		}
		if !c.Has(sum("root")) || c.Has(sum("memo")) {
			t.Error("records without inputs are not told from others")
		}
		first := c.Step(sum("step"), [][]From{{{Records: c.Root(sum("root")), Selector: "all"}}})
		if got, ok := c.Result(first); !ok || !slices.Equal(got.DiffIDs, one.DiffIDs) {
			t.Errorf("first step: %+v, %t", got, ok)
		}
		if got, ok := c.Result(c.Step(sum("step"), [][]From{{{Records: first}}})); !ok || !slices.Equal(got.DiffIDs, two.DiffIDs) {
			t.Errorf("second step: %+v, %t", got, ok)
		}
		if other := c.Step(sum("step"), [][]From{{{Records: c.Root(sum("root")), Selector: "some"}}}); len(other) != 0 {
			t.Errorf("another selector finds %v", other)
		}
	}
	for _, form := range []Form{{}, {Index: true}, {Index: true, DockerTypes: true}} {
		desc := ocispec.Descriptor{MediaType: MediaTypeConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
		_, manifest, err := Manifest(desc, w.Blobs(), form)
		if err != nil {
			t.Fatal(err)
		}
		parts, err := ParseManifest(manifest)
		if err != nil || parts.Config.Digest != desc.Digest || len(parts.Layers) != 3 || len(parts.Images) != 0 {
			t.Fatalf("%+v: %+v, %v", form, parts, err)
		}
		c, err := New(config, parts.Layers)
		if err != nil {
			t.Fatal(err)
		}
		check(c)
	}
	inline, err := w.Inline(two.Blobs)
	if err != nil {
		t.Fatal(err)
	}
	img, err := json.Marshal(map[string]any{"rootfs": ocispec.RootFS{Type: "layers", DiffIDs: two.DiffIDs}, "moby.buildkit.cache.v0": inline})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewInline(img, two.Blobs)
	if err != nil {
		t.Fatal(err)
	}
	check(c)
}

// TestHostile reads caches that are wrong, or want too much.
func TestHostile(t *testing.T) {
	long := Config{}
	for i := range 600 {
		long.Layers = append(long.Layers, Layer{Blob: sum(fmt.Sprint(i)), Parent: i - 1})
	}
	longData, err := json.Marshal(long)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, config, want string }{
		{"no JSON", `{"layers":`, "config"},
		{"circle", `{"layers":[{"blob":"a","parent":1},{"blob":"b","parent":0}]}`, "lies on itself"},
		{"itself", `{"layers":[{"blob":"a","parent":0}]}`, "lies on itself"},
		{"parent", `{"layers":[{"blob":"a","parent":7}]}`, "layer 7 of 1"},
		{"below", `{"layers":[{"blob":"a","parent":-2}]}`, "layer -2 of 1"},
		{"result", `{"records":[{"digest":"x","layers":[{"layer":0}]}]}`, "layer 0 of 0"},
		{"chain", `{"records":[{"digest":"x","chains":[{"layers":[-1]}]}]}`, "layer -1 of 0"},
		{"link", `{"records":[{"digest":"x","inputs":[[{"link":1}]]}]}`, "record 1 of 1"},
		{"long chain", `{"layers":[{"blob":"a","parent":-1}],"records":[{"chains":[{"layers":[` + strings.Repeat("0,", 600) + `0]}]}]}`, "601 layers"},
		{"deep", string(longData), "501 layers"},
	} {
		if _, err := New([]byte(c.config), nil); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	for _, c := range []struct{ name, manifest, want string }{
		{"no JSON", `[`, "manifest"},
		{"both", `{"manifests":[],"layers":[]}`, "index too"},
		{"digest", `{"layers":[{"digest":"sha256:1"}]}`, "digest"},
		{"size", `{"layers":[{"digest":"` + sum("").String() + `","size":-1}]}`, "size -1"},
		{"config", `{"config":{"mediaType":"` + MediaTypeConfig + `","digest":"` + sum("").String() + `","size":99999999}}`, "99999999 bytes"},
	} {
		if _, err := ParseManifest([]byte(c.manifest)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	// A result whose layer isn't named, or has no diffID, is none.
	l := layersOf(time.Time{}, "a")
	w := &Writer{}
	w.Add(sum("x"), nil, &l)
	config, _ := w.Config()
	for _, layers := range [][]ocispec.Descriptor{nil, l.Blobs} {
		c, err := New(config, layers)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := c.Find(sum("x")); ok {
			t.Errorf("a result of layers %v", layers)
		}
	}
}

// FuzzCache asks a cache of any bytes everything: it ends, and every result has
// as many diffIDs as blobs.
func FuzzCache(f *testing.F) {
	w := &Writer{}
	l := layersOf(time.Now(), "a", "b")
	root := w.Add(sum("root"), nil, nil)
	w.Add(sum("x"), [][]Input{{{Link: root}}}, &l)
	w.Add(sum("y"), nil, &l)
	config, _ := w.Config()
	_, manifest, _ := Manifest(ocispec.Descriptor{MediaType: MediaTypeConfig, Digest: sum(""), Size: 1}, w.Blobs(), Form{})
	f.Add(config, manifest)
	f.Add([]byte(`{"records":[{"inputs":[[{"link":0}]]}]}`), []byte(`{"manifests":[]}`))
	f.Fuzz(func(t *testing.T, config, manifest []byte) {
		parts, err := ParseManifest(manifest)
		if err != nil {
			return
		}
		inline, err := NewInline(config, parts.Layers)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatal(err)
		}
		c, err := New(config, parts.Layers)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatal(err)
		}
		for _, c := range []*Cache{c, inline} {
			if c == nil {
				continue
			}
			for _, r := range c.config.Records {
				c.Linked(r.Digest)
				got, ok := c.Find(r.Digest)
				if ok && (len(got.Blobs) == 0 || len(got.Blobs) != len(got.DiffIDs)) {
					t.Errorf("%d blobs, %d diffIDs", len(got.Blobs), len(got.DiffIDs))
				}
				c.Step(r.Digest, [][]From{{{Records: c.Root(r.Digest)}}})
			}
		}
	})
}
