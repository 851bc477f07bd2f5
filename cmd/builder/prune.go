// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"builder/build"
	"builder/internal/filelock"
	"builder/internal/sys"
	"builder/snapshot"
	"builder/store"
	"builder/supervisor"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// pruneFlags are prune's, as they are given.
type pruneFlags struct {
	all, force, dryRun                      bool
	filters                                 []string
	keepDuration                            time.Duration
	maxUsed, reserved, minFree, keepStorage string
}

func (f *pruneFlags) addFlags(fs *pflag.FlagSet) {
	fs.BoolVarP(&f.all, "all", "a", false, "also images without a container, all of the step cache, and all failed steps")
	fs.BoolVarP(&f.force, "force", "f", false, "don't ask")
	fs.BoolVar(&f.dryRun, "dry-run", false, "only show what would be removed")
	wordsVar(fs, &f.filters, "filter", "remove only what matches `NAME=VALUE`: until, label, label!, type")
	fs.DurationVar(&f.keepDuration, "keep-duration", 0, "keep what is no image and was used within this `TIME`")
	fs.StringVar(&f.maxUsed, "max-used-space", "", "remove, oldest use first, only until all takes at most this `SIZE`")
	fs.StringVar(&f.reserved, "reserved-space", "", "never go below this `SIZE`")
	fs.StringVar(&f.minFree, "min-free-space", "", "remove only until the disk has this `SIZE` free")
	fs.StringVar(&f.keepStorage, "keep-storage", "", "the older name of --reserved-space")
	fs.MarkHidden("keep-storage") //nolint:errcheck // it is there
	otherNames(fs, map[string]string{"max-used": "max-used-space", "reserved": "reserved-space", "min-free": "min-free-space"})
}

// pruning is what is to be removed.
type pruning struct {
	all         bool
	before      time.Time // last used; zero for whenever
	cacheBefore time.Time // the same of what is no image
	labels      []func(listed) bool
	kinds       []kind // nil for all
	quota
}

func runPrune(ctx context.Context, e *env, args []string) error {
	fs := flags("prune")
	var f pruneFlags
	f.addFlags(fs)
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	f.filters = e.pruneFilters(f.filters)
	p, err := f.parse(time.Now())
	if err != nil {
		return err
	}
	if !f.force && !f.dryRun {
		if err := e.confirmed("prune", p.what()...); err != nil {
			return err
		}
	}
	return p.remove(ctx, e, f.dryRun)
}

// remove removes what is to go, unless it is a dry run, and shows it.
func (p pruning) remove(ctx context.Context, e *env, dryRun bool) error {
	s, err := e.store()
	if err != nil {
		return err
	}
	chosen, err := p.choose(ctx, s)
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	if dryRun {
		return printPruned(e, chosen, "Would reclaim")
	}
	removed, err := removePieces(ctx, e, s, chosen)
	return errors.Join(err, printPruned(e, removed, "Total reclaimed space"))
}

func (f *pruneFlags) parse(now time.Time) (pruning, error) {
	p := pruning{all: f.all}
	if f.keepDuration > 0 {
		p.cacheBefore = now.Add(-f.keepDuration)
	}
	if f.keepStorage != "" && f.reserved == "" {
		f.reserved = f.keepStorage
	}
	for _, size := range []struct {
		flag, value string
		to          *int64
	}{{"max-used-space", f.maxUsed, &p.maxUsed}, {"reserved-space", f.reserved, &p.reserved}, {"min-free-space", f.minFree, &p.minFree}} {
		if size.value == "" {
			continue
		}
		n, err := units.RAMInBytes(size.value)
		if err != nil || n < 0 {
			return p, &usageError{msg: fmt.Sprintf("prune: --%s %s: want a size such as 10GB", size.flag, size.value)}
		}
		*size.to = n
	}
	for _, w := range f.filters {
		if err := p.filter(w); err != nil {
			return p, err
		}
	}
	return p, nil
}

// filter adds one --filter.
func (p *pruning) filter(word string) error {
	name, value, ok := strings.Cut(word, "=")
	bad := func(why string) error {
		return &usageError{msg: fmt.Sprintf("prune: --filter %s: %s", word, why)}
	}
	if !ok {
		return bad("want NAME=VALUE")
	}
	switch name {
	case "until":
		t, err := parseTime(value)
		if err != nil {
			return bad("want a time such as 2006-01-02T15:04:05 or a duration such as 24h")
		}
		if p.before.IsZero() || t.Before(p.before) {
			p.before = t
		}
	case "label", "label!":
		match := labelFilter(name, value)
		p.labels = append(p.labels, func(l listed) bool { return match(l.image.Config.Config.Labels) })
	case "type":
		known := map[string]kind{
			"image": kindImages, "regular": kindSteps, "exec.cachemount": kindMounts, "source.local": kindContexts,
			"source.git.checkout": kindFetched, "failed": kindFailed, "temporary": kindTemporary,
		}
		k, ok := known[value]
		if !ok {
			return bad("there are the types image, regular, exec.cachemount, source.local, source.git.checkout, failed and temporary")
		}
		p.kinds = append(p.kinds, k)
	default:
		return bad("there is no such filter; there are until, label, label! and type")
	}
	return nil
}

