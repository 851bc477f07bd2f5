// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/regclient/regclient/types/descriptor"
	"github.com/regclient/regclient/types/manifest"
	"github.com/regclient/regclient/types/ref"
	"golang.org/x/sync/errgroup"

	"builder/image"
	"builder/progress"
	"builder/store"
)

// mountTries bounds how many repositories are asked for a blob before it is
// uploaded.
const mountTries = 2

// uploads is how often the pushing of a blob is begun: as a whole, and then in
// pieces. Within each, requests are repeated as [Options] say.
const uploads = 3

// Push sends an image, or an index with every image that it names, from the
// store to the registry of ref, under ref's tag; without a tag under its digest
// alone. All of it must be in the store.
//
// Blobs go first, several at a time, then manifests, and what is tagged last:
// nobody sees half an image. A blob that the repository has is not sent, and
// one that another repository of the registry may have, because an image of
// that repository in the store holds it, is mounted from there if the registry
// can. After an error what was sent stays in the registry, unnamed, and makes
// the next try shorter. Amounts go to sink, if not nil, as the vertex; its
// start and end are the caller's to report.
//
// Mirrors are never pushed to.
func (c *Client) Push(ctx context.Context, s *store.Store, ref image.Ref, desc ocispec.Descriptor, sink progress.Sink, vertex string) error {
	p := &push{client: c, store: s, ref: ref, report: reporter{sink, vertex}}
	err := p.collect(desc)
	if err == nil && len(p.blobs) == 0 {
		err = fmt.Errorf("%w: index %s names no image", image.ErrInvalid, desc.Digest)
	}
	if err == nil {
		err = p.findSources()
	}
	if err != nil {
		return c.opError("push", ref, err)
	}
	return c.opError("push", ref, p.toOrigin(ctx))
}

// toOrigin pushes to the registry itself.
func (p *push) toOrigin(ctx context.Context) error {
	origin, err := p.client.origin(ctx, p.ref)
	if err != nil {
		return err
	}
	return p.to(ctx, p.client.open(ctx, p.ref, origin))
}

// push is one image on its way to a registry.
type push struct {
	client *Client
	store  *store.Store
	ref    image.Ref
	report reporter

	blobs     []ocispec.Descriptor                            // configs and layers, each once; at least one
	manifests []document                                      // those that others name first, the image's own last
	pieces    func() *session                                 // to send what broke off as a whole
	sources   map[digest.Digest][]string                      // repositories of the registry that may have a blob
	fetch     func(context.Context, ocispec.Descriptor) error // of a blob that the store lacks; nil: it lacks none
}

// document is a manifest or index.
type document struct {
	desc ocispec.Descriptor
	data []byte
}

// collect finds what an image is made of.
func (p *push) collect(desc ocispec.Descriptor) error {
	data, err := p.store.ReadBlob(desc, image.MaxManifestSize)
	if err != nil {
		return err
	}
	var need []ocispec.Descriptor
	if image.IsIndex(desc.MediaType) {
		idx, err := image.ParseIndex(data)
		if err != nil {
			return err
		}
		for _, m := range idx.Manifests {
			if err := p.collect(m); err != nil {
				return fmt.Errorf("manifest %s: %w", m.Digest, err)
			}
		}
	} else {
		m, err := image.ParseManifest(data)
		if err != nil {
			return err
		}
		need = append(need, m.Config)
		for _, l := range m.Layers {
			if !isForeign(l) {
				need = append(need, l)
			}
		}
	}
	for _, b := range need {
		if !p.store.Has(b) {
			return fmt.Errorf("blob %s: %w", b.Digest, store.ErrNotFound)
		}
		if !slices.ContainsFunc(p.blobs, func(have ocispec.Descriptor) bool { return have.Digest == b.Digest }) {
			p.blobs = append(p.blobs, b)
		}
	}
	if !slices.ContainsFunc(p.manifests, func(have document) bool { return have.desc.Digest == desc.Digest }) {
		p.manifests = append(p.manifests, document{desc, data})
	}
	return nil
}

// findSources looks in the store for images of other repositories of the same
// registry, which the blobs may have come from.
func (p *push) findSources() error {
	entries, err := p.store.Entries()
	if err != nil {
		return err
	}
	p.sources = map[digest.Digest][]string{}
	for _, e := range entries {
		from, err := image.ParseRef(e.Name)
		if err != nil || from.Registry != p.ref.Registry || from.Repository == p.ref.Repository {
			continue
		}
		blobs, err := p.store.References(e.Desc)
		if err != nil {
			continue // a damaged image is no source
		}
		for _, b := range blobs {
			if repos := p.sources[b.Digest]; len(repos) < mountTries && !slices.Contains(repos, from.Repository) {
				p.sources[b.Digest] = append(repos, from.Repository)
			}
		}
	}
	return nil
}

