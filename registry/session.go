// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regclient/regclient/config"
	"github.com/regclient/regclient/scheme/reg"
	"github.com/regclient/regclient/types/ref"

	"builder/image"
)

// maxRetryAfter bounds how long a server may tell us to wait before the next
// try.
const maxRetryAfter = time.Minute

// errStalled ends a request whose server sends nothing any more.
var errStalled = errors.New("the server has stopped sending")

// errSlow ends a download from a mirror that is too slow to be of use.
var errSlow = errors.New("the mirror is slower than 1 kB/s")

// slowRate is the bytes a second below which a mirror is given up, over the time
// after which a silent server is.
const slowRate = 1000

// pieceSize is how many bytes of a blob are sent at a time where it doesn't get
// through as a whole. Each upload has as many in memory.
const pieceSize = 8 << 20

// session is one endpoint as one operation uses it. The library keeps what it
// learns of a server (tokens, how often it failed) in reg.
type session struct {
	endpoint
	reg *reg.Reg
	// auth is how requests ended that belong to no other: those for tokens.
	auth *trace
	// authorization is what the last request to the host had that was
	// answered well.
	authorization atomic.Pointer[string]
	// offline is asked for with tokens, if not nil.
	offline *offline
}

// open begins a session that ends with ctx.
func (c *Client) open(ctx context.Context, ref image.Ref, e endpoint) *session {
	// What the user has for a registry is for the registry: its mirrors get
	// what there is for them.
	name, repository := ref.Registry, ref.Repository
	if !e.origin || e.host != apiHost(ref.Registry) {
		name, repository = e.host, strings.Trim(e.prefix+"/"+ref.Repository, "/")
		if e.repository != "" {
			repository = e.repository
		}
		if name == hubHost {
			name = image.DefaultRegistry
		}
	}
	return c.openWith(ctx, ref.Registry, e, c.credentials.get(ctx, name, repository))
}

// openWith is open with a credential.
func (c *Client) openWith(ctx context.Context, registry string, e endpoint, cred Credential) *session {
	s := &session{endpoint: e, auth: &trace{}}
	host := *config.HostNewName(registry)
	host.Hostname = e.host
	host.PathPrefix = e.prefix
	// The library's own limit would take a second place for a request that
	// resumes a first, and wait for ever once all have broken off:
	// [Client.slot] limits instead.
	host.ReqConcurrent = 0
	host.TLS = config.TLSEnabled
	if e.plain {
		host.TLS = config.TLSDisabled
	}
	if e.pieces {
		host.BlobMax, host.BlobChunk = 1, pieceSize
	}
	host.User, host.Pass, host.Token = cred.User, cred.Password, cred.IdentityToken
	s.reg = reg.New(
		reg.WithConfigHosts([]*config.Host{&host}),
		reg.WithHTTPClient(&http.Client{Transport: c.roundTripper(ctx, s)}),
		// Not the same for everybody who was turned away at once.
		reg.WithDelay(c.opts.Delay/2+rand.N(c.opts.Delay), max(c.opts.Delay, 30*time.Second)),
		reg.WithRetryLimit(c.opts.Attempts),
		reg.WithManifestMax(image.MaxManifestSize, image.MaxManifestSize),
		reg.WithUserAgent(c.opts.UserAgent),
		reg.WithSlog(c.opts.Log),
	)
	return s
}

// libRef is a reference in the library's form. Either tag or digest is asked
// for, the digest if there is one.
func (s *session) libRef(r image.Ref) ref.Ref {
	out := ref.Ref{Scheme: "reg", Registry: r.Registry, Repository: r.Repository, Tag: r.Tag}
	if s.repository != "" {
		out.Repository = s.repository
	}
	if r.Digest != "" {
		out.Tag, out.Digest = "", r.Digest.String()
	}
	out.Reference = r.String()
	return out
}

// trace is how the last try of a request ended: what the library's errors
// don't tell.
type trace struct {
	size int64 // that the answer's body must have, 0 if it isn't known
	most int64 // bytes that all answers' bodies together may have, 0 for any number

	mu     sync.Mutex
	host   string
	status int    // of the answer, 0 if there was none
	detail string // what the registry said
	err    error  // why there was no answer
}

type traceKey struct{}

func withTrace(ctx context.Context, size int64) (context.Context, *trace) {
	t := &trace{size: size}
	return context.WithValue(ctx, traceKey{}, t), t
}

