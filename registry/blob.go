// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
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
	lock, err := p.lock(ctx, desc)
	if err != nil {
		return err
	}
	defer lock.ReleaseAndRemove()
	if p.store.Has(desc) {
		p.report.amount(desc, "exists", desc.Size, true)
		return nil
	}
	return p.download(ctx, s, desc)
}

// lock is held while a blob is downloaded.
func (p *pull) lock(ctx context.Context, desc ocispec.Descriptor) (*filelock.Lock, error) {
	lock, err := p.store.Lock(ctx, store.ComingLock(desc.Digest), filelock.Exclusive, func() {
		p.report.amount(desc, "waiting for another process", 0, false)
	})
	if err != nil {
		return nil, &localError{err}
	}
	return lock, nil
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

// try fetches a blob as one stream, or the rest of one of which a part has come.
func (p *pull) try(ctx context.Context, s *session, desc ocispec.Descriptor) (err error) {
	w, err := p.store.ResumeBlob(desc.Digest, "stream")
	if err != nil {
		return &localError{err}
	}
	defer func() { p.end(ctx, w, err) }()
	if done, err := p.resume(ctx, s, desc, w); done || err != nil {
		return err
	}
	tctx, t := withTrace(ctx, desc.Size)
	// The addresses in a descriptor are left out on purpose: see isForeign.
	r, err := s.reg.BlobGet(tctx, s.libRef(p.ref), descriptor.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size,
	})
	if err != nil {
		return s.explain(ctx, t, err)
	}
	defer r.Close()

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

// end leaves what has come of a blob for the next time, unless it is there as a
// whole, or wrong, or this machine can't keep it.
func (p *pull) end(ctx context.Context, w *store.BlobWriter, err error) {
	var local *localError
	if err != nil && !errors.Is(err, ErrWrongBytes) && (ctx.Err() != nil || !errors.As(err, &local)) {
		w.Keep()
		return
	}
	w.Abort()
}

// resume fetches the rest of a blob of which a part has come. Where that can't
// be, or the whole is not the blob, done is false and w is empty.
func (p *pull) resume(ctx context.Context, s *session, desc ocispec.Descriptor, w *store.BlobWriter) (done bool, err error) {
	fi, err := w.File().Stat()
	if err != nil {
		return false, &localError{err}
	}
	had := fi.Size()
	if had > 0 && had <= desc.Size {
		r := &ranged{pull: p, session: s, desc: desc, f: w.File()}
		r.got.Store(had)
		p.report.amount(desc, "downloading", had, false)
		if had < desc.Size {
			err = r.fetchBytes(ctx, had, desc.Size)
		}
		if err == nil {
			p.client.opts.Tell(fmt.Sprintf("%s, %d bytes were here", desc.Digest, had))
			err = p.commitFile(desc, w)
		}
		if err == nil {
			return true, nil
		}
		var local *localError
		if ctx.Err() != nil || errors.As(err, &local) || errors.Is(err, errBroken) {
			return false, err
		}
		p.client.opts.Log.DebugContext(ctx, "not resumed", "digest", desc.Digest.String(), "host", s.host, "err", err.Error())
	}
	if err := w.File().Truncate(0); err != nil {
		return false, &localError{err}
	}
	return false, nil
}

// commitFile puts a blob in the store that was not written from its beginning to
// its end.
func (p *pull) commitFile(desc ocispec.Descriptor, w *store.BlobWriter) error {
	sum, err := digest.SHA256.FromReader(io.NewSectionReader(w.File(), 0, desc.Size))
	if err != nil {
		return &localError{err}
	}
	if sum != desc.Digest {
		return fmt.Errorf("the pieces have digest %s", sum)
	}
	if err := w.CommitFile(desc); err != nil {
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
