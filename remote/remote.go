// SPDX-License-Identifier: Apache-2.0

// Package remote fetches what a build names by URL: files over HTTP and trees
// from Git repositories, for ADD and for build contexts.
//
// Fetching has two halves. Resolving asks what there is (a file's digest, a
// commit), which is what a step's key needs; fetching brings it. Both answer
// from what is kept in the state directory where that can't be wrong: a file
// under the ETag that the server still gives, a commit under its ID. Within
// one [Client], which lives as long as a build, a thing is resolved once, so
// that a build sees one state of it.
//
// Servers and repositories are hostile, and credentials are taken care of:
// they come from secrets, go to the host that they are for and no other, and
// are neither on a command line nor in an error, a log or a file.
package remote

import (
	"context"
	"net/http"
	"sync"
	"time"

	"builder/internal/filelock"
	"builder/progress"
	"builder/store"
)

// Options of a client. The zero value works.
type Options struct {
	// Secret returns a secret of the build; ok is false if there is none.
	Secret func(id string) (value []byte, ok bool, err error)
	// AgentSocket returns the path of the socket of an SSH agent that was
	// given to the build, "" if there is none. BuildKit's id for
	// repositories is "default".
	AgentSocket func(id string) (string, error)
	// KnownHosts are files of SSH host keys. A host that is in one of them
	// must have that key; others are believed.
	KnownHosts []string
	// UserAgent is what HTTP servers are told; "" for "builder".
	UserAgent string
	// Stall is how long a server may send nothing; 0 for a minute.
	Stall time.Duration
	// MaxSize bounds a file, in bytes; 0 for 1 TiB.
	MaxSize int64
	// Backoff is the wait before the first repetition of a request that
	// failed for the time being, doubled each time; 0 for half a second.
	Backoff time.Duration
}

// Client fetches for one build. Its methods may be called from many goroutines
// at once.
type Client struct {
	store *store.Store
	opts  Options
	http  *http.Client

	mu       sync.Mutex
	resolved map[string]*resolution
	trees    []*filelock.Lock // of those that are open
}

// New returns a client, to be closed, that keeps what it fetches in a state directory:
//
//	cache/http/URL/    files and record.json (lock: http-URL)
//	cache/git/REMOTE/  a bare repository (lock: git-REMOTE)
//	cache/trees/REF/ID the tree of its last commit (lock: tree-ID)
func New(s *store.Store, opts Options) *Client {
	if opts.UserAgent == "" {
		opts.UserAgent = "builder"
	}
	if opts.Stall == 0 {
		opts.Stall = time.Minute
	}
	if opts.MaxSize == 0 {
		opts.MaxSize = 1 << 40
	}
	if opts.Backoff == 0 {
		opts.Backoff = 500 * time.Millisecond
	}
	return &Client{store: s, opts: opts, http: newHTTPClient(opts), resolved: map[string]*resolution{}}
}

// resolution is what a name was found to mean, or how that failed.
type resolution struct {
	done  chan struct{}
	value any
	err   error
}

// once resolves a name the first time it is asked for. A failure is kept too:
// a build ends with it. The first asker's ctx counts.
func once[T any](ctx context.Context, c *Client, name string, resolve func() (T, error)) (T, error) {
	c.mu.Lock()
	r, begun := c.resolved[name]
	if !begun {
		r = &resolution{done: make(chan struct{})}
		c.resolved[name] = r
	}
	c.mu.Unlock()
	if !begun {
		r.value, r.err = resolve()
		close(r.done)
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
	value, _ := r.value.(T)
	return value, r.err
}

// secret returns the first of the named secrets that the build has.
func (c *Client) secret(id string) (string, bool, error) {
	if c.opts.Secret == nil {
		return "", false, nil
	}
	v, ok, err := c.opts.Secret(id)
	return string(v), ok, err
}

// teller passes on what is worth telling about a fetch; it may be nil.
type teller func(progress.Event)

func (t teller) log(line string) {
	if t != nil {
		t(progress.Event{Log: &progress.Log{Stream: progress.Stderr, Data: []byte(line + "\n")}})
	}
}

func (t teller) amount(id string, current, total int64, done bool) {
	if t != nil {
		t(progress.Event{Status: &progress.Status{ID: id, Action: "downloading", Current: current, Total: total, Bytes: true, Done: done}})
	}
}