// to pushes to one endpoint. The first blob goes alone: where nobody answers,
// or lets us in, that is found out once.
func (p *push) to(ctx context.Context, s *session) error {
	p.pieces = sync.OnceValue(func() *session {
		e := s.endpoint
		e.pieces = true
		return p.client.open(ctx, p.ref, e)
	})
	send := func(ctx context.Context, b ocispec.Descriptor) error {
		if err := p.blob(ctx, s, b); err != nil {
			return fmt.Errorf("blob %s: %w", b.Digest, err)
		}
		return nil
	}
	if err := send(ctx, p.blobs[0]); err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(p.client.opts.Parallel)
	for _, b := range p.blobs[1:] {
		group.Go(func() error { return send(gctx, b) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, doc := range p.manifests {
		to := p.ref
		to.Digest = doc.desc.Digest
		if i == len(p.manifests)-1 && p.ref.Tag != "" {
			to.Digest = ""
		}
		if err := p.manifest(ctx, s, to, doc); err != nil {
			return fmt.Errorf("manifest %s: %w", doc.desc.Digest, err)
		}
	}
	return nil
}

// blob sees to it that the repository has a blob, beginning anew where the
// attempt before ended in an unknown place.
func (p *push) blob(ctx context.Context, s *session, desc ocispec.Descriptor) error {
	release, err := p.client.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	d := descriptor.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	for n := 1; ; n++ {
		// A whole that broke off goes in pieces, of which those that arrived
		// are not sent again. Not every registry takes pieces, or keeps them.
		via := s
		if n > 1 && desc.Size > pieceSize {
			via = p.pieces()
		}
		err := p.try(ctx, via, desc, d)
		var final *finalError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &final), errors.Is(err, ErrDenied):
			return err
		case n == uploads:
			if bad := p.verify(desc); bad != nil {
				return bad
			}
			return err
		}
		p.client.opts.Log.DebugContext(ctx, "upload begins anew", "digest", desc.Digest.String(), "err", err.Error())
	}
}

// finalError is a failure that beginning anew doesn't help against.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// try asks for the blob, then for it to be mounted, then sends it.
func (p *push) try(ctx context.Context, s *session, desc ocispec.Descriptor, d descriptor.Descriptor) error {
	tctx, t := withTrace(ctx, 0)
	if r, err := s.reg.BlobHead(tctx, s.libRef(p.ref), d); err == nil {
		p.report.amount(desc, "exists", desc.Size, true)
		return r.Close()
	}
	if err := t.failure(); errors.Is(err, ErrUnreachable) || errors.Is(err, ErrDenied) {
		return &finalError{err} // it was asked often enough
	}
	for _, repo := range p.sources[desc.Digest] {
		from := ref.Ref{Scheme: "reg", Registry: p.ref.Registry, Repository: repo}
		// Whatever is wrong with mounting, uploading may still be right.
		if s.reg.BlobMount(tctx, from, s.libRef(p.ref), d) == nil {
			p.report.amount(desc, "mounted from "+repo, desc.Size, true)
			return nil
		}
	}
	if err := p.fetchMissing(ctx, desc); err != nil {
		return err
	}
	f, err := p.store.OpenBlobFile(desc)
	if err != nil {
		return &finalError{err}
	}
	defer f.Close()
	p.report.amount(desc, "pushing", 0, false)
	tctx, t = withTrace(ctx, 0)
	if _, err := s.reg.BlobPut(tctx, s.libRef(p.ref), d, &upload{f: f, desc: desc, report: p.report}); err != nil {
		return s.explain(ctx, t, err)
	}
	p.report.amount(desc, "pushed", desc.Size, true)
	return nil
}

// verify reads a blob that a registry didn't take: it may be our fault.
func (p *push) verify(desc ocispec.Descriptor) error {
	r, err := p.store.OpenBlob(desc)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err = io.Copy(io.Discard, r); errors.Is(err, store.ErrCorrupt) {
		return err
	}
	return nil
}

// upload is a blob on its way, which can be begun anew.
type upload struct {
	f           *os.File
	desc        ocispec.Descriptor
	report      reporter
	n, reported int64
}

func (u *upload) Read(b []byte) (int, error) {
	n, err := u.f.Read(b)
	u.n += int64(n)
	if u.n-u.reported >= reportEvery {
		u.reported = u.n
		u.report.amount(u.desc, "pushing", u.n, false)
	}
	return n, err
}

func (u *upload) Seek(offset int64, whence int) (int64, error) {
	n, err := u.f.Seek(offset, whence)
	u.n, u.reported = n, n
	return n, err
}

// manifest puts a document, whose bytes are kept as they are.
func (p *push) manifest(ctx context.Context, s *session, to image.Ref, doc document) error {
	m, err := manifest.New(manifest.WithRaw(doc.data), manifest.WithDesc(descriptor.Descriptor{
		MediaType: doc.desc.MediaType, Digest: doc.desc.Digest, Size: doc.desc.Size,
	}))
	if err != nil {
		return err
	}
	tctx, t := withTrace(ctx, 0)
	return s.explain(ctx, t, s.reg.ManifestPut(tctx, s.libRef(to), m))
}
