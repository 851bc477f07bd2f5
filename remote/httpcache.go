// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"builder/internal/atomicfile"
	"builder/internal/filelock"

	"github.com/opencontainers/go-digest"
)

// kept is the cache's directory of one URL, locked: the last file that was
// fetched from it, called by its digest, and the record that tells of it. The
// file is on disk before the record is written, so a record never tells of one
// that isn't whole.
type kept struct {
	dir  string
	lock *filelock.Lock
}

// keptRecord is record.json.
type keptRecord struct {
	Digest   digest.Digest `json:"digest"`
	ETag     string        `json:"etag,omitempty"`
	Modified *time.Time    `json:"lastModified,omitempty"`
}

func (c *Client) openKept(ctx context.Context, url string, tell teller) (*kept, error) {
	id := nameOf(url)
	k := &kept{dir: c.store.Path("cache", "http", id)}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	k.lock, err = c.store.Lock(ctx, "http-"+id, filelock.Exclusive, func() {
		tell.log("waiting for another build that fetches it")
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

func (k *kept) close() { k.lock.ReleaseAndRemove() }

// nameOf makes a file name of a URL.
func nameOf(url string) string {
	sum := sha256.Sum256([]byte(url))
	return hex.EncodeToString(sum[:16])
}

// file is what is kept, nil if nothing is.
func (k *kept) file() *file {
	data, err := os.ReadFile(filepath.Join(k.dir, "record.json"))
	if err != nil {
		return nil
	}
	var r keptRecord
	if json.Unmarshal(data, &r) != nil || r.Digest.Validate() != nil || r.Digest.Algorithm() != digest.SHA256 {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(k.dir, r.Digest.Encoded())); err != nil {
		return nil
	}
	f := &file{digest: r.Digest, etag: r.ETag}
	if r.Modified != nil {
		f.modified = *r.Modified
	}
	return f
}

// take gives the kept file another name, under which it stays whatever others
// do to the cache.
func (k *kept) take(f *file, name string) error {
	return os.Link(filepath.Join(k.dir, f.digest.Encoded()), name)
}

// put keeps a file in place of the last one.
func (k *kept) put(f *file) error {
	old, err := os.ReadDir(k.dir)
	if err != nil {
		return err
	}
	name := filepath.Join(k.dir, f.digest.Encoded())
	if err := errors.Join(removeIfThere(name), os.Link(f.path, name)); err != nil {
		return err
	}
	r := keptRecord{Digest: f.digest, ETag: f.etag}
	if !f.modified.IsZero() {
		r.Modified = &f.modified
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(k.dir, "record.json"), data, 0o600); err != nil {
		return err
	}
	for _, e := range old {
		if e.Name() != "record.json" && e.Name() != f.digest.Encoded() {
			err = errors.Join(err, os.Remove(filepath.Join(k.dir, e.Name())))
		}
	}
	return err
}

func removeIfThere(name string) error {
	if err := os.Remove(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
