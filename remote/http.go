// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"builder/progress"

	"github.com/opencontainers/go-digest"
)

// file is what a URL was found to hold.
type file struct {
	digest digest.Digest
	etag   string
	path   string
}

// ResolveFile returns the digest of what is at a URL. A checksum is believed
// without asking the server: [Client.FetchFile] fails if it is wrong.
// Otherwise the server is asked for the file, or whether it still has the one
// that is kept.
func (c *Client) ResolveFile(ctx context.Context, url string, checksum digest.Digest, tell func(progress.Event)) (digest.Digest, error) {
	if checksum != "" {
		return checksum, nil
	}
	f, err := c.resolveFile(ctx, url, "", tell)
	if err != nil {
		return "", err
	}
	return f.digest, nil
}

// FetchFile makes a file called name with what [Client.ResolveFile] found:
// mode 0600, and the time that the server gave, 1970 if none. It may share its
// inode with others and must not be written to.
func (c *Client) FetchFile(ctx context.Context, url string, checksum digest.Digest, name string, tell func(progress.Event)) error {
	f, err := c.resolveFile(ctx, url, checksum, tell)
	if err != nil {
		return err
	}
	return os.Link(f.path, name)
}

// resolveFile brings what a URL holds.
func (c *Client) resolveFile(ctx context.Context, url string, checksum digest.Digest, tell teller) (*file, error) {
	return once(ctx, c, "http "+url+" "+checksum.String(), func() (*file, error) {
		f, err := c.findFile(ctx, url, checksum, tell)
		if err != nil {
			return nil, fmt.Errorf("fetch %s: %w", redact(url), err)
		}
		return f, nil
	})
}

// findFile takes the file from the cache if it is surely right, else from the
// server, and gives it a name of this process.
func (c *Client) findFile(ctx context.Context, url string, checksum digest.Digest, tell teller) (*file, error) {
	kept, err := c.openKept(ctx, url, tell)
	if err != nil {
		return nil, err
	}
	defer kept.close()
	dir, err := c.store.TempDir()
	if err != nil {
		return nil, err
	}
	own := filepath.Join(dir, "data")
	if checksum != "" {
		return c.findPinned(ctx, url, checksum, kept, own, tell)
	}
	have := kept.last()
	if have == nil || have.etag == "" || !c.unchanged(ctx, url, have.etag) {
		got, err := c.download(ctx, url, have, own, tell)
		if err != nil {
			return nil, err
		}
		if got != have { // else it was not modified
			return got, kept.put(got)
		}
	}
	return have.as(own)
}

// findPinned finds the file that has a digest.
func (c *Client) findPinned(ctx context.Context, url string, checksum digest.Digest, kept *kept, own string, tell teller) (*file, error) {
	have, err := kept.pinned(checksum)
	if err != nil {
		return nil, err
	}
	if have != nil {
		return have.as(own)
	}
	got, err := c.download(ctx, url, nil, own, tell)
	if err != nil {
		return nil, err
	}
	if got.digest != checksum {
		return nil, errors.Join(&ChecksumError{URL: redact(url), Got: got.digest, Want: checksum}, os.Remove(own))
	}
	return got, kept.pin(got)
}

// as is the file under another name, which others don't take away.
func (f *file) as(name string) (*file, error) {
	return &file{digest: f.digest, etag: f.etag, path: name}, os.Link(f.path, name)
}

// ChecksumError says that a file is not the one that was asked for.
type ChecksumError struct {
	URL       string
	Got, Want digest.Digest
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("digest mismatch: got %s, want %s", e.Got, e.Want)
}

// Hint says what may have happened.
func (e *ChecksumError) Hint() string {
	return "the file was replaced, or --checksum is another file's; nothing was kept"
}

