// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/regclient/regclient/types/errs"
	"github.com/regclient/regclient/types/manifest"
	"golang.org/x/sync/errgroup"

	"builder/image"
	"builder/progress"
	"builder/store"
)

// isDocument reports whether an image may begin with the media type.
func isDocument(mediaType string) bool {
	return image.IsIndex(mediaType) || image.IsManifest(mediaType)
}

// Resolve asks the registry what ref means now: the descriptor of a manifest
// or an index. Nothing is stored.
func (c *Client) Resolve(ctx context.Context, ref image.Ref) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	err := c.eachEndpoint(ctx, ref, func(s *session) (err error) {
		desc, _, err = s.head(ctx, ref)
		return err
	})
	return desc, c.opError("resolve", ref, err)
}

// Document fetches the manifest or index that ref names, verified. Nothing is
// stored.
func (c *Client) Document(ctx context.Context, ref image.Ref) (ocispec.Descriptor, []byte, error) {
	var desc ocispec.Descriptor
	var data []byte
	err := c.eachEndpoint(ctx, ref, func(s *session) (err error) {
		desc, data, err = s.get(ctx, ref)
		return err
	})
	return desc, data, c.opError("look at", ref, err)
}

// Pull fetches the image that ref names for a platform (the zero value: this
// machine's) and returns the descriptor to tag: the index, where the registry
// has one and the platform is this machine's, else the manifest. Of an index
// only the one manifest is fetched.
//
// Every blob is in the store when it returns, verified against its digest and
// size; blobs that were there already are not fetched. After an error, blobs
// that were complete stay and make the next try shorter; no name changes in
// either case. Amounts go to sink, if not nil, as the vertex; its start and
// end are the caller's to report.
func (c *Client) Pull(ctx context.Context, s *store.Store, ref image.Ref, platform image.Platform, sink progress.Sink, vertex string) (ocispec.Descriptor, error) {
	root, desc, err := c.pull(ctx, s, ref, platform, reporter{sink, vertex})
	if err != nil || desc.Digest == root.Digest {
		return root, err
	}
	data, err := s.ReadBlob(root, image.MaxManifestSize)
	if err != nil {
		return root, err
	}
	if host, err := chosen(data, image.HostPlatform()); err != nil || host.Digest != desc.Digest {
		// Under the index, everyone who doesn't say the platform would
		// look for a manifest that wasn't fetched.
		return plain(desc), nil
	}
	return root, nil
}

// PullIndex is [Client.Pull] for those who say the platform whenever they look
// for the image: it returns what ref names, an index too of which the platform
// is not this machine's.
func (c *Client) PullIndex(ctx context.Context, s *store.Store, ref image.Ref, platform image.Platform, sink progress.Sink, vertex string) (ocispec.Descriptor, error) {
	root, _, err := c.pull(ctx, s, ref, platform, reporter{sink, vertex})
	return root, err
}

// pull fetches an image and returns what ref names, and the platform's
// manifest.
func (c *Client) pull(ctx context.Context, s *store.Store, ref image.Ref, platform image.Platform, report reporter) (root, desc ocispec.Descriptor, err error) {
	if platform.OS == "" {
		platform = image.HostPlatform()
	}
	p := &pull{client: c, store: s, ref: ref, platform: platform, report: report}
	if desc, ok := p.stored(); ok {
		return desc, desc, nil
	}
	root, desc, err = p.run(ctx)
	return root, desc, c.opError("pull", ref, err)
}

