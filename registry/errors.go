// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/regclient/regclient/types/errs"

	"builder/image"
)

// Kinds of failure that callers tell apart.
var (
	// ErrNotFound says that the registry has no such image or blob.
	ErrNotFound = errors.New("not found")
	// ErrDenied says that the registry wants other credentials than ours.
	ErrDenied = errors.New("access denied")
	// ErrUnreachable says that no registry answered.
	ErrUnreachable = errors.New("registry not reachable")
	// ErrServer says that the registry kept answering that it can't.
	ErrServer = errors.New("registry failed")
	// ErrWrongBytes says that the registry sent other bytes than those asked
	// for.
	ErrWrongBytes = errors.New("wrong bytes")
	// ErrNoPlatform says that an image isn't made for the platform.
	ErrNoPlatform = errors.New("no such platform")
)

// Error is a failed operation on one reference. It wraps one of the kinds
// above where it has one.
type Error struct {
	Op   string // "pull", "push", "resolve"
	Ref  image.Ref
	Err  error
	hint string
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Ref.Familiar(), e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Hint is what the user may do, "" where nothing general can be said.
func (e *Error) Hint() string { return e.hint }

// opError makes the error that a caller sees.
func (c *Client) opError(op string, ref image.Ref, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := &Error{Op: op, Ref: ref, Err: err}
	var certErr *tls.CertificateVerificationError
	switch {
	case errors.Is(err, ErrDenied):
		e.hint = "builder login " + ref.Registry + " keeps credentials; those of docker and podman are found too"
		if problem := c.credentials.problem(); problem != nil {
			e.hint = problem.Error()
		}
	case errors.Is(err, ErrNotFound) && ref.Registry == image.DefaultRegistry:
		e.hint = "names without a registry are looked up at docker.io"
	case errors.As(err, &certErr):
		e.hint = fmt.Sprintf("if the registry is the right one, put the certificate of its authority in %s/%s/ca.crt", c.opts.CertDirs[0], ref.Registry)
	case isPlainAnswer(err):
		e.hint = fmt.Sprintf("the registry speaks http: if you trust the network up to it, list %q under insecure-registries in /etc/docker/daemon.json", ref.Registry)
	}
	return e
}

// isPlainAnswer reports whether a server answered TLS with http. The net/http
// package has no error value for it.
func isPlainAnswer(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// explain turns the library's error for a request into one that says what
// happened to it.
func (s *session) explain(ctx context.Context, t *trace, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, errs.ErrDigestMismatch) || errors.Is(err, errs.ErrSizeLimitExceeded) {
		return fmt.Errorf("%w from %s: %w", ErrWrongBytes, s.host, err)
	}
	if tokenErr := s.auth.failure(); tokenErr != nil {
		return fmt.Errorf("authenticate at %s: %w", s.host, tokenErr)
	}
	if failure := t.failure(); failure != nil {
		return failure
	}
	if errors.Is(err, errs.ErrHTTPUnauthorized) {
		return fmt.Errorf("%w by %s", ErrDenied, s.host)
	}
	return err
}

// failure is what the trace ended with, nil after an answer that is none.
func (t *trace) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	detail := ""
	if t.detail != "" {
		detail = " (" + t.detail + ")"
	}
	switch {
	case t.err != nil:
		return connectError(t.host, t.err)
	case t.status == http.StatusNotFound:
		return fmt.Errorf("%w at %s%s", ErrNotFound, t.host, detail)
	case t.status == http.StatusUnauthorized || t.status == http.StatusForbidden:
		return fmt.Errorf("%w by %s%s", ErrDenied, t.host, detail)
	case t.status == http.StatusTooManyRequests:
		return fmt.Errorf("%w: %s allows no more requests for now%s", ErrServer, t.host, detail)
	case t.status >= 400:
		return fmt.Errorf("%w: %s answered %d %s%s", ErrServer, t.host, t.status, http.StatusText(t.status), detail)
	}
	return nil
}

// connectError says in few words why a host didn't answer.
func connectError(host string, err error) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Errorf("%w: %s: no such host", ErrUnreachable, dns.Name)
	case errors.As(err, &dns):
		return fmt.Errorf("%w: look up %s: %s", ErrUnreachable, dns.Name, dns.Err)
	case errors.Is(err, ErrWrongBytes):
		return fmt.Errorf("%s: %w", host, err)
	case errors.Is(err, errStalled):
		return fmt.Errorf("%w: %s: %w", ErrUnreachable, host, errStalled)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: connect to %s: %w", ErrUnreachable, host, op.Err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnreachable, host, err)
}
