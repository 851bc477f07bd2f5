// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"builder/image"
)

// hubHost is where the API of docker.io is.
const hubHost = "registry-1.docker.io"

// endpoint is one server to ask for the images of a registry.
type endpoint struct {
	host   string // host[:port] of the API
	prefix string // path before the repository, "" for most
	api    string // path of the API, "" for /v2
	plain  bool   // http, not https
	origin bool   // the registry itself, not a mirror

	replaces   bool        // prefix stands in the place of what the rule is about, not before it
	pieces     bool        // blobs are sent to it in pieces
	digestOnly bool        // only asked for digests
	tagOnly    bool        // only asked for tags
	insecure   bool        // its certificate isn't checked, and it may speak http
	cas        []string    // files of authorities to trust
	certs      [][2]string // files of certificates and keys of ours
	header     http.Header // sent with every request to it
	repository string      // what is asked for; "" for prefix and the name's
	from       Place       // what says so; zero for nobody
}

// address is where a request to the endpoint goes that is meant for the API at /v2.
func (e *endpoint) address(u *url.URL) *url.URL {
	rest, ok := strings.CutPrefix(u.Path, "/v2")
	if e.api == "" || u.Host != e.host || !ok || rest != "" && rest[0] != '/' || strings.HasPrefix(u.Path+"/", e.api+"/") {
		return u // what the server itself has sent us to is where it says
	}
	moved := *u
	moved.Path, moved.RawPath = e.api+rest, ""
	return &moved
}

// asked reports whether the endpoint is asked for a reference.
func (e *endpoint) asked(ref image.Ref) bool {
	return !(e.digestOnly && ref.Digest == "") && !(e.tagOnly && ref.Digest != "")
}

// ErrBlocked says that a configuration file forbids a registry.
var ErrBlocked = errors.New("blocked")

// config reads the configuration files, once.
func (c *Client) config() (*hostConfig, error) {
	c.configOnce.Do(func() { c.hosts, c.configErr = loadConfig(*c.opts.Config) })
	return c.hosts, c.configErr
}

// endpoints returns the servers to ask for a reference, in order; the last is
// the registry, or what stands for it.
func (c *Client) endpoints(ctx context.Context, ref image.Ref) ([]endpoint, error) {
	list, err := c.plan(ref)
	for i := range list {
		c.prepare(ctx, &list[i])
	}
	return list, err
}

// origin returns the registry, or what stands for it.
func (c *Client) origin(ctx context.Context, ref image.Ref) (e endpoint, err error) {
	list, err := c.planFor(ref)
	if err != nil {
		return e, err
	}
	e = list[len(list)-1]
	c.prepare(ctx, &e)
	return e, nil
}

// prepare finds out how to speak to an endpoint.
func (c *Client) prepare(ctx context.Context, e *endpoint) {
	c.trust(e)
	e.plain = e.plain || c.speaksPlain(ctx, e.host)
}

// plan is endpoints without a look at the network.
func (c *Client) plan(ref image.Ref) (list []endpoint, err error) {
	conf, err := c.config()
	if err != nil {
		return nil, err
	}
	names := conf.meant(ref)
	if names == nil {
		return c.planFor(ref)
	}
	for i, name := range names {
		meant, err := image.ParseRef(name.name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name.from, err)
		}
		meant.Tag, meant.Digest = ref.Tag, ref.Digest
		more, err := c.planFor(meant)
		if err != nil {
			return nil, err
		}
		for _, e := range more {
			if e.repository == "" {
				e.repository = strings.Trim(e.prefix+"/"+meant.Repository, "/")
				e.prefix = ""
			}
			if e.from == (Place{}) {
				e.from = name.from
			}
			e.origin = e.origin && i == len(names)-1
			list = append(list, e)
		}
	}
	return list, nil
}