// eachEndpoint calls f for the servers of ref's registry until one succeeds.
// Mirrors that can't be reached are not asked again. If all fail, the
// registry's own failure is told, and those of the mirrors after it.
func (c *Client) eachEndpoint(ctx context.Context, ref image.Ref, f func(*session) error) error {
	endpoints, err := c.endpoints(ctx, ref)
	if err != nil {
		return err
	}
	var failed []string
	for _, e := range endpoints {
		if !e.asked(ref) || !e.origin && c.isDead(e.host) {
			continue
		}
		// Requests for tokens outlive the call that caused them only to
		// serve the next, so each call may have its own session.
		if err = f(c.open(ctx, ref, e)); err == nil || ctx.Err() != nil {
			return err
		}
		var local *localError
		if errors.As(err, &local) {
			return err
		}
		if !e.origin {
			c.opts.Tell(fmt.Sprintf("mirror %s: %v", e.host, err))
			failed = append(failed, fmt.Sprintf("mirror %s: %v", e.host, err))
			if errors.Is(err, ErrUnreachable) || errors.Is(err, errSlow) {
				c.setDead(e.host)
			}
		}
	}
	if len(failed) > 0 && err != nil {
		err = fmt.Errorf("%w; before that, %s", err, strings.Join(failed, "; "))
	}
	return err
}

func (c *Client) isDead(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead[host]
}

func (c *Client) setDead(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead[host] = true
}

// localError is a failure of this machine: asking again doesn't help.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// pull is one image on its way.
type pull struct {
	client   *Client
	store    *store.Store
	ref      image.Ref
	platform image.Platform
	report   reporter
}

// stored finds a digest reference whose image is here as a whole: its bytes
// can't have changed, so nobody needs to be asked.
func (p *pull) stored() (ocispec.Descriptor, bool) {
	if p.ref.Digest == "" {
		return ocispec.Descriptor{}, false
	}
	entries, err := p.store.Entries()
	if err != nil {
		return ocispec.Descriptor{}, false
	}
	for _, e := range entries {
		if e.Desc.Digest != p.ref.Digest {
			continue
		}
		img, err := p.store.Image(e.Desc, p.platform)
		if err != nil {
			return ocispec.Descriptor{}, false
		}
		for _, l := range img.Manifest.Layers {
			if !p.store.Has(l) {
				return ocispec.Descriptor{}, false
			}
		}
		return e.Desc, true
	}
	return ocispec.Descriptor{}, false
}

func (p *pull) run(ctx context.Context) (root, desc ocispec.Descriptor, err error) {
	err = p.client.eachEndpoint(ctx, p.ref, func(s *session) (err error) {
		root, desc, err = p.from(ctx, s)
		return err
	})
	return root, desc, err
}

// from pulls from one endpoint.
func (p *pull) from(ctx context.Context, s *session) (root, desc ocispec.Descriptor, err error) {
	root, data, err := p.root(ctx, s)
	if err != nil {
		return root, desc, err
	}
	p.client.opts.Tell(fmt.Sprintf("%s is %s at %s", p.ref.Familiar(), root.Digest, s.host))
	desc, manifestData := root, data
	if image.IsIndex(root.MediaType) {
		if desc, err = p.choose(data); err != nil {
			return root, desc, err
		}
		if manifestData, err = p.document(ctx, s, desc); err != nil {
			return root, desc, err
		}
	}
	m, err := image.ParseManifest(manifestData)
	if err != nil {
		return root, desc, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if err := p.blobs(ctx, s, m); err != nil {
		return root, desc, err
	}
	// The documents come last: one that is in the store has its blobs there.
	if err := p.put(desc, manifestData); err != nil || desc.Digest == root.Digest {
		return root, desc, err
	}
	return root, desc, p.put(root, data)
}

// plain is a descriptor without what its index says of it.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform}
}

func chosen(index []byte, platform image.Platform) (ocispec.Descriptor, error) {
	idx, err := image.ParseIndex(index)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	i := image.Match(idx.Manifests, platform)
	if i < 0 {
		var have []string
		for _, m := range idx.Manifests {
			if m.Platform != nil && m.Platform.OS != "unknown" {
				have = append(have, image.FormatPlatform(*m.Platform))
			}
		}
		return ocispec.Descriptor{}, fmt.Errorf("%w: the image is not made for %s, only for %s", ErrNoPlatform, image.FormatPlatform(platform), strings.Join(have, ", "))
	}
	return idx.Manifests[i], nil
}

