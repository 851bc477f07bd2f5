// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"builder/image"
)

// rangeStreams is how many ranges of a blob are fetched at a time.
const rangeStreams = 4

// errNoRanges says that a server doesn't serve ranges, or not to us; errAnswered
// that it has answered with a failure, which may pass.
var (
	errNoRanges = errors.New("no ranges")
	errAnswered = errors.New("the server has failed")
)

// ranges fetches a large blob by several ranges at a time, where one stream
// would wait for the network most of the time. done is false where that can't
// be: then the blob is still to be fetched, as one stream.
func (p *pull) ranges(ctx context.Context, s *session, desc ocispec.Descriptor) (done bool, err error) {
	if desc.Size < p.client.opts.Ranged {
		return false, nil
	}
	part := p.client.opts.Ranged / rangeStreams
	w, err := p.store.ResumeBlob(desc.Digest, fmt.Sprintf("ranges-%d", part))
	if err != nil {
		return false, &localError{err}
	}
	r := &ranged{pull: p, session: s, desc: desc, f: w.File(), part: part}
	sum, err := r.fetch(ctx)
	if err == nil && sum != desc.Digest {
		err = fmt.Errorf("the ranges have digest %s", sum)
	}
	var local *localError
	switch {
	case err == nil:
		if err := w.CommitFile(desc); err != nil {
			return false, &localError{err}
		}
		return true, nil
	case ctx.Err() != nil:
		w.Keep()
		return false, context.Cause(ctx)
	case errors.As(err, &local):
		w.Abort()
		return false, err
	case errors.Is(err, errBroken):
		w.Keep()
		return false, err
	}
	w.Abort()
	p.client.opts.Log.DebugContext(ctx, "not by ranges", "digest", desc.Digest.String(), "host", s.host, "err", err.Error())
	return false, nil
}

// ranged is a blob that is fetched by ranges.
type ranged struct {
	pull    *pull
	session *session
	desc    ocispec.Descriptor
	f       *os.File
	part    int64 // bytes of a range
	got     atomic.Int64

	have *os.File // a byte for each part that is there, at its place
}

// fetch fetches all parts into the file and returns its digest, computed behind
// the parts while they are in the page cache.
func (r *ranged) fetch(ctx context.Context) (digest.Digest, error) {
	parts := int((r.desc.Size + r.part - 1) / r.part)
	had, err := r.open(parts)
	if err != nil {
		return "", &localError{err}
	}
	defer r.have.Close()
	done := make([]chan struct{}, parts)
	for i := range done {
		done[i] = make(chan struct{})
	}
	// The first of those to be fetched tells whether there are ranges.
	first := bytes.IndexByte(had, 0)
	if first >= 0 {
		if err := r.fetchPart(ctx, first); err != nil {
			return "", err
		}
		had[first] = 1
	}
	for i := range had {
		if had[i] != 0 {
			close(done[i])
		}
	}
	sum := digest.SHA256.Digester()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for i := range parts {
			select {
			case <-done[i]:
			case <-gctx.Done():
				return context.Cause(gctx)
			}
			from := int64(i) * r.part
			if _, err := io.Copy(sum.Hash(), io.NewSectionReader(r.f, from, min(r.part, r.desc.Size-from))); err != nil {
				return &localError{err}
			}
		}
		return nil
	})
	next := atomic.Int64{}
	next.Store(int64(first))
	for range rangeStreams {
		g.Go(func() error {
			for first >= 0 {
				i := int(next.Add(1))
				if i >= parts {
					return nil
				}
				if had[i] != 0 {
					continue
				}
				if err := r.fetchPart(gctx, i); err != nil {
					return err
				}
				close(done[i])
			}
			return nil
		})
	}
	err = g.Wait()
	return sum.Digest(), err
}