// what is to be removed, in words.
func (p pruning) what() []string {
	what := []string{"images without a name", "steps that no image, container or failed step needs"}
	if p.all {
		what = []string{"all images without a container", "all of the step cache that no container needs", "all failed steps"}
	}
	return append(what, "cache mounts, indexes of build contexts, and what was fetched", "what killed commands left")
}

// candidate reports whether a piece may go at all.
func (p pruning) candidate(c piece) bool {
	if c.garbage {
		return true
	}
	isImage := c.kind == kindImages
	most := needNone
	if p.all && !p.limited() {
		most = needFailed
	}
	switch {
	case c.need > most,
		p.kinds != nil && !slices.Contains(p.kinds, c.kind),
		p.labels != nil && !isImage,
		isImage && !p.before.IsZero() && c.used.IsZero(),
		!p.before.IsZero() && !c.used.Before(p.before),
		!isImage && !p.cacheBefore.IsZero() && !c.used.Before(p.cacheBefore):
		return false
	}
	return !slices.ContainsFunc(p.labels, func(f func(listed) bool) bool { return !f(c.image) })
}

// first reports whether a piece goes before everything else: others may be
// needed for its sake alone.
func (p pruning) first(c piece) bool {
	return c.garbage || ((c.kind == kindImages || c.kind == kindFailed) && p.candidate(c))
}

// choose returns what is to go, in its order.
func (p pruning) choose(ctx context.Context, s *store.Store) ([]piece, error) {
	v, err := newSurvey(s)
	if err != nil {
		return nil, err
	}
	v.doomed = p.first
	pieces, err := v.run(ctx)
	if err != nil {
		return nil, err
	}
	total := int64(0)
	for _, c := range pieces {
		total += c.size
	}
	goal, err := p.goal(s, total)
	if err != nil || total <= goal {
		return nil, err
	}
	slices.SortStableFunc(pieces, oldestFirst)
	var chosen []piece
	for _, c := range pieces {
		if p.first(c) {
			chosen = append(chosen, c)
			total -= c.size
		}
	}
	for _, c := range pieces {
		if total > goal && !p.first(c) && p.candidate(c) {
			chosen = append(chosen, c)
			total -= c.size
		}
	}
	return chosen, nil
}

// comeDownTo removes what nothing needs, oldest use first, until the bounds are kept.
func (e *env) comeDownTo(ctx context.Context, s *store.Store, q quota) error {
	chosen, err := pruning{quota: q}.choose(ctx, s)
	if err != nil {
		return fmt.Errorf("collect: %w", err)
	}
	if len(chosen) > 0 {
		// Others may be at work: then what they need stays for now.
		if _, err := removePieces(ctx, e, s, chosen); err != nil {
			e.logger().Debug("not all was collected", "err", err.Error())
		}
	}
	return nil
}

// goal is the size to come down to; below zero for as little as can be.
func (p pruning) goal(s *store.Store, total int64) (int64, error) {
	if !p.limited() {
		return -1, nil
	}
	goal := int64(math.MaxInt64)
	if p.maxUsed > 0 {
		goal = p.maxUsed
	}
	if p.minFree > 0 {
		free, err := sys.FreeSpace(s.Path())
		if err != nil {
			return 0, err
		}
		goal = min(goal, total-max(0, p.minFree-free))
	}
	if p.maxUsed+p.minFree == 0 {
		goal = 0
	}
	return max(goal, p.reserved), nil
}

// removePieces removes pieces and returns those that are gone: not what
// somebody began to use meanwhile. It may be killed at any moment.
func removePieces(ctx context.Context, e *env, s *store.Store, chosen []piece) (removed []piece, err error) {
	var shared []piece // what no lock of its own guards
	for _, p := range chosen {
		switch p.kind {
		case kindMounts, kindContexts, kindFetched:
			ok, err := removeUnused(s, p)
			if err != nil {
				return removed, err
			}
			if ok {
				removed = append(removed, p)
			}
		case kindTemporary:
			left, err := sweepVolumes(s, p)
			if err != nil {
				return removed, err
			}
			if left {
				continue
			}
			s.Reap() // it may be a killed command's, or need the collection
			if _, err := os.Lstat(p.path); errors.Is(err, os.ErrNotExist) {
				removed = append(removed, p)
				continue
			}
			shared = append(shared, p)
		default:
			shared = append(shared, p)
		}
	}
	if len(shared) == 0 {
		return removed, nil
	}
	busy, err := collect(ctx, e, pruneWait, func(failed build.FailedSteps, snapshots snapshot.Snapshotter) error {
		gone, err := removeShared(ctx, s, shared, failed, snapshots)
		removed = append(removed, gone...)
		return err
	})
	if err == nil && busy {
		err = &busyError{}
	}
	return removed, err
}

