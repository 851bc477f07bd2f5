// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"builder/store"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T) *Cache {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c, err := Open(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func sum(f func(h *Hash)) Key {
	h := NewHash("test")
	f(h)
	return h.Sum()
}

// TestKeysAreUnambiguous holds that no two different lists of fields make one
// key, wherever their bytes are cut.
func TestKeysAreUnambiguous(t *testing.T) {
	keys := map[string]Key{
		"ab c":        sum(func(h *Hash) { h.Add("ab", "c") }),
		"a bc":        sum(func(h *Hash) { h.Add("a", "bc") }),
		"a b, c d":    sum(func(h *Hash) { h.Add("a", "b"); h.Add("c", "d") }),
		"a 'b c d'":   sum(func(h *Hash) { h.Add("a", "b\x01c\x01d") }),
		"list x y":    sum(func(h *Hash) { h.AddList("l", []string{"x", "y"}) }),
		"list x, y":   sum(func(h *Hash) { h.AddList("l", []string{"x"}); h.AddList("l", []string{"y"}) }),
		"list xy":     sum(func(h *Hash) { h.AddList("l", []string{"xy"}) }),
		"empty list":  sum(func(h *Hash) { h.AddList("l", nil) }),
		"empty":       sum(func(*Hash) {}),
		"empty field": sum(func(h *Hash) { h.Add("", "") }),
		"other kind":  NewHash("other").Sum(),
	}
	seen := map[Key]string{}
	for name, k := range keys {
		if other, ok := seen[k]; ok {
			t.Errorf("%q and %q have one key", name, other)
		}
		seen[k] = name
		if len(k) != 64 {
			t.Errorf("%q: key %q is no SHA-256", name, k)
		}
	}
	if again := sum(func(h *Hash) { h.Add("ab", "c") }); again != keys["ab c"] {
		t.Error("the same fields give another key")
	}
}

func TestRecords(t *testing.T) {
	c := open(t)
	h := NewHash("run")
	h.Add("arg", "make")
	rec := &Record{Key: h.Sum(), Snapshot: "s1", Instruction: "RUN make", Created: time.Unix(1, 0).UTC(), Fields: h.Fields()}
	if _, err := c.Get(rec.Key); !errors.Is(err, ErrMiss) {
		t.Errorf("before Put: %v, want ErrMiss", err)
	}
	if err := c.Put(rec); err != nil {
		t.Fatal(err)
	}
	got, err := c.Get(rec.Key)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(rec, got); d != "" {
		t.Error(d)
	}
	n := 0
	if err := c.Walk(func(*Record) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("Walk finds %d records (%v), want 1", n, err)
	}
	file := c.file("steps", string(rec.Key), ".json")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"empty": "", "torn": string(whole[:len(whole)/2]), "other": `{"key":"x","snapshot":"y"}`, "no snapshot": `{"key":"` + string(rec.Key) + `"}`} {
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Get(rec.Key); !errors.Is(err, ErrMiss) {
			t.Errorf("%s record: %v, want ErrMiss", name, err)
		}
	}
}

func TestMemo(t *testing.T) {
	c := open(t)
	k := NewHash("memo").Sum()
	if v := c.Memo(k); v != "" {
		t.Errorf("unknown memo is %q", v)
	}
	if err := c.SetMemo(k, "value"); err != nil {
		t.Fatal(err)
	}
	if v := c.Memo(k); v != "value" {
		t.Errorf("memo is %q, want value", v)
	}
	file := c.file("memo", string(k), "")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data[:len(data)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if v := c.Memo(k); v != "" {
		t.Errorf("a torn memo is %q, want none", v)
	}
}

func TestLockExcludes(t *testing.T) {
	c := open(t)
	k := NewHash("lock").Sum()
	first, err := c.Lock(t.Context(), k, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	waited := errors.New("waited")
	_, err = c.Lock(ctx, k, func() { cancel(waited) })
	if !errors.Is(err, waited) {
		t.Errorf("a second holder gets %v, want to wait", err)
	}
	if err := first.ReleaseAndRemove(); err != nil {
		t.Fatal(err)
	}
	second, err := c.Lock(t.Context(), k, func() { t.Error("waits for nobody") })
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
}

func TestMountSharing(t *testing.T) {
	c := open(t)
	take := func(sharing Sharing) (*Mount, error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		return c.OpenMount(ctx, "id/../with: odd\x00things", sharing, cancel)
	}
	a, err := take(SharingShared)
	if err != nil {
		t.Fatal(err)
	}
	if !a.Fresh || filepath.Dir(a.Dir) != c.s.Path("cache", "mounts") {
		t.Errorf("first use: fresh %t, directory %s", a.Fresh, a.Dir)
	}
	b, err := take(SharingShared)
	if err != nil || b.Dir != a.Dir || b.Fresh {
		t.Errorf("shared twice: %v, %+v", err, b)
	}
	if _, err := take(SharingLocked); !errors.Is(err, context.Canceled) {
		t.Errorf("locked beside shared: %v, want to wait", err)
	}
	p, err := take(SharingPrivate)
	if err != nil || p.Dir == a.Dir || !p.Fresh {
		t.Errorf("private beside shared: %v, %+v", err, p)
	}
	a.Release()
	b.Release()
	q, err := take(SharingPrivate)
	if err != nil || q.Dir != a.Dir {
		t.Errorf("private takes what is free: %v, %+v", err, q)
	}
	p.Release()
	q.Release()
	l, err := take(SharingLocked)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := take(SharingShared); !errors.Is(err, context.Canceled) {
		t.Errorf("shared beside locked: %v, want to wait", err)
	}
	l.Release()
}

func BenchmarkKey(b *testing.B) {
	b.ReportAllocs()
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=1", "B=2"}
	for b.Loop() {
		h := NewHash("run")
		h.Add("parent", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
		h.AddList("arg", []string{"/bin/sh", "-c", "apt-get update && apt-get install -y build-essential"})
		h.AddList("env", env)
		h.Sum()
	}
}
