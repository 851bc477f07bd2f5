// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"builder/build"
	"builder/cache"
	"builder/image"
	"builder/internal/filelock"
	"builder/internal/sys"
	"builder/rootfs"
	"builder/snapshot"
	"builder/store"
	"builder/supervisor"

	"github.com/opencontainers/go-digest"
)

// kind is a row of df.
type kind string

const (
	kindImages     kind = "images"
	kindContainers kind = "containers"
	kindVolumes    kind = "volumes"
	kindSteps      kind = "step cache"
	kindMounts     kind = "cache mounts"
	kindContexts   kind = "contexts"
	kindFetched    kind = "fetched"
	kindFailed     kind = "failed steps"
	kindTemporary  kind = "temporary"
	kindOther      kind = "other"
)

// kinds are all of them, in the order that they are shown in.
func kinds() []kind {
	return []kind{kindImages, kindContainers, kindVolumes, kindSteps, kindMounts, kindContexts, kindFetched, kindFailed, kindTemporary, kindOther}
}

// need is why a piece stays. Those up to needFailed end with prune --all.
type need int

const (
	needNone   need = iota
	needImage       // an image has it
	needFailed      // it is a failed step of the last week, or below one
	needUse         // a container, a running command, or the state directory itself
)

// piece is a part of the state directory that is kept or removed as a whole.
// Every file of it is in one piece: what several need is in the first.
type piece struct {
	kind  kind
	id    string
	about string
	size  int64
	used  time.Time // last
	need  need
	idle  bool // a container that doesn't run, or a volume without containers

	image    listed       // an image's
	snapshot snapshot.ID  // a step's, with its depth in the stack
	depth    int          //
	failed   build.Failed // a failed step's
	files    []string     // what to remove, while lock is held if it isn't ""
	lock     string
	path     string // something temporary's
	garbage  bool   // removed by every collection, whatever is chosen
}

// survey finds the pieces of a state directory.
type survey struct {
	s   *store.Store
	rfs *rootfs.RootFS
	c   *cache.Cache

	chains rootfs.Chains

	// doomed says which images and failed steps to take as gone already;
	// nil for none. They are pieces still.
	doomed func(p piece) bool

	meter  sys.Meter
	pieces []piece
	needs  map[snapshot.ID]need
	imaged map[snapshot.ID]bool // measured with an image
	err    error
}

func newSurvey(s *store.Store) (*survey, error) {
	rfs, err := rootfs.Open(s)
	if err != nil {
		return nil, err
	}
	c, err := cache.Open(s)
	if err != nil {
		return nil, err
	}
	chains, err := rfs.Chains()
	return &survey{s: s, rfs: rfs, c: c, chains: chains, needs: map[snapshot.ID]need{}, imaged: map[snapshot.ID]bool{}}, err
}

// run returns the pieces. Together they are all that du finds.
func (v *survey) run(ctx context.Context) ([]piece, error) {
	v.containers(ctx)
	v.images(ctx)
	v.failed(ctx)
	v.steps(ctx)
	v.listed(kindMounts, "mount-", "cache/mounts")
	v.listed(kindContexts, "", "cache/contexts")
	v.listed(kindFetched, "http-", "cache/http")
	v.listed(kindFetched, "git-", "cache/git")
	v.listed(kindFetched, "coming-", "coming")
	v.trees()
	v.temporary()
	v.rest()
	return v.pieces, v.err
}

// add measures the files of a piece and keeps it. Several names of one piece
// count once.
func (v *survey) add(p piece, paths ...string) {
	for _, name := range paths {
		size, err := v.meter.Take(name)
		v.fail(err)
		p.size += size
	}
	v.pieces = append(v.pieces, p)
}

func (v *survey) fail(err error) {
	if v.err == nil {
		v.err = err
	}
}

