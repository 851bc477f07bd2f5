// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"builder/cache"
	"builder/internal/secrets"
	"builder/snapshot"
)

// LeakError says that something that would be kept holds the value of a
// secret.
type LeakError struct {
	ID    string // of the secret
	Where string
}

func (e *LeakError) Error() string {
	return fmt.Sprintf("%s holds the value of secret %q: nothing of it is kept", e.Where, e.ID)
}

// Hint is what to do about it.
func (e *LeakError) Hint() string {
	return "read the secret where it is mounted and write it nowhere else; if the image is meant to have it, build with --allow secret.leak"
}

// guardSecrets makes ready to look for the secrets that were given, whether or
// not a step uses them, and checks that neither an instruction nor the image's
// config holds one's value.
func (p *plan) guardSecrets() error {
	p.guard, p.unguarded = secrets.New(p.opts.Secrets)
	if p.opts.Allow.SecretLeak {
		return nil
	}
	for _, st := range p.reachable() {
		for _, h := range st.state.history {
			if id, found := p.guard.Find(h.CreatedBy); found && !h.base {
				return p.file.At(h.location, &LeakError{id, "the image's history"})
			}
		}
	}
	config, err := json.Marshal(p.target.state.config)
	if err != nil {
		return err
	}
	if id, found := p.guard.Find(string(config)); found {
		return &LeakError{id, "the image's config"}
	}
	return nil
}

// tarWriter writes what is looked through, as the tar of a layer.
type tarWriter func(ctx context.Context, w io.Writer) error

// checkLeak looks for the values of secrets in what a step has written, before
// that is kept.
func (r *runner) checkLeak(ctx context.Context, active snapshot.Active) error {
	return r.search(ctx, func(ctx context.Context, w io.Writer) error { return r.env.RootFS.Tar(ctx, w, active) })
}

// checkCached looks for them in a result that an earlier build left, which may
// not have known of them, if the image is to have it. What was looked through
// for these values once is not again.
func (r *runner) checkCached(ctx context.Context, s *step, res *stepResult) error {
	if !r.guarded() || !r.inImage[s.stage] {
		return nil
	}
	id, err := r.snapshotOf(ctx, res)
	if err != nil {
		return err
	}
	key, err := r.searchKey(id)
	if err != nil || r.env.Cache.Memo(key) != "" {
		return err
	}
	if err := r.search(ctx, func(ctx context.Context, w io.Writer) error { return r.env.RootFS.TarDiff(ctx, w, id) }); err != nil {
		return err
	}
	return r.env.Cache.SetMemo(key, "none found")
}

// rememberSearch notes that a result was looked through when it was made.
func (r *runner) rememberSearch(id snapshot.ID) error {
	if !r.guarded() {
		return nil
	}
	key, err := r.searchKey(id)
	if err != nil {
		return err
	}
	return r.env.Cache.SetMemo(key, "none found")
}

// guarded reports whether there are secrets to be looked for.
func (r *runner) guarded() bool { return r.plan.guard != nil && !r.opts.Allow.SecretLeak }

// searchKey names a result and the values that were looked for in it, of which
// it tells nothing.
func (r *runner) searchKey(id snapshot.ID) (cache.Key, error) {
	values, err := r.fingerprint()
	if err != nil {
		return "", err
	}
	h := cache.NewHash("looked through for secrets")
	h.Add("snapshot", string(id))
	h.Add("values", values)
	return h.Sum(), nil
}

// search looks through a tar.
func (r *runner) search(ctx context.Context, write tarWriter) error {
	if !r.guarded() {
		return nil
	}
	err := write(ctx, secrets.NewFinder(r.plan.guard))
	var found *secrets.FoundError
	if !errors.As(err, &found) {
		return err
	}
	name, err := entryAt(ctx, write, found.End-1)
	if err != nil {
		return errors.Join(&LeakError{found.ID, "a file"}, err)
	}
	return &LeakError{found.ID, "/" + r.plan.guard.Blank(name)}
}

// entryAt is the name of the file to which a byte of a tar belongs.
func entryAt(ctx context.Context, write tarWriter, offset int64) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	defer func() { _ = pr.Close() }() // has no error
	go func() { pw.CloseWithError(write(ctx, pw)) }()
	in := &counter{r: pr}
	for layer := tar.NewReader(in); ; {
		hdr, err := layer.Next()
		if err != nil {
			return "", fmt.Errorf("find the file: %w", err)
		}
		if _, err := io.Copy(io.Discard, layer); err != nil {
			return "", fmt.Errorf("find the file: %w", err)
		}
		if in.n > offset {
			return hdr.Name, nil
		}
	}
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