func (p *pull) choose(index []byte) (ocispec.Descriptor, error) {
	desc, err := chosen(index, p.platform)
	if err == nil && !image.IsManifest(desc.MediaType) {
		err = fmt.Errorf("%w: index holds a %q for %s", image.ErrInvalid, desc.MediaType, image.FormatPlatform(p.platform))
	}
	return desc, err
}

// root fetches the document that the reference names.
func (p *pull) root(ctx context.Context, s *session) (ocispec.Descriptor, []byte, error) {
	if p.ref.Digest == "" && p.named() {
		// A question for the digest counts against no limit, and where
		// nothing has changed it is all that is needed.
		desc, data, err := s.head(ctx, p.ref)
		if err != nil || data != nil {
			return desc, data, err
		}
		data, err = p.document(ctx, s, desc)
		return desc, data, err
	}
	return s.get(ctx, p.ref)
}

func (p *pull) named() bool {
	entries, err := p.store.Entries()
	if err != nil {
		return false
	}
	for _, e := range entries {
		if e.Name == p.ref.String() {
			return true
		}
	}
	return false
}

// document returns a manifest or index by its descriptor, from the store if it
// is there. Nothing is stored.
func (p *pull) document(ctx context.Context, s *session, desc ocispec.Descriptor) ([]byte, error) {
	if p.store.Has(desc) {
		if data, err := p.store.ReadBlob(desc, image.MaxManifestSize); err == nil {
			return data, nil
		}
	}
	ref := p.ref
	ref.Digest = desc.Digest
	got, data, err := s.get(ctx, ref)
	switch {
	case err != nil:
		return nil, err
	case got.MediaType != desc.MediaType:
		return nil, fmt.Errorf("%w: manifest %s is a %s, and what names it says %s", image.ErrInvalid, desc.Digest, got.MediaType, desc.MediaType)
	case got.Size != desc.Size:
		return nil, fmt.Errorf("%w: manifest %s has %d bytes, and what names it says %d", image.ErrInvalid, desc.Digest, got.Size, desc.Size)
	}
	return data, nil
}

