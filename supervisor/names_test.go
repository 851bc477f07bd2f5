// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// makeContainer makes one with a name, "" for its own.
func makeContainer(t *testing.T, r Records, name string, rm bool) (Config, error) {
	t.Helper()
	c := Config{ID: NewID(), Name: name, AutoRemove: rm}
	lock, err := r.Create(&c, func(string) error { return nil })
	if err != nil {
		return c, err
	}
	return c, lock.Release()
}

// unreadable makes a container whose record can't be read: who reads all records
// fails, until mend is called.
func unreadable(t *testing.T, r Records) (mend func()) {
	t.Helper()
	dir := r.Dir(NewID())
	if err := os.MkdirAll(filepath.Join(dir, "container.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := r.heads(); err == nil {
		t.Fatal("all records can be read")
	}
	return func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func links(t *testing.T, r Records, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(r.s.Path(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// TestNames finds containers by their names, whose records are read only where
// they have to be, and gives no name twice.
func TestNames(t *testing.T) {
	r, old := newRecords(t) // made by a version that knew of no links
	if c, err := r.Find(old.Name); err != nil || c.ID != old.ID {
		t.Errorf("without a link: %s, %v", c.ID, err)
	}
	if _, err := makeContainer(t, r, old.Name, false); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a name without a link is given twice: %v", err)
	}
	two, err := makeContainer(t, r, "two", false)
	if err != nil {
		t.Fatal(err)
	}
	own, err := makeContainer(t, r, "", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := makeContainer(t, r, own.Name, false); err == nil {
		t.Error("the name of one that was given none is given twice")
	}
	if got := links(t, r, "container-names"); got != ".all one two" {
		t.Errorf("there are links %s", got)
	}
	mend := unreadable(t, r)
	for name, want := range map[string]string{"two": two.ID, "/two": two.ID, two.ID: two.ID, two.ID[:12]: two.ID, own.Name: own.ID, own.ID[:5]: own.ID} {
		if c, err := r.Find(name); err != nil || c.ID != want {
			t.Errorf("%s: %s, %v", name, c.ID, err)
		}
	}
	if _, err := makeContainer(t, r, "three", false); err != nil {
		t.Errorf("a name beside a damaged record: %v", err)
	}
	mend()
	for _, name := range []string{"", "no", "../containers", "c-", "c-" + strings.Repeat("0", 12), ".all"} {
		if _, err := r.Find(name); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
	}
	// One that only looks like an own name is nobody's, however many IDs begin so.
	for range 17 {
		if _, err := makeContainer(t, r, "", false); err != nil {
			t.Fatal(err)
		}
	}
	for _, digit := range "0123456789abcdef" {
		if _, err := makeContainer(t, r, "c-"+string(digit), false); err != nil {
			t.Errorf("a name like an own one: %v", err)
		}
	}
	// A name is free once its container has another, or is gone.
	if err := r.Rename(two, "deux"); err != nil {
		t.Fatal(err)
	}
	if err := r.Rename(own, "deux"); err == nil {
		t.Error("a name is given twice by renaming")
	}
	if c, err := r.Find("deux"); err != nil || c.ID != two.ID {
		t.Errorf("renamed: %s, %v", c.ID, err)
	}
	if _, err := r.Find("two"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the old name: %v", err)
	}
	// A kill between link and record leaves a link that leads nowhere.
	if err := link(own.ID, r.nameLink("killed")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Find("killed"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a link to one of another name: %v", err)
	}
	if _, err := makeContainer(t, r, "killed", false); err != nil {
		t.Errorf("the name of a link that leads nowhere: %v", err)
	}
	deux, err := r.Find("deux")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(deux.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := makeContainer(t, r, "deux", false); err != nil {
		t.Errorf("the name of one that is gone: %v", err)
	}
}

// TestLinkedAtBoot looks at all records once after the machine has started: links
// may have been lost with a power cut.
func TestLinkedAtBoot(t *testing.T) {
	r, _ := newRecords(t)
	for _, name := range []string{"aa", "bb"} {
		if _, err := makeContainer(t, r, name, false); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"stale": NewID(), ".all": ""} {
		if err := os.Remove(r.nameLink(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if to != "" && link(to, r.nameLink(name)) != nil {
			t.Fatal(name)
		}
	}
	if err := os.WriteFile(r.allLinked(), []byte("another boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.nameLink("aa")); err != nil {
		t.Fatal(err)
	}
	if c, err := r.Find("aa"); err != nil || c.Name != "aa" {
		t.Errorf("without its link: %v", err)
	}
	if _, err := makeContainer(t, r, "aa", false); err == nil {
		t.Error("a name is given twice whose link was lost")
	}
	if got := links(t, r, "container-names"); got != ".all aa bb one" {
		t.Errorf("there are links %s", got)
	}
}

// TestSweep removes what would have removed itself, and looks at nothing else.
func TestSweep(t *testing.T) {
	r, stays := newRecords(t)
	gone, err := makeContainer(t, r, "gone", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.saveState(gone.ID, State{Status: Exited}); err != nil {
		t.Fatal(err)
	}
	if err := r.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Find("gone"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it is there: %v", err)
	}
	// One that a container is about to be made for stays, one of a killed command
	// does not.
	coming := NewID()
	if err := r.noteLeaving(coming); err != nil {
		t.Fatal(err)
	}
	if err := link("process-1-1-x", r.leaving(NewID())); err != nil {
		t.Fatal(err)
	}
	mend := unreadable(t, r)
	if err := r.Sweep(); err != nil {
		t.Fatal(err)
	}
	mend()
	if got := links(t, r, "container-leaving"); got != coming {
		t.Errorf("noted are %q, want %s", got, coming)
	}
	// Without links, as a power cut or an older version leaves it, all are read.
	old := Config{ID: NewID(), Name: "old", AutoRemove: true}
	if err := os.MkdirAll(r.Dir(old.ID), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.Save(old); err != nil {
		t.Fatal(err)
	}
	if err := r.saveState(old.ID, State{Status: Exited}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(r.s.Path("container-names")); err != nil {
		t.Fatal(err)
	}
	if err := r.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.load(old.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one without a link is there: %v", err)
	}
	if _, err := r.load(stays.ID); err != nil {
		t.Error(err)
	}
}
