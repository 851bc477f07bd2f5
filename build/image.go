// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"builder/cache"
	"builder/image"
	"builder/layer"
	"builder/progress"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// finish puts the images together from what the stages left.
func finish(ctx context.Context, runners []*runner) (*Result, error) {
	res := &Result{}
	opts := runners[0].opts
	for i, form := range opts.Images {
		img, err := export(ctx, runners, i, form)
		if err != nil {
			return nil, err
		}
		res.Images = append(res.Images, img)
	}
	for _, r := range runners {
		if opts.Files {
			id, err := r.stages[r.plan.target].snap(ctx)
			if err != nil {
				return nil, err
			}
			res.Files = append(res.Files, PlatformFiles{r.plan.platform, id, r.opts.Epoch})
		}
		res.Stats.add(r.stats)
	}
	res.Caches = caches(ctx, runners)
	if opts.Context != nil {
		s := opts.Context.Stats()
		res.Stats.FilesStatted, res.Stats.FilesHashed, res.Stats.BytesHashed = s.Statted, s.Hashed, s.HashedBytes
	}
	return res, nil
}

// export writes the image in one form: a manifest for each platform and, of
// several, the index.
func export(ctx context.Context, runners []*runner, number int, form ImageOptions) (res ImageResult, err error) {
	r := runners[0]
	vertex := "exporting"
	if number > 0 {
		vertex = fmt.Sprintf("exporting %d", number+1)
	}
	name := "exporting to image"
	if r.opts.Name != "" {
		vertex, name = r.opts.Name+" "+vertex, "["+r.opts.Name+"] "+name
	}
	r.event(vertex, progress.Event{Start: &progress.Start{Name: name}})
	defer func() {
		r.event(vertex, progress.Event{Done: &progress.Done{Err: err, Result: res.Desc.Digest}})
	}()
	res.Epoch = form.Epoch.Time
	for _, r := range runners {
		img, err := r.assemble(ctx, form)
		if err != nil {
			return res, err
		}
		res.Platforms = append(res.Platforms, img)
	}
	if !r.opts.Multi() {
		res.Desc = res.Platforms[0].Desc
		return res, nil
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: form.mediaType(ocispec.MediaTypeImageIndex),
		Annotations: form.annotations(OnIndex, nil),
	}
	for _, img := range res.Platforms {
		index.Manifests = append(index.Manifests, img.Desc)
	}
	if res.Desc, err = r.put(index.MediaType, index); err != nil {
		return res, fmt.Errorf("write image index: %w", err)
	}
	res.Desc.Annotations = form.annotations(OnIndexDescriptor, nil)
	return res, nil
}

// assemble writes config and manifest of the target's image.
func (r *runner) assemble(ctx context.Context, form ImageOptions) (PlatformImage, error) {
	st := r.plan.target
	img := PlatformImage{}
	config := st.state.config
	layers, err := r.layersOf(ctx, st, form)
	if err != nil {
		return img, err
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: form.mediaType(ocispec.MediaTypeImageManifest),
		Layers: []ocispec.Descriptor{}, Annotations: form.annotations(OnManifest, &r.plan.platform),
	}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range layers {
		manifest.Layers = append(manifest.Layers, form.layer(l.Blob))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
	}
	config.History = r.history(st, form.Epoch.Time)
	config.Created = created(config.History, form.Epoch.Time)
	if r.opts.Edits.OmitHistory {
		config.History = nil
	}
	full := struct {
		image.Config
		Cache []byte `json:"moby.buildkit.cache.v0,omitempty"`
	}{Config: config}
	if full.Cache, err = r.inline(ctx, form, layers, manifest.Layers); err != nil {
		return img, fmt.Errorf("write inline cache: %w", err)
	}
	if manifest.Config, err = r.put(form.mediaType(ocispec.MediaTypeImageConfig), full); err != nil {
		return img, fmt.Errorf("write image config: %w", err)
	}
	if img.Desc, err = r.put(manifest.MediaType, manifest); err != nil {
		return img, fmt.Errorf("write image manifest: %w", err)
	}
	img.Platform = config.Platform
	img.Desc.Platform = &img.Platform
	img.Desc.Annotations = form.annotations(OnManifestDescriptor, &r.plan.platform)
	img.Config = manifest.Config
	return img, nil
}