// planFor is plan for a name that means itself.
func (c *Client) planFor(ref image.Ref) ([]endpoint, error) {
	conf, err := c.config()
	if err != nil {
		return nil, err
	}
	name := ref.Registry + "/" + ref.Repository
	hosts, err := conf.readHosts(ref.Registry)
	if err != nil {
		return nil, err
	}
	origin := endpoint{host: apiHost(ref.Registry), origin: true}
	var mirrors []endpoint
	for _, m := range c.opts.Mirrors {
		if ref.Registry != image.DefaultRegistry {
			break
		}
		e, err := parseMirror(m)
		if err != nil {
			return nil, err
		}
		mirrors = append(mirrors, e)
	}
	decided := len(mirrors) > 0
	for _, r := range []*rule{best(conf.builder, name), best(conf.containers, name), hosts, best(conf.docker, name)} {
		if r == nil {
			continue
		}
		if r.blocked {
			return nil, fmt.Errorf("%w by %s", ErrBlocked, r.from)
		}
		origin.insecure = origin.insecure || r.insecure
		if decided || !r.says() {
			continue
		}
		decided = true
		mirrors = slices.Clone(r.mirrors)
		if r.origin != nil {
			insecure := origin.insecure
			origin = *r.origin
			origin.insecure = origin.insecure || insecure
		}
		for _, e := range append([]*endpoint{&origin}, pointers(mirrors)...) {
			if e.replaces {
				e.repository = strings.Trim(e.prefix+rest(r, name), "/")
				e.prefix = ""
			}
		}
	}
	return append(mirrors, origin), nil
}

func pointers(list []endpoint) (out []*endpoint) {
	for i := range list {
		out = append(out, &list[i])
	}
	return out
}

// rest is what comes after a rule's prefix in a name.
func rest(r *rule, name string) string {
	if strings.HasPrefix(r.prefix, "*.") {
		_, path, _ := strings.Cut(name, "/")
		return "/" + path
	}
	return strings.TrimPrefix(name, r.prefix)
}

// trust has connections to an endpoint follow what its configuration says.
func (c *Client) trust(e *endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.trusted[e.host]
	t.insecure = t.insecure || e.insecure
	if len(e.cas) > 0 {
		t.cas = e.cas
	}
	if len(e.certs) > 0 {
		t.certs = e.certs
	}
	c.trusted[e.host] = t
}

func parseMirror(s string) (endpoint, error) {
	raw := s
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return endpoint{}, fmt.Errorf("registry mirror %q is not a host or an http(s) URL", raw)
	}
	return endpoint{host: u.Host, prefix: strings.Trim(u.Path, "/"), plain: u.Scheme == "http"}, nil
}