func (t *trace) set(host string, status int, detail string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.host, t.status, t.detail, t.err = host, status, detail, err
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// roundTripper carries the requests of one session. All of them end when ctx
// does, also those that the library sends without a context, and when their
// server has said nothing for a while.
func (c *Client) roundTripper(ctx context.Context, s *session) roundTripper {
	return func(req *http.Request) (*http.Response, error) {
		t, ok := req.Context().Value(traceKey{}).(*trace)
		var lasting *offline
		if !ok {
			t, lasting = s.auth, s.offline
		}
		if req.Method == http.MethodDelete {
			t = &trace{} // an upload is given up: what counts is why
		}
		transport, err := c.transport(req.URL.Host)
		if err != nil {
			t.set(req.URL.Host, 0, "", err)
			return nil, err
		}
		reqCtx, cancel := context.WithCancelCause(req.Context())
		b := &body{ctx: reqCtx, stall: c.opts.Stall, mirror: !s.origin, since: time.Now()}
		stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
		b.timer = time.AfterFunc(b.stall, func() { cancel(errStalled) })
		b.end = func() { b.timer.Stop(); stop(); cancel(nil) }

		req = req.WithContext(reqCtx)
		lasting.ask(req)
		if req.Response == nil { // of no redirection
			req.URL = s.address(req.URL)
		}
		if len(s.header) > 0 && req.URL.Host == s.host {
			req.Header = req.Header.Clone()
			for name, values := range s.header {
				req.Header[name] = values
			}
		}
		if req.Body != nil {
			req.Body = &sending{req.Body, b}
		}
		resp, err := transport.RoundTrip(req)
		b.timer.Stop()
		if err != nil {
			err = causeOr(reqCtx, err)
			b.end()
			t.set(req.URL.Host, 0, "", err)
			return nil, err
		}
		if auth := req.Header.Get("Authorization"); auth != "" && resp.StatusCode < 400 && req.URL.Host == s.host {
			s.authorization.Store(&auth)
		}
		b.ReadCloser = resp.Body
		resp.Body = b
		lasting.read(resp)
		limitRetryAfter(resp.Header)
		return c.note(t, req, resp)
	}
}

// note records an answer in its request's trace.
func (c *Client) note(t *trace, req *http.Request, resp *http.Response) (*http.Response, error) {
	host := req.URL.Host
	if resp.StatusCode < 400 {
		t.set(host, 0, "", nil)
		if t.size > 0 && resp.StatusCode == http.StatusOK && resp.ContentLength >= 0 && resp.ContentLength != t.size {
			err := fmt.Errorf("%w: %d bytes announced, want %d", ErrWrongBytes, resp.ContentLength, t.size)
			t.set(host, 0, "", err)
			resp.Body.Close()
			return nil, err
		}
		if t.most > 0 {
			resp.Body = &bounded{resp.Body, t, host}
		}
		return resp, nil
	}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	resp.Body.Close()
	resp.Body = io.NopCloser(strings.NewReader(""))
	t.set(host, resp.StatusCode, errorDetail(data), nil)
	if resp.StatusCode == http.StatusServiceUnavailable {
		// The library tries again after 429, 500, 502 and 504, but takes
		// 503, the very code for "later", to be final.
		resp.StatusCode = http.StatusBadGateway
	}
	return resp, nil
}

// causeOr returns why a request was ended by us, or else err.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func limitRetryAfter(h http.Header) {
	v := h.Get("Retry-After")
	if v == "" {
		return
	}
	wait := maxRetryAfter
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		wait = time.Until(at)
	}
	wait = max(0, min(wait, maxRetryAfter))
	h.Set("Retry-After", strconv.Itoa(int(wait/time.Second)))
}

// errorDetail is the message in a registry's error document, if it is one.
func errorDetail(data []byte) string {
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(data, &doc) != nil {
		return ""
	}
	var parts []string
	for _, e := range doc.Errors {
		switch {
		case e.Message != "":
			parts = append(parts, e.Message)
		case e.Code != "":
			parts = append(parts, strings.ToLower(strings.ReplaceAll(e.Code, "_", " ")))
		}
	}
	return fmt.Sprintf("%.200s", strings.Join(parts, "; "))
}

// body is a response's body that ends when its server has stopped sending. The
// library resumes a blob after an early end, and only then: so every way of
// breaking off looks to it like an early end.
type body struct {
	io.ReadCloser
	ctx   context.Context //nolint:containedctx // of the request, whose body this is
	stall time.Duration
	timer *time.Timer
	end   func()

	mirror bool // it must be fast enough
	since  time.Time
	got    int64 // bytes since then
}

func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(b.stall)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err == nil && b.slow(n) {
		return n, errSlow
	}
	if err == nil || err == io.EOF {
		return n, err
	}
	cause := causeOr(b.ctx, err)
	if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return n, cause
	}
	return n, io.ErrUnexpectedEOF
}

// slow counts what came and reports whether a mirror is too slow. Only the time
// that we wait for it counts, which a reader that is slow itself doesn't lengthen
// much: what has come is in the socket's buffer.
func (b *body) slow(n int) bool {
	b.got += int64(n)
	waited := time.Since(b.since)
	if !b.mirror || waited < b.stall {
		return false
	}
	enough := b.got >= int64(slowRate*waited.Seconds())
	b.since, b.got = time.Now(), 0
	return !enough
}

// bounded is a response's body that counts against what its trace allows.
type bounded struct {
	io.ReadCloser
	t    *trace
	host string
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.t.most -= int64(n); b.t.most <= 0 {
		err = fmt.Errorf("%w: the answer is too long", ErrWrongBytes)
		b.t.set(b.host, 0, "", err)
	}
	return n, err
}

// sending is a request's body: as long as the server takes of it, it has not
// stalled.
type sending struct {
	io.ReadCloser
	b *body
}

func (s *sending) Read(p []byte) (int, error) {
	s.b.timer.Reset(s.b.stall)
	return s.ReadCloser.Read(p)
}

func (b *body) Close() error {
	b.end()
	return b.ReadCloser.Close()
}