// sweepVolumes removes what is left of volumes if a piece is a part of it, and
// reports whether the piece stays: it may be a container's.
func sweepVolumes(s *store.Store, p piece) (stays bool, err error) {
	if filepath.Dir(p.path) != s.Path("volumes") {
		return false, nil
	}
	records := supervisor.NewRecords(s)
	if err := records.Volumes().Sweep(records.UsesVolume); err != nil {
		return true, err
	}
	_, err = os.Lstat(p.path)
	return err == nil, nil
}

// pruneWait is how long prune waits for other commands to end. No command begins
// meanwhile.
const pruneWait = time.Second

// busyError says that not all was removed.
type busyError struct{}

func (*busyError) Error() string {
	return "prune: images, steps and blobs stay: another builder command uses the state directory"
}

func (*busyError) Hint() string { return "run builder prune again when it has ended" }

// removeUnused removes a piece that has a lock of its own, unless it is held.
func removeUnused(s *store.Store, p piece) (bool, error) {
	if p.lock != "" {
		lock, err := filelock.TryAcquire(s.Path("locks", p.lock), filelock.Exclusive)
		if errors.Is(err, filelock.ErrLocked) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		defer lock.Release()
	}
	dir, err := s.TempDir()
	if err != nil {
		return false, err
	}
	for i, name := range p.files {
		// The name goes first and at once; the tree may take its time.
		gone := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Rename(name, gone); err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, fmt.Errorf("remove %s: %w", p.id, err)
		}
	}
	return true, os.RemoveAll(dir)
}

// removeShared takes away the names of pieces, which is what the collection
// that follows goes by.
func removeShared(ctx context.Context, s *store.Store, pieces []piece, failed build.FailedSteps, snapshots snapshot.Snapshotter) (removed []piece, err error) {
	for _, p := range pieces {
		ok := true
		switch p.kind {
		case kindImages:
			ok, err = untagUnused(s, p)
		case kindFailed:
			if err = failed.Remove(ctx, p.failed, snapshots); errors.Is(err, filelock.ErrLocked) {
				ok, err = false, nil
			}
		case kindSteps:
			for _, name := range p.files {
				if err = os.RemoveAll(name); err != nil {
					break
				}
			}
		}
		if err != nil {
			return removed, err
		}
		if ok {
			removed = append(removed, p)
		}
	}
	return removed, nil
}

// untagUnused removes an image, unless it got another name or a container
// since it was looked at.
func untagUnused(s *store.Store, p piece) (bool, error) {
	entries, err := s.Entries()
	if err != nil {
		return false, err
	}
	now := slices.DeleteFunc(entries, func(e store.Entry) bool { return e.Desc.Digest != p.image.entry.Desc.Digest })
	containers, err := supervisor.NewRecords(s).List()
	if err != nil {
		return false, err
	}
	mounts, err := mountsOf(s).list()
	if err != nil {
		return false, err
	}
	used := slices.ContainsFunc(mounts, func(r mounted) bool { return r.ImageID == p.image.image.ID().String() }) || slices.ContainsFunc(containers, func(c supervisor.Container) bool { return c.ImageID == p.image.image.ID().String() })
	if used || len(now) == 0 || (p.need == needNone && now[0].Name != "") {
		return false, nil
	}
	var gone []store.Entry
	if p.need == needNone {
		gone, err = s.Remove(nil, p.image.entry.Desc.Digest)
	} else {
		gone, err = s.Untag(nil, p.image.entry.Desc.Digest)
	}
	if err != nil {
		return false, err
	}
	for _, e := range gone {
		if e.Name != "" {
			noteImageRead(s, "untag", p.image.image, e.Name)
		}
	}
	noteImageRead(s, "delete", p.image.image)
	return true, nil
}

func printPruned(e *env, pieces []piece, total string) error {
	var size int64
	w := tabwriter.NewWriter(e.stdout, 0, 0, 3, ' ', 0)
	for i, p := range pieces {
		if i == 0 {
			fmt.Fprintln(w, "TYPE\tID\tSIZE\tLAST USED\tDESCRIPTION")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.kind, truncate(p.id, 19), humanSize(p.size), lastUsed(p.used), truncate(p.about, 60))
		size += p.size
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(e.stdout, "%s: %s\n", total, humanSize(size))
	return err
}