// open opens the file that says which parts are there and returns a byte for
// each, which isn't 0 if it is.
func (r *ranged) open(parts int) (had []byte, err error) {
	r.have, err = os.OpenFile(r.f.Name()+".have", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	had = make([]byte, parts)
	if _, err := r.have.ReadAt(had, 0); err != nil && err != io.EOF {
		return nil, err
	}
	here := int64(0)
	for i, b := range had {
		if b != 0 {
			here += min(r.part, r.desc.Size-int64(i)*r.part)
		}
	}
	if r.got.Store(here); here > 0 {
		r.pull.client.opts.Tell(fmt.Sprintf("%s, %d bytes were here", r.desc.Digest, here))
	}
	return had, nil
}

// fetchPart fetches a part and notes that it is there.
func (r *ranged) fetchPart(ctx context.Context, i int) error {
	from := int64(i) * r.part
	if err := r.fetchBytes(ctx, from, min(from+r.part, r.desc.Size)); err != nil {
		return err
	}
	if _, err := r.have.WriteAt([]byte{1}, int64(i)); err != nil {
		return &localError{fmt.Errorf("write blob: %w", err)}
	}
	return nil
}

// errBroken says that a server didn't answer, or broke off, each time.
var errBroken = errors.New("broke off")

// fetchBytes fetches the bytes from up to end, and the rest of them again where
// that broke off.
func (r *ranged) fetchBytes(ctx context.Context, from, end int64) error {
	opts := r.pull.client.opts
	for attempt, delay := 1, opts.Delay; ; attempt, delay = attempt+1, 2*delay {
		n, err := r.fetchRange(ctx, from, end)
		from += n
		var local *localError
		if err == nil || errors.Is(err, errNoRanges) || errors.As(err, &local) || ctx.Err() != nil {
			return err
		}
		if attempt == opts.Attempts || errors.Is(err, errSlow) {
			if !errors.Is(err, errAnswered) {
				err = fmt.Errorf("%w: %s %w at %d of %d bytes: %w", ErrServer, r.session.host, errBroken, from, r.desc.Size, err)
			}
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fetchRange fetches the bytes from up to end and returns how many came.
func (r *ranged) fetchRange(ctx context.Context, from, end int64) (int64, error) {
	tctx, _ := withTrace(ctx, 0)
	req, err := r.session.request(tctx, r.pull.client, r.pull.ref, "blobs/"+r.desc.Digest.String())
	if err != nil {
		return 0, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, end-1))
	client := &http.Client{Transport: r.pull.client.roundTripper(ctx, r.session)}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	want := fmt.Sprintf("bytes %d-%d/%d", from, end-1, r.desc.Size)
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		return 0, fmt.Errorf("%w: answered %s", errAnswered, resp.Status)
	}
	if resp.StatusCode != http.StatusPartialContent || resp.Header.Get("Content-Range") != want || resp.Header.Get("Content-Encoding") != "" {
		return 0, fmt.Errorf("%w: answered %s, %q", errNoRanges, resp.Status, resp.Header.Get("Content-Range"))
	}
	buf := make([]byte, 128<<10)
	body := io.LimitReader(resp.Body, end-from)
	for n := int64(0); ; {
		got, readErr := body.Read(buf)
		if _, err := r.f.WriteAt(buf[:got], from+n); err != nil {
			return n, &localError{fmt.Errorf("write blob: %w", err)}
		}
		n += int64(got)
		total := r.got.Add(int64(got))
		if total/reportEvery != (total-int64(got))/reportEvery {
			r.pull.report.amount(r.desc, "downloading", total, false)
		}
		switch {
		case from+n == end:
			return n, nil
		case readErr == io.EOF:
			return n, io.ErrUnexpectedEOF
		case readErr != nil:
			return n, readErr
		}
	}
}

// request is a question about the repository of ref, with the credential that
// the library has got for it. A redirection to another host doesn't get it. path
// comes after the repository's name.
func (s *session) request(ctx context.Context, c *Client, ref image.Ref, path string) (*http.Request, error) {
	scheme := "https"
	if s.plain {
		scheme = "http"
	}
	repository := s.libRef(ref).Repository
	if s.prefix != "" {
		repository = strings.Trim(s.prefix, "/") + "/" + repository
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s/v2/%s/%s", scheme, s.host, repository, path), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	if auth := s.authorization.Load(); auth != nil {
		req.Header.Set("Authorization", *auth)
	}
	return req, nil
}