// unchanged asks with HEAD whether the server still has the version that an
// ETag names. Some servers that send ETags don't understand If-None-Match, so
// the answer's ETag is compared. A failure is no answer: GET will tell.
func (c *Client) unchanged(ctx context.Context, url, etag string) bool {
	w := c.watch(ctx)
	defer w.stop()
	req, err := c.request(w.ctx, http.MethodHead, url)
	if err != nil {
		return false
	}
	req.Header.Set("If-None-Match", etag)
	// As GET sends it: ETags may depend on it.
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := c.http.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	got := strongTag(resp.Header.Get("ETag"))
	switch resp.StatusCode {
	case http.StatusOK:
		return got == etag
	case http.StatusNotModified:
		return got == etag || got == ""
	}
	return false
}

// strongTag drops what marks an ETag as weak, for comparing.
func strongTag(etag string) string { return strings.TrimPrefix(etag, "W/") }

// attempts is how often a request is made before its failure counts.
const attempts = 4

// maxWait bounds what a server may ask us to wait before trying again.
const maxWait = time.Minute

// download writes what is at a URL to a new file called name. If the server
// says that it is what have is, have is returned and no file is made.
func (c *Client) download(ctx context.Context, url string, have *file, name string, tell teller) (*file, error) {
	wait := c.opts.Backoff
	for n := 1; ; n++ {
		f, err := c.get(ctx, url, have, name, tell)
		var again *retryError
		if err == nil || !errors.As(err, &again) || n == attempts || ctx.Err() != nil {
			return f, err
		}
		pause := max(wait, min(again.after, maxWait))
		tell.log(fmt.Sprintf("%v: trying again in %v", err, pause))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		wait *= 2
	}
}

// retryError is a failure that may pass.
type retryError struct {
	err   error
	after time.Duration // as the server asks
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// get makes one attempt.
func (c *Client) get(ctx context.Context, url string, have *file, name string, tell teller) (*file, error) {
	w := c.watch(ctx)
	defer w.stop()
	req, err := c.request(w.ctx, http.MethodGet, url)
	if err != nil {
		return nil, err
	}
	if have != nil && have.etag != "" {
		req.Header.Set("If-None-Match", have.etag)
	}
	resp, err := c.http.Do(req) //nolint:bodyclose // it is, in the next lines
	if err != nil {
		return nil, w.explain(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && have != nil {
		return have, nil
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		return nil, statusError(resp)
	}
	f := &file{path: name, etag: strongTag(resp.Header.Get("ETag"))}
	modified, err := http.ParseTime(resp.Header.Get("Last-Modified"))
	if err != nil {
		modified = time.Unix(0, 0)
	}
	if resp.ContentLength > c.opts.MaxSize {
		return nil, fmt.Errorf("it has %d bytes, more than the limit of %d", resp.ContentLength, c.opts.MaxSize)
	}
	body := &watchedReader{w: w, r: resp.Body, tell: func(n int64, done bool) {
		tell.amount(redact(url), n, max(resp.ContentLength, 0), done)
	}}
	if err := c.save(f, modified, body); err != nil {
		os.Remove(name)
		return nil, w.explain(ctx, err)
	}
	return f, nil
}

// save writes a body and computes its digest.
func (c *Client) save(f *file, modified time.Time, body *watchedReader) error {
	out, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(body, c.opts.MaxSize+1))
	if err != nil {
		return err
	}
	if n > c.opts.MaxSize {
		return fmt.Errorf("it has more than %d bytes, the limit", c.opts.MaxSize)
	}
	body.tell(n, true)
	f.digest = digest.NewDigest(digest.SHA256, h)
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Chtimes(f.path, modified, modified)
}

// statusError is what a status that isn't success means.
func statusError(resp *http.Response) error {
	err := fmt.Errorf("the server answers %s", resp.Status)
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		host := resp.Request.URL.Hostname()
		return &hintError{err, fmt.Sprintf("if it needs credentials, give them as the secret %s%s or %s%s", headerSecret, host, tokenSecret, host)}
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return &retryError{err, retryAfter(resp.Header.Get("Retry-After"))}
	}
	return err
}

// retryAfter reads a Retry-After header: seconds or a date.
func retryAfter(v string) time.Duration {
	if n, err := strconv.Atoi(v); err == nil && n > 0 {
		return time.Duration(min(n, int(maxWait/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return time.Until(t)
	}
	return 0
}

// Secrets for HTTP(S) are called these and a host's name.
const (
	headerSecret = "HTTP_AUTH_HEADER_" // the Authorization header
	tokenSecret  = "HTTP_AUTH_TOKEN_"  // what follows "Bearer" in it
)

// request makes a request with the credentials that the build has for the
// URL's host.
func (c *Client) request(ctx context.Context, method, address string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, withoutURL(err)
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	host := req.URL.Hostname()
	for _, s := range []struct{ id, scheme string }{{headerSecret + host, ""}, {tokenSecret + host, "Bearer "}} {
		v, ok, err := c.secret(s.id)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", s.id, err)
		}
		if !ok {
			continue
		}
		v = strings.TrimSpace(v)
		if strings.ContainsAny(v, "\r\n\x00") {
			return nil, fmt.Errorf("secret %s: it has several lines, which a header can't have", s.id)
		}
		req.Header.Set("Authorization", s.scheme+v)
	}
	return req, nil
}

// newHTTPClient returns a client that follows redirects, but takes credentials
// to no other host, port or scheme.
func newHTTPClient(opts Options) *http.Client {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 30 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        16,
		IdleConnTimeout:     opts.Stall,
	}
	return &http.Client{Transport: t, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errors.New("more than 10 redirects")
		}
		first := via[0].URL
		if req.URL.Scheme != first.Scheme || req.URL.Host != first.Host {
			req.Header.Del("Authorization")
		}
		return nil
	}}
}

