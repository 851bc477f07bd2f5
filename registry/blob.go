// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/regclient/regclient/types/descriptor"

	"builder/internal/filelock"
	"builder/progress"
	"builder/store"
)

// downloads is how often a blob is begun anew. Within each, requests are
// repeated and broken reads resumed as [Options] say.
const downloads = 3

// reportEvery is how many bytes pass between two reports of an amount.
const reportEvery = 256 << 10

// blob fetches a blob unless it is there. Processes that want the same blob at
// the same time fetch it once: the others wait for the first.
func (p *pull) blob(ctx context.Context, s *session, desc ocispec.Descriptor) error {
	if p.store.Has(desc) {
		p.report.amount(desc, "exists", desc.Size, true)
		return nil
	}
	lock, err := p.store.Lock(ctx, "pull/"+desc.Digest.Encoded(), filelock.Exclusive, func() {
		p.report.amount(desc, "waiting for another process", 0, false)
	})
	if err != nil {
		return &localError{err}
	}
	defer lock.ReleaseAndRemove()
	if p.store.Has(desc) {
		p.report.amount(desc, "exists", desc.Size, true)
		return nil
	}
	return p.download(ctx, s, desc)
}

// download fetches a blob, beginning anew where the attempt before ended with
// wrong bytes or in an unknown place.
func (p *pull) download(ctx context.Context, s *session, desc ocispec.Descriptor) error {
	release, err := p.client.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := p.store.Room(desc.Size); err != nil {
		return &localError{err}
	}
	for n := 1; ; n++ {
		done, err := p.ranges(ctx, s, desc)
		if err == nil && !done {
			err = p.try(ctx, s, desc)
		}
		var local *localError
		switch {
		case err == nil:
			p.report.amount(desc, "downloaded", desc.Size, true)
			p.client.opts.Tell(fmt.Sprintf("%s, %d bytes, from %s", desc.Digest, desc.Size, s.host))
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case n == downloads, errors.Is(err, errSlow), errors.As(err, &local), errors.Is(err, ErrNotFound), errors.Is(err, ErrDenied):
			return err
		}
		p.client.opts.Log.DebugContext(ctx, "download begins anew", "digest", desc.Digest.String(), "err", err.Error())
	}
}

func (p *pull) try(ctx context.Context, s *session, desc ocispec.Descriptor) error {
	tctx, t := withTrace(ctx, desc.Size)
	// The addresses in a descriptor are left out on purpose: see isForeign.
	r, err := s.reg.BlobGet(tctx, s.libRef(p.ref), descriptor.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size,
	})
	if err != nil {
		return s.explain(ctx, t, err)
	}
	defer r.Close()
	w, err := p.store.NewBlob()
	if err != nil {
		return &localError{err}
	}
	defer w.Abort()

	var n, reported int64
	buf := make([]byte, 64<<10)
	p.report.amount(desc, "downloading", 0, false)
	for {
		got, readErr := r.Read(buf)
		if n += int64(got); n > desc.Size {
			return fmt.Errorf("%w from %s: more than the %d bytes that the manifest says", ErrWrongBytes, s.host, desc.Size)
		}
		if _, err := w.Write(buf[:got]); err != nil {
			return &localError{fmt.Errorf("write blob: %w", err)}
		}
		if n-reported >= reportEvery {
			reported = n
			p.report.amount(desc, "downloading", n, false)
		}
		if readErr == io.EOF {
			break
		}
		if readErr != nil {
			return s.readError(ctx, t, readErr, n, desc.Size)
		}
	}
	if n != desc.Size {
		return s.readError(ctx, t, io.ErrUnexpectedEOF, n, desc.Size)
	}
	_, err = w.Commit(desc)
	if errors.Is(err, store.ErrCorrupt) {
		return fmt.Errorf("%w from %s: %w", ErrWrongBytes, s.host, err)
	}
	if err != nil {
		return &localError{err}
	}
	return nil
}

// readError says how the reading of a body ended that was not read to its end.
func (s *session) readError(ctx context.Context, t *trace, err error, n, size int64) error {
	err = s.explain(ctx, t, err)
	if ctx.Err() != nil || errors.Is(err, ErrWrongBytes) {
		return err
	}
	return fmt.Errorf("%w: %s broke off after %d of %d bytes: %w", ErrServer, s.host, n, size, err)
}

// reporter sends amounts to a sink, which may be nil.
type reporter struct {
	sink   progress.Sink
	vertex string
}

func (r reporter) amount(desc ocispec.Descriptor, action string, n int64, done bool) {
	if r.sink == nil {
		return
	}
	r.sink.Event(progress.Event{
		Vertex: r.vertex,
		Time:   time.Now(),
		Status: &progress.Status{
			ID: desc.Digest.Encoded()[:12], Action: action,
			Current: n, Total: desc.Size, Bytes: true, Done: done,
		},
	})
}
