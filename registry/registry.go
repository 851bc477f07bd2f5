// SPDX-License-Identifier: Apache-2.0

// Package registry fetches images from registries over the OCI distribution
// API into the store, and pushes them from there.
//
// A [Client] asks the mirrors of a registry in their order and then the
// registry itself. It has the credentials that docker login and others wrote, speaks
// https, and plain http only to hosts on the loopback interface and to those
// that its [Options] name. What comes over the network is hostile until its
// digest and size are those of a descriptor that is trusted already: only then
// is it put in the store. A read that breaks off is resumed where it ended, a
// server that fails is asked again a bounded number of times, and a server
// that has stopped talking counts as failed.
//
// The package never names images in the store and never unpacks them. It is
// the only one that knows the registry client library.
package registry

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options is how a [Client] behaves. The zero value is ready for use.
type Options struct {
	// Insecure lists the hosts ("registry.example:5000") and networks
	// ("10.0.0.0/8") whose certificates aren't checked and that may speak
	// plain http. Hosts on the loopback interface always are of them.
	Insecure []string
	// Mirrors are asked, in this order, before docker.io: hosts, or URLs
	// whose path stands before the repository's name.
	Mirrors []string
	// Config are files that say more of this; nil: those that
	// [FindConfigFiles] finds by the environment.
	Config *ConfigFiles
	// CertDirs hold certificates by host, as docker's does: HOST/*.crt are
	// authorities to trust, HOST/*.cert and *.key the client's own.
	// nil: docker's, and those of podman.
	CertDirs []string
	// AuthFiles have the credentials, in this order. nil: those that
	// [AuthFiles] finds by the environment.
	AuthFiles []string
	// Warn is told once of each thing about them that is wrong. nil: nobody.
	Warn func(string)
	// UserAgent is what registries see. "": builder.
	UserAgent string

	Ranged   int64         // bytes from which a blob is fetched by several ranges at a time; 0: 64 MiB
	Parallel int           // downloads and uploads at a time; 0: 4
	Attempts int           // times that one request is tried; 0: 5
	Delay    time.Duration // before the second try, doubled from then on; 0: 100 ms
	Stall    time.Duration // without a byte until a server counts as failed; 0: 1 min
	Dial     time.Duration // until a host that doesn't answer counts as failed; 0: 10 s

	// Tell is told which server gave what, and which failed. nil: nobody.
	Tell func(string)

	Log *slog.Logger // requests and retries, at debug level; nil: nowhere
}

func (o Options) withDefaults() Options {
	if o.Config == nil {
		files := FindConfigFiles(os.Getenv)
		o.Config = &files
	}
	if o.CertDirs == nil {
		o.CertDirs = []string{"/etc/docker/certs.d", "/etc/containers/certs.d"}
		if home := os.Getenv("HOME"); home != "" {
			o.CertDirs = append(o.CertDirs, filepath.Join(home, ".docker", "certs.d"), filepath.Join(home, ".config", "containers", "certs.d"))
		}
	}
	if o.Dial <= 0 {
		o.Dial = 10 * time.Second
	}
	if o.Tell == nil {
		o.Tell = func(string) {}
	}
	if o.UserAgent == "" {
		o.UserAgent = "builder"
	}
	if o.Ranged <= 0 {
		o.Ranged = 64 << 20
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.Attempts <= 0 {
		o.Attempts = 5
	}
	if o.Delay <= 0 {
		o.Delay = 100 * time.Millisecond
	}
	if o.Stall <= 0 {
		o.Stall = time.Minute
	}
	if o.AuthFiles == nil {
		o.AuthFiles = AuthFiles(os.Getenv)
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return o
}

// Client talks to registries. It may be used by many goroutines at once. It
// keeps connections open between calls, which end with the process.
type Client struct {
	opts Options

	credentials *credentials
	slots       chan struct{} // one for each download and upload

	configOnce sync.Once
	hosts      *hostConfig
	configErr  error

	mu         sync.Mutex
	transports map[string]*transport // by host:port
	plain      map[string]bool       // host:port: whether it speaks plain http
	trusted    map[string]trusted    // by host:port
	dead       map[string]bool       // mirrors that were not to be reached
}

// trusted is what configuration files say of a host's connections.
type trusted struct {
	insecure bool
	cas      []string
	certs    [][2]string
}

// New returns a client. It touches neither disk nor network: those wait for
// the first image.
func New(opts Options) *Client {
	opts = opts.withDefaults()
	return &Client{
		opts:        opts,
		credentials: &credentials{names: opts.AuthFiles, warn: opts.Warn},
		slots:       make(chan struct{}, opts.Parallel),
		transports:  map[string]*transport{},
		plain:       map[string]bool{},
		trusted:     map[string]trusted{},
		dead:        map[string]bool{},
	}
}

// slot waits until there may be one more download or upload and returns how to end it.
func (c *Client) slot(ctx context.Context) (release func(), err error) {
	select {
	case c.slots <- struct{}{}:
		return func() { <-c.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