// squash makes one result of all that stands on the base image, once.
func (r *runner) squash(ctx context.Context, base *stage, results []*stepResult) (*stepResult, error) {
	h := cache.NewHash("squash")
	ids := make([]snapshot.ID, len(results))
	for i, s := range results {
		var err error
		if ids[i], err = r.snapshotOf(ctx, s); err != nil {
			return nil, err
		}
		h.Add("snapshot", string(ids[i]))
	}
	if res, ok := r.cached(ctx, h.Sum()); ok {
		return res, nil
	}
	below, err := r.baseSnapshot(ctx, base)
	if err != nil {
		return nil, err
	}
	last := &stepResult{created: results[len(results)-1].created}
	if last.snap, err = r.env.RootFS.Squash(ctx, below, ids); err != nil {
		return nil, err
	}
	return last, r.env.Cache.Put(&cache.Record{Key: h.Sum(), Snapshot: string(last.snap), Instruction: "squash", Created: last.created, Fields: h.Fields()})
}

// baseSnapshot is the file system that a stage without a base stage begins
// with.
func (r *runner) baseSnapshot(ctx context.Context, st *stage) (snapshot.ID, error) {
	if !st.onImage() {
		return "", nil
	}
	return r.unpackOnce(st)(ctx)
}

// layersOf returns the layers of a stage's image, the base image's first, and
// remembers which snapshot each of them ends in.
func (r *runner) layersOf(ctx context.Context, st *stage, form ImageOptions) ([]layer.Layer, error) {
	results, base := r.chain(st)
	if r.opts.Edits.Squash && len(results) > 1 {
		squashed, err := r.squash(ctx, base, results)
		if err != nil {
			return nil, err
		}
		results = []*stepResult{squashed}
	}
	var layers []layer.Layer
	var diffIDs []digest.Digest
	// An eStargz layer has one file more than the snapshot, and one with an
	// epoch other times.
	same := form.Layer.Compression != layer.EStargz && form.Layer.Epoch == nil && form.Layer.Time == nil
	for i, desc := range base.img.Manifest.Layers {
		l := layer.Layer{DiffID: base.img.Config.RootFS.DiffIDs[i], Blob: desc}
		if form.ForceCompression {
			var err error
			if l, err = r.env.RootFS.Convert(ctx, desc, l.DiffID, form.Layer); err != nil {
				return nil, err
			}
		}
		same = same && l.DiffID == base.img.Config.RootFS.DiffIDs[i]
		layers, diffIDs = append(layers, l), append(diffIDs, l.DiffID)
	}
	if err := r.fetchLayers(ctx, results, form); err != nil {
		return nil, err
	}
	for _, s := range results {
		l, err := r.layerOf(ctx, s, form)
		if err == nil && s.imported != nil && !form.remade() {
			err = r.follow(ctx, s.imported, layers, diffIDs, form)
		}
		if err != nil {
			return nil, err
		}
		layers, diffIDs = append(layers, l), append(diffIDs, l.DiffID)
		if !same || s.snap == "" {
			continue
		}
		if err := r.env.RootFS.Link(chainID(diffIDs), s.snap); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

// follow makes the layers below an imported result those that it was made on,
// where the same steps have left something else here.
func (r *runner) follow(ctx context.Context, res *imported, layers []layer.Layer, diffIDs []digest.Digest, form ImageOptions) error {
	for i, diffID := range diffIDs {
		if diffID == res.layers.DiffIDs[i] {
			continue
		}
		blob := res.layers.Blobs[i]
		if err := r.fetch(ctx, res, []ocispec.Descriptor{blob}); err != nil {
			return err
		}
		l := layer.Layer{DiffID: res.layers.DiffIDs[i], Blob: blob}
		if form.ForceCompression {
			var err error
			if l, err = r.env.RootFS.Convert(ctx, l.Blob, l.DiffID, form.Layer); err != nil {
				return err
			}
		}
		layers[i], diffIDs[i] = l, l.DiffID
	}
	return nil
}

// layerOf returns a result's layer in a form, its blob in the store.
func (r *runner) layerOf(ctx context.Context, res *stepResult, form ImageOptions) (layer.Layer, error) {
	opts := res.layerOptions(form.Layer)
	switch {
	case res.imported == nil || form.remade():
		id, err := r.snapshotOf(ctx, res)
		if err != nil {
			return layer.Layer{}, err
		}
		return r.env.RootFS.Commit(ctx, id, opts)
	case form.ForceCompression:
		l := res.imported.top()
		return r.env.RootFS.Convert(ctx, l.Blob, l.DiffID, opts)
	}
	return res.imported.top(), nil
}

// remade says that layers of the form are made of files, never of other layers.
func (f ImageOptions) remade() bool {
	return f.Layer.Epoch != nil || f.Layer.Time != nil || f.Layer.Compression == layer.EStargz
}

// fetchLayers brings the layers of imported results into the store, and keeps
// records of these results.
func (r *runner) fetchLayers(ctx context.Context, results []*stepResult, form ImageOptions) error {
	if form.remade() {
		return nil
	}
	bySource := map[*importSource]*imported{}
	for _, res := range results {
		if res.imported == nil || res.imported.source == nil {
			continue
		}
		all := bySource[res.imported.source]
		if all == nil {
			all = &imported{source: res.imported.source}
			bySource[res.imported.source] = all
		}
		all.layers.Blobs = append(all.layers.Blobs, res.imported.top().Blob)
	}
	for _, all := range bySource {
		if err := r.fetch(ctx, all, all.layers.Blobs); err != nil {
			return err
		}
	}
	for _, res := range results {
		if res.imported != nil {
			if err := r.keepImported(res); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *runner) put(mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return r.env.Store.PutBlob(mediaType, data)
}

// chain returns the results of all steps from the base image up, and the stage
// whose image that is.
func (r *runner) chain(st *stage) (results []*stepResult, base *stage) {
	base = st
	for ; st != nil; st = st.base {
		results = append(slices.Clone(r.stages[st].results()), results...)
		base = st
	}
	return results, base
}

// history is the image's history. A step's line has the time at which the step
// ran, cached or not, and a line of the config alone that of the layer before
// or, at the start, after it: so a build from the cache gives the same bytes.
// With an epoch all of them have that, and the base image's keep theirs.
func (r *runner) history(st *stage, epoch *time.Time) []ocispec.History {
	created := map[*step]time.Time{}
	for s := st; s != nil; s = s.base {
		for i, res := range r.stages[s].steps {
			created[s.steps[i]] = res.created
		}
	}
	lines := make([]ocispec.History, len(st.state.history))
	for i, h := range st.state.history {
		lines[i] = h.History
		switch t, ok := created[h.step]; {
		case !h.base && epoch != nil:
			lines[i].Created = epoch
		case ok && h.step != nil:
			lines[i].Created = &t
		}
	}
	fillTimes(lines)
	if r.opts.Edits.Squash {
		squashHistory(lines, st.state.history)
	}
	return lines
}

// squashHistory lets only the last of the lines that made a layer have one.
func squashHistory(lines []ocispec.History, entries []historyEntry) {
	found := false
	for i := range slices.Backward(lines) {
		if entries[i].step == nil {
			continue
		}
		lines[i].EmptyLayer = found
		found = true
	}
}

// fillTimes dates the lines that have no time: those before the first new
// layer like that layer, later ones like the layer before them. Where there is
// no new layer the last date of the base serves.
func fillTimes(lines []ocispec.History) {
	var at *time.Time
	undated := false
	for _, h := range lines {
		if h.Created == nil {
			undated = true
			continue
		}
		at = h.Created
		if undated {
			break
		}
	}
	undated = false
	for i := range lines {
		switch {
		case lines[i].Created == nil:
			undated = true
			lines[i].Created = at
		case undated:
			at = lines[i].Created
		}
	}
}

// created is the image's time: that of its last line of history, or of
// SOURCE_DATE_EPOCH. A build that made no layer and has no dated base has none
// and gets the epoch's beginning rather than a clock's reading, so that the
// same build gives the same image.
func created(lines []ocispec.History, epoch *time.Time) *time.Time {
	if epoch != nil {
		return epoch
	}
	for _, h := range slices.Backward(lines) {
		if h.Created != nil {
			return h.Created
		}
	}
	return nil
}

func chainID(diffIDs []digest.Digest) digest.Digest {
	var img image.Image
	img.Config.RootFS.DiffIDs = diffIDs
	ids := img.ChainIDs()
	return ids[len(ids)-1]
}