// watch ends a request whose server sends nothing for too long.
type watch struct {
	ctx     context.Context //nolint:containedctx // the request's, which ends with it
	cancel  context.CancelFunc
	timer   *time.Timer
	limit   time.Duration
	stalled atomic.Bool
}

func (c *Client) watch(ctx context.Context) *watch {
	w := &watch{limit: c.opts.Stall}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.timer = time.AfterFunc(w.limit, func() {
		w.stalled.Store(true)
		w.cancel()
	})
	return w
}

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel()
}

// explain says what a failed request means: that the build was cancelled, that
// it may be tried again, or that it can't succeed.
func (w *watch) explain(ctx context.Context, err error) error {
	var certificate *x509.HostnameError
	var authority *x509.UnknownAuthorityError
	var invalid *x509.CertificateInvalidError
	var name *net.DNSError
	err = withoutURL(err)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case w.stalled.Load():
		return &retryError{err: fmt.Errorf("the server sent nothing for %v", w.limit)}
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &invalid),
		errors.As(err, &name) && name.IsNotFound, errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOSPC):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &retryError{err: fmt.Errorf("the server broke off: %w", err)}
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return &retryError{err: err}
	}
	return err
}

// withoutURL drops the URL from an error: the caller names it better.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// watchedReader tells a watch and a display of what comes.
type watchedReader struct {
	w    *watch
	r    io.Reader
	n    int64
	told time.Time
	tell func(n int64, done bool)
}

func (r *watchedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.w.timer.Reset(r.w.limit)
	r.n += int64(n)
	if now := time.Now(); now.Sub(r.told) > 100*time.Millisecond {
		r.told = now
		r.tell(r.n, false)
	}
	return n, err
}

// redact hides a password in a URL, and in what should be one.
func redact(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return userinfo().ReplaceAllString(s, "//")
	}
	if u.User == nil {
		return s
	}
	return u.Redacted()
}

var userinfo = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`//[^/]*@`) })

// hintError is an error and what to do about it.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// Hint is what to do.
func (e *hintError) Hint() string { return e.hint }