// insecure reports whether a host's certificate needn't be checked, and http
// may be spoken to it.
func (c *Client) insecure(hostport string) bool {
	c.mu.Lock()
	told := c.trusted[hostport].insecure
	c.mu.Unlock()
	list := c.opts.Insecure
	if conf, err := c.config(); err == nil {
		list = slices.Concat(list, conf.insecure)
	}
	if told || isLoopback(hostport) || slices.Contains(list, hostport) {
		return true
	}
	host := hostOnly(hostport)
	addr, err := netip.ParseAddr(host)
	for _, s := range list {
		if s == host {
			return true
		}
		prefix, prefixErr := netip.ParsePrefix(s)
		if err == nil && prefixErr == nil && prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// isLoopback says so of localhost and of the addresses 127.0.0.0/8 and ::1,
// with or without a port. Names that merely resolve to them are not trusted.
func isLoopback(hostport string) bool {
	host := hostOnly(hostport)
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func hostOnly(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	return strings.Trim(host, "[]")
}

// speaksPlain finds out once whether a host that may be insecure speaks http.
func (c *Client) speaksPlain(ctx context.Context, hostport string) bool {
	if !c.insecure(hostport) {
		return false
	}
	c.mu.Lock()
	plain, known := c.plain[hostport]
	c.mu.Unlock()
	if known {
		return plain
	}
	plain, err := probePlain(ctx, hostport)
	if err != nil {
		return false // the request proper will say what is wrong
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plain[hostport] = plain
	return plain
}

// probePlain asks a host a question in http without credentials. A server that
// wants TLS answers it with an alert, with 400, or with a redirection to
// https; everything else is a server of http. The other way round, a TLS
// greeting sent to a server of http, may wait for an answer for ever: the
// greeting need not hold the line end that such a server waits for.
func probePlain(ctx context.Context, hostport string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+hostport+"/v2/", nil)
	if err != nil {
		return false, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	resp, err := transport.RoundTrip(req)
	var opErr *net.OpError
	switch {
	case err != nil && (ctx.Err() != nil || errors.As(err, &opErr) && opErr.Op == "dial"):
		return false, err // no server at all
	case err != nil:
		return false, nil
	}
	defer resp.Body.Close()
	toHTTPS := resp.StatusCode/100 == 3 && strings.HasPrefix(resp.Header.Get("Location"), "https:")
	return resp.StatusCode != http.StatusBadRequest && !toHTTPS, nil
}

// transport returns the connections to a host, with the certificates that are
// valid for it. Each host has its own: what one is excused from must not hold
// for another.
func (c *Client) transport(hostport string) (*transport, error) {
	insecure := c.insecure(hostport)
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.transports[hostport]; ok {
		return t, nil
	}
	conf := &tls.Config{}
	if filepath.IsLocal(hostport) { // a redirection may be to the host ".."
		for _, dir := range c.opts.CertDirs {
			if err := addCertDir(conf, filepath.Join(dir, hostport)); err != nil {
				return nil, fmt.Errorf("certificates for %s: %w", hostport, err)
			}
		}
	}
	told := c.trusted[hostport]
	if err := addCertificates(conf, told.cas, told.certs); err != nil {
		return nil, fmt.Errorf("certificates for %s: %w", hostport, err)
	}
	conf.InsecureSkipVerify = insecure
	t := &transport{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	conf.GetClientCertificate = t.clientCertificate(conf.Certificates)
	t.DialContext = (&net.Dialer{Timeout: c.opts.Dial, KeepAlive: 30 * time.Second}).DialContext
	t.TLSClientConfig = conf
	t.MaxIdleConnsPerHost = c.opts.Parallel
	// A blob's digest is that of its bytes as they are.
	t.DisableCompression = true
	c.transports[hostport] = t
	return t, nil
}

// transport is the connections to one host.
type transport struct {
	*http.Transport
	unknown atomic.Bool // the host wants a certificate of ours, and none fits
}

// clientCertificate chooses the certificate for a host that wants one.
func (t *transport) clientCertificate(certs []tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(want *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		for i := range certs {
			if want.SupportsCertificate(&certs[i]) == nil {
				return &certs[i], nil
			}
		}
		t.unknown.Store(true)
		return &tls.Certificate{}, nil
	}
}

// RoundTrip sends a request. Where the host has refused a client without a
// certificate it says so: of TLS 1.3's alert, which comes after the
// handshake, net/http may tell no more than that the connection was lost.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(req)
	if err != nil && req.Context().Err() == nil && t.unknown.Load() {
		err = fmt.Errorf("tls: the registry asks its clients for a certificate, and none is configured that it takes: %w", err)
	}
	return resp, err
}

// addCertDir reads a directory of certificates in docker's form.
func addCertDir(conf *tls.Config, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	var cas []string
	var certs [][2]string
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		base, ext := strings.TrimSuffix(name, filepath.Ext(name)), filepath.Ext(name)
		switch ext {
		case ".crt":
			cas = append(cas, name)
		case ".cert":
			if _, err := os.Stat(base + ".key"); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s has no key beside it: %s.key is missing", name, base)
			}
			certs = append(certs, [2]string{name, base + ".key"})
		case ".key":
			if _, err := os.Stat(base + ".cert"); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s has no certificate beside it: %s.cert is missing (authorities are called .crt)", name, base)
			}
		}
	}
	return addCertificates(conf, cas, certs)
}

// addCertificates adds authorities to trust and certificates of ours.
func addCertificates(conf *tls.Config, cas []string, certs [][2]string) (err error) {
	for _, name := range cas {
		pem, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if conf.RootCAs == nil {
			if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
				return err
			}
		}
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s holds no certificate", name)
		}
	}
	for _, pair := range certs {
		cert, err := tls.LoadX509KeyPair(pair[0], pair[1])
		if err != nil {
			return fmt.Errorf("%s: %w", pair[0], err)
		}
		conf.Certificates = append(conf.Certificates, cert)
	}
	return nil
}