// blobs fetches config and layers.
func (p *pull) blobs(ctx context.Context, s *session, m ocispec.Manifest) error {
	if m.Config.Size > image.MaxConfigSize {
		return fmt.Errorf("%w: config of %d bytes, at most %d are allowed", image.ErrInvalid, m.Config.Size, image.MaxConfigSize)
	}
	for i, l := range m.Layers {
		if isForeign(l) {
			return fmt.Errorf("%w: layer %d (%s) is kept outside of the registry by its maker, and such layers are not fetched", image.ErrInvalid, i, l.Digest)
		}
	}
	if err := p.config(ctx, s, m); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.client.opts.Parallel)
	seen := map[digest.Digest]bool{}
	for _, l := range m.Layers {
		if seen[l.Digest] {
			continue
		}
		seen[l.Digest] = true
		group.Go(func() error {
			if err := p.blob(ctx, s, l); err != nil {
				return fmt.Errorf("layer %s: %w", l.Digest, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// isForeign says so of a layer that registries are told not to hold. Where
// one is to be had instead the manifest says, and a manifest must not send us
// to addresses of its choice.
func isForeign(l ocispec.Descriptor) bool {
	return l.MediaType == image.MediaTypeDockerForeignLayer || len(l.URLs) > 0
}

// config fetches the config and checks it before any layer is asked for.
func (p *pull) config(ctx context.Context, s *session, m ocispec.Manifest) error {
	data, err := p.store.ReadBlob(m.Config, image.MaxConfigSize)
	if err != nil {
		data, err = p.fetchConfig(ctx, s, m.Config)
	}
	if err != nil {
		return fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	_, err = image.ParseConfig(data, m)
	return err
}

func (p *pull) fetchConfig(ctx context.Context, s *session, desc ocispec.Descriptor) ([]byte, error) {
	lock, err := p.lock(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer lock.ReleaseAndRemove()
	if err := p.download(ctx, s, desc); err != nil {
		return nil, err
	}
	return p.store.ReadBlob(desc, image.MaxConfigSize)
}

// put stores a document that was verified when it came. A damaged blob of its
// name is replaced.
func (p *pull) put(desc ocispec.Descriptor, data []byte) error {
	w, err := p.store.NewBlob()
	if err != nil {
		return &localError{err}
	}
	if _, err := w.Write(data); err != nil {
		w.Abort()
		return &localError{fmt.Errorf("write manifest: %w", err)}
	}
	if _, err = w.Commit(desc); err != nil {
		return &localError{err}
	}
	return nil
}

// head asks for a reference's descriptor. Where the registry's answer doesn't
// hold it, the document is fetched, and returned as well.
func (s *session) head(ctx context.Context, ref image.Ref) (ocispec.Descriptor, []byte, error) {
	tctx, t := withTrace(ctx, 0)
	m, err := s.reg.ManifestHead(tctx, s.libRef(ref))
	if err != nil {
		if failure := t.failure(); failure == nil || errors.Is(failure, ErrServer) {
			return s.get(ctx, ref)
		}
		return ocispec.Descriptor{}, nil, s.explain(ctx, t, err)
	}
	desc := describe(m)
	if desc.Digest.Validate() != nil || desc.Size <= 0 || !isDocument(desc.MediaType) {
		return s.get(ctx, ref)
	}
	if ref.Digest != "" && desc.Digest != ref.Digest {
		return ocispec.Descriptor{}, nil, fmt.Errorf("%w from %s: asked for %s, got %s", ErrWrongBytes, s.host, ref.Digest, desc.Digest)
	}
	return desc, nil, nil
}

// get fetches the document that a reference names.
func (s *session) get(ctx context.Context, ref image.Ref) (ocispec.Descriptor, []byte, error) {
	m, err := s.manifest(ctx, ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	data, err := m.RawBody()
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	desc := describe(m)
	desc.Digest, desc.Size = digest.FromBytes(data), int64(len(data))
	switch {
	case ref.Digest != "" && ref.Digest != desc.Digest:
		return desc, nil, fmt.Errorf("%w from %s: asked for %s, got %s", ErrWrongBytes, s.host, ref.Digest, desc.Digest)
	case strings.HasPrefix(desc.MediaType, "application/vnd.docker.distribution.manifest.v1"):
		return desc, nil, fmt.Errorf("%w: the image has docker's manifest of schema 1, which is obsolete: it must be pushed again by a newer builder", image.ErrInvalid)
	case !isDocument(desc.MediaType):
		return desc, nil, fmt.Errorf("%w: it is a %q and no image", image.ErrInvalid, desc.MediaType)
	}
	return desc, data, nil
}

// manifest fetches a document, again where its reading broke off: registries
// don't resume documents.
func (s *session) manifest(ctx context.Context, ref image.Ref) (manifest.Manifest, error) {
	for n := 1; ; n++ {
		tctx, t := withTrace(ctx, 0)
		m, err := s.reg.ManifestGet(tctx, s.libRef(ref))
		switch {
		case err == nil:
			return m, nil
		case errors.Is(err, errs.ErrSizeLimitExceeded):
			return nil, fmt.Errorf("%w: manifest of more than %d bytes", image.ErrInvalid, image.MaxManifestSize)
		case errors.Is(err, errs.ErrUnsupportedMediaType):
			return nil, fmt.Errorf("%w: %s answered with no manifest: %w", ErrServer, s.host, err)
		case n == downloads || !errors.Is(err, io.ErrUnexpectedEOF):
			return nil, s.explain(ctx, t, err)
		}
	}
}

func describe(m manifest.Manifest) ocispec.Descriptor {
	d := m.GetDescriptor()
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}
