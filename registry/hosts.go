// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
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
	"time"

	"builder/image"
)

// hubHost is where the API of docker.io is.
const hubHost = "registry-1.docker.io"

// LoadDaemonConfig adds the mirrors and insecure registries of docker's
// daemon.json, so that a machine set up for docker needs no other set-up. A
// file that isn't there adds nothing.
func (o *Options) LoadDaemonConfig(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read docker's configuration: %w", err)
	}
	var file struct {
		Mirrors  []string `json:"registry-mirrors"`
		Insecure []string `json:"insecure-registries"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return fmt.Errorf("read docker's configuration %s: %w", path, err)
	}
	o.Mirrors = append(o.Mirrors, file.Mirrors...)
	o.Insecure = append(o.Insecure, file.Insecure...)
	return nil
}

// endpoint is one server to ask for the images of a registry.
type endpoint struct {
	host   string // host[:port] of the API
	prefix string // path before the repository, "" for most
	plain  bool   // http, not https
	origin bool   // the registry itself, not a mirror
}

// endpoints returns the servers to ask for the images of a registry, in order.
func (c *Client) endpoints(ctx context.Context, registry string) ([]endpoint, error) {
	var list []endpoint
	if registry == image.DefaultRegistry {
		for _, m := range c.opts.Mirrors {
			e, err := parseMirror(m)
			if err != nil {
				return nil, err
			}
			e.plain = e.plain || c.speaksPlain(ctx, e.host)
			list = append(list, e)
		}
		return append(list, endpoint{host: hubHost, origin: true}), nil
	}
	return []endpoint{{host: registry, origin: true, plain: c.speaksPlain(ctx, registry)}}, nil
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
	if isLoopback(hostport) || slices.Contains(c.opts.Insecure, hostport) {
		return true
	}
	host := hostOnly(hostport)
	addr, err := netip.ParseAddr(host)
	for _, s := range c.opts.Insecure {
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
func (c *Client) transport(hostport string) (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.transports[hostport]; ok {
		return t, nil
	}
	conf := &tls.Config{}
	if filepath.IsLocal(hostport) { // a redirection may be to the host ".."
		var err error
		if conf, err = tlsConfig(filepath.Join(c.opts.CertDir, hostport)); err != nil {
			return nil, fmt.Errorf("certificates for %s: %w", hostport, err)
		}
	}
	conf.InsecureSkipVerify = c.insecure(hostport)
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = conf
	t.MaxIdleConnsPerHost = c.opts.Parallel
	// A blob's digest is that of its bytes as they are.
	t.DisableCompression = true
	c.transports[hostport] = t
	return t, nil
}

// tlsConfig reads a directory of certificates in docker's form.
func tlsConfig(dir string) (*tls.Config, error) {
	conf := &tls.Config{}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return conf, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			pem, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			if conf.RootCAs == nil {
				if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
					return nil, err
				}
			}
			if !conf.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s holds no certificate", path)
			}
		case ".cert":
			pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
			if err != nil {
				return nil, err
			}
			conf.Certificates = append(conf.Certificates, pair)
		}
	}
	return conf, nil
}