// names lists a directory of the state directory, which may be missing.
func (v *survey) names(dir string) []string {
	entries, err := os.ReadDir(v.s.Path(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.fail(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// require notes that a snapshot and all below it are needed.
func (v *survey) require(ctx context.Context, id snapshot.ID, n need) {
	info, err := v.rfs.Snapshots().Stat(ctx, id)
	if errors.Is(err, snapshot.ErrNotFound) {
		return
	}
	v.fail(err)
	for _, id := range append([]snapshot.ID{id}, info.Parents...) {
		v.needs[id] = max(v.needs[id], n)
	}
}

func (v *survey) containers(ctx context.Context) {
	mounts, err := mountsOf(v.s).list()
	v.fail(err)
	for _, m := range mounts {
		v.require(ctx, snapshot.ID(m.Snapshot), needUse)
	}
	records := supervisor.NewRecords(v.s)
	all, err := records.List()
	v.fail(err)
	uses := map[string]bool{}
	for _, r := range all {
		if r.Snapshot != "" {
			v.require(ctx, snapshot.ID(r.Snapshot), needUse)
		}
		for _, m := range r.Mounts {
			if m.Type == supervisor.MountVolume {
				uses[m.Source] = true
			}
		}
	}
	volumes, err := records.Volumes().List()
	v.fail(err)
	for _, vol := range volumes {
		v.add(piece{kind: kindVolumes, id: vol.Name, used: vol.Created, need: needUse, idle: !uses[vol.Name]}, v.s.Path("volumes", vol.Name))
	}
	for _, r := range all {
		v.add(piece{
			kind: kindContainers, id: r.ID, about: r.Name, used: latest(r.Created, r.State.Finished), need: needUse,
			idle: !r.State.Alive() && r.State.Status != supervisor.Restarting,
		}, v.s.Path("containers", r.ID))
	}
}

// images makes a piece of each image: its blobs, and what they were unpacked
// to. Doomed ones come last, so that they have what no other image needs.
func (v *survey) images(ctx context.Context) {
	all, err := listImages(v.s)
	v.fail(err)
	containers, err := supervisor.NewRecords(v.s).List()
	v.fail(err)
	mounts, err := mountsOf(v.s).list()
	v.fail(err)
	var gone []piece
	seen := map[digest.Digest]bool{}
	for _, l := range all {
		if seen[l.entry.Desc.Digest] {
			continue // another name of it
		}
		seen[l.entry.Desc.Digest] = true
		p := piece{kind: kindImages, id: l.id(true), about: none, used: l.created(), need: needImage, image: l}
		switch {
		case slices.ContainsFunc(containers, func(c supervisor.Container) bool { return c.ImageID == l.image.ID().String() }),
			slices.ContainsFunc(mounts, func(r mounted) bool { return r.ImageID == l.image.ID().String() }):
			p.need = needUse
		case l.entry.Name == "":
			p.need = needNone
		}
		if l.entry.Name != "" {
			p.about = familiarName(l.entry.Name)
		}
		if v.doomed != nil && v.doomed(p) {
			gone = append(gone, p)
			continue
		}
		v.image(ctx, p, true)
	}
	for _, p := range gone {
		v.image(ctx, p, false)
	}
}

func (v *survey) image(ctx context.Context, p piece, stays bool) {
	refs, err := v.s.References(p.image.entry.Desc)
	if !errors.Is(err, store.ErrNotFound) {
		v.fail(err)
	}
	paths := make([]string, 0, len(refs))
	for _, r := range refs {
		paths = append(paths, v.s.Path("blobs", r.Digest.Algorithm().String(), r.Digest.Encoded()))
	}
	// Of an index, what this machine runs is unpacked, as a collection sees it.
	if img, err := v.s.Image(p.image.entry.Desc, image.HostPlatform()); err == nil && stays {
		ids, err := v.rfs.ImageSnapshots(ctx, v.chains, img)
		v.fail(err)
		for id := range ids {
			v.needs[id] = max(v.needs[id], needImage, p.need)
			v.imaged[id] = true
			paths = append(paths, v.s.Path("snapshots", string(id)))
		}
	}
	v.add(p, paths...)
}

func (v *survey) failed(ctx context.Context) {
	steps := build.NewFailedSteps(v.s)
	all, err := steps.List()
	v.fail(err)
	for _, f := range all {
		p := piece{kind: kindFailed, id: f.ID, about: f.Step, used: f.Created, need: needFailed, failed: f}
		switch {
		case v.locked("failed-" + f.ID):
			p.need = needUse
		case steps.Expired(f, time.Now()):
			p.need = needNone
		}
		below := max(needFailed, p.need)
		if v.doomed != nil {
			below = needUse // it stays, so what it stands on does
		}
		if v.doomed == nil || !v.doomed(p) {
			for _, id := range f.Snapshots() {
				v.require(ctx, id, below)
			}
		}
		v.add(p, v.s.Path("failed", f.ID+".json"), v.s.Path("snapshots", string(f.Snapshot)))
	}
}

// steps makes a piece of each snapshot that is no failed step's: the step
// records that name it, the layer made of it, and itself if no image has it.
func (v *survey) steps(ctx context.Context) {
	records, files := v.records()
	layers, err := v.rfs.LayerFiles()
	v.fail(err)
	failed := map[snapshot.ID]bool{}
	for _, p := range v.pieces {
		failed[p.failed.Snapshot] = true
	}
	used := map[snapshot.ID]time.Time{}
	var infos []snapshot.Info
	v.fail(v.rfs.Snapshots().Walk(ctx, func(info snapshot.Info) error {
		if failed[info.ID] {
			return nil
		}
		infos = append(infos, info)
		last := info.Created
		for _, f := range files[info.ID] {
			if fi, err := os.Stat(f); err == nil {
				last = latest(last, fi.ModTime())
			}
		}
		// What something stands on is used when that is.
		for _, id := range append([]snapshot.ID{info.ID}, info.Parents...) {
			used[id] = latest(used[id], last)
		}
		return nil
	}))
	for _, info := range infos {
		p := piece{
			kind: kindSteps, id: string(info.ID), about: records[info.ID], used: used[info.ID], need: v.needs[info.ID],
			snapshot: info.ID, depth: len(info.Parents), files: files[info.ID],
		}
		if len(p.files) == 0 {
			if v.imaged[info.ID] {
				continue // an image's, and in the image's piece
			}
			p.garbage = p.need == needNone
		}
		paths := append([]string{v.s.Path("snapshots", p.id)}, p.files...)
		for _, l := range layers[info.ID] {
			paths = append(paths, l.Path)
			if l.Blob != "" {
				paths = append(paths, v.s.Path("blobs", l.Blob.Algorithm().String(), l.Blob.Encoded()))
			}
		}
		delete(files, info.ID)
		v.add(p, paths...)
	}
	for id, names := range files { // their snapshots are gone, or were never made
		p := piece{kind: kindSteps, id: string(id), about: records[id], files: names}
		for _, name := range names {
			p.used = latest(p.used, modified(name))
		}
		v.add(p, names...)
	}
	if memo := v.s.Path("cache", "memo"); len(v.names("cache/memo")) > 0 {
		v.add(piece{kind: kindSteps, id: "memo", about: "digests of what was copied", used: v.newest("cache/memo/*/*"), files: []string{memo}}, memo)
	}
	v.add(piece{kind: kindOther, id: "layers", about: "which layers snapshots make", need: needUse}, v.s.Path("layers"), v.s.Path("chains"), v.s.Path("converted"))
}

// records returns the instruction and the record files of each snapshot that
// has some. A file that is no record is one of the snapshot "", and one that
// knows layers only is one of a snapshot of its own.
func (v *survey) records() (about map[snapshot.ID]string, files map[snapshot.ID][]string) {
	about, files = map[snapshot.ID]string{}, map[snapshot.ID][]string{}
	names, err := filepath.Glob(v.s.Path("cache", "steps", "*", "*.json"))
	v.fail(err)
	for _, name := range names {
		r, err := v.c.Get(cache.Key(strings.TrimSuffix(filepath.Base(name), ".json")))
		if err != nil {
			r = &cache.Record{Instruction: "damaged record"}
		} else if r.Snapshot == "" {
			r.Snapshot = "record-" + string(r.Key[:16])
		}
		about[snapshot.ID(r.Snapshot)] = r.Instruction
		files[snapshot.ID(r.Snapshot)] = append(files[snapshot.ID(r.Snapshot)], name)
	}
	return about, files
}

// listed makes a piece of each name in a directory; whoever uses one holds the
// lock of that name.
func (v *survey) listed(k kind, lock, dir string) {
	for _, name := range v.names(dir) {
		if strings.HasPrefix(name, ".tmp-") {
			continue // being written
		}
		path := v.s.Path(dir, name)
		p := piece{kind: k, id: name, about: dir, used: modified(path), files: []string{path}}
		if lock != "" {
			p.lock = lock + name
			p.used = latest(p.used, modified(v.s.Path("locks", p.lock)))
			if v.locked(p.lock) {
				p.need = needUse
			}
		}
		v.add(p, path)
	}
}

func (v *survey) trees() {
	for _, ref := range v.names("cache/trees") {
		v.listed(kindFetched, "tree-", filepath.Join("cache/trees", ref))
	}
}

// temporary is what commands are writing, and what killed ones left.
func (v *survey) temporary() {
	for _, name := range v.names("tmp") {
		if strings.HasSuffix(name, ".lock") {
			continue
		}
		path := v.s.Path("tmp", name)
		p := piece{kind: kindTemporary, id: "tmp/" + name, about: "left by a command that was killed", used: modified(path), garbage: true, path: path}
		if lockHeld(path + ".lock") {
			p.need, p.garbage, p.about = needUse, false, "of a command that runs"
		}
		v.add(p, path)
	}
	v.volumeRemains()
	detached, damaged, err := v.rfs.Snapshots().Remains()
	v.fail(err)
	for _, id := range damaged {
		detached = append(detached, v.s.Path("snapshots", string(id)))
	}
	for _, path := range detached {
		v.add(piece{kind: kindTemporary, id: "snapshots/" + filepath.Base(path), about: "left of a snapshot", used: modified(path), garbage: true, path: path}, path)
	}
	for _, name := range v.names("blobs/sha256") {
		path := v.s.Path("blobs", "sha256", name)
		p := piece{kind: kindTemporary, id: "sha256:" + name, about: "blob that nothing refers to", used: modified(path), garbage: true, path: path}
		before := len(v.pieces)
		if v.add(p, path); v.pieces[before].size == 0 {
			v.pieces = v.pieces[:before] // an image's or a layer's
		}
	}
}

// volumeRemains is what commands about volumes are doing, and what killed ones left.
func (v *survey) volumeRemains() {
	records := supervisor.NewRecords(v.s)
	paths, err := records.Volumes().Remains()
	v.fail(err)
	busy := lockHeld(v.s.Path("volumes", "lock"))
	for _, path := range paths {
		name := filepath.Base(path)
		p := piece{kind: kindTemporary, id: "volumes/" + name, about: "left of a volume", used: modified(path), garbage: true, path: path}
		used, err := records.UsesVolume(name)
		v.fail(err)
		switch {
		case busy:
			p.need, p.garbage, p.about = needUse, false, "of a command that runs"
		case used:
			p.need, p.garbage, p.about = needUse, false, "a volume that lost its record"
		}
		v.add(p, path)
	}
}

// rest is what is in no piece so far: names, locks, directories themselves.
func (v *survey) rest() {
	v.add(piece{kind: kindOther, id: "names, locks and directories", need: needUse}, v.s.Path())
}

func (v *survey) locked(name string) bool { return lockHeld(v.s.Path("locks", name)) }

// lockHeld reports whether somebody holds a lock, without making its file.
func lockHeld(path string) bool {
	if _, err := os.Lstat(path); err != nil {
		return false
	}
	lock, err := filelock.TryAcquire(path, filelock.Exclusive)
	if err != nil {
		return errors.Is(err, filelock.ErrLocked)
	}
	lock.Release()
	return false
}

func (v *survey) newest(pattern string) (t time.Time) {
	names, err := filepath.Glob(v.s.Path(pattern))
	v.fail(err)
	for _, name := range names {
		t = latest(t, modified(name))
	}
	return t
}

func modified(path string) time.Time {
	fi, err := os.Lstat(path)
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime()
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// oldestFirst orders pieces by their last use, and what stands on another
// before it.
func oldestFirst(a, b piece) int {
	return cmp.Or(a.used.Compare(b.used), cmp.Compare(b.depth, a.depth), strings.Compare(a.id, b.id))
}
