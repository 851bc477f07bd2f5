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

	"builder/internal/atomicfile"
	"builder/internal/filelock"
	"builder/internal/sys"

	"github.com/opencontainers/go-digest"
)

// kept is the cache's directory of one URL, locked. It has the last file that
// was fetched without a checksum, called by its digest, and the record that
// tells of it; and every file that was fetched with one, called pinned-DIGEST.
// Files have the time that the server gave. A file is on disk before anything
// tells of it, so what is told of is whole.
type kept struct {
	dir  string
	lock *filelock.Lock
}

// keptRecord is record.json.
type keptRecord struct {
	Digest digest.Digest `json:"digest"`
	ETag   string        `json:"etag,omitempty"`
}

func (c *Client) openKept(ctx context.Context, url string, tell teller) (*kept, error) {
	id := nameOf(url)
	k := &kept{dir: c.store.Path("cache", "http", id)}
	var err error
	k.lock, err = c.store.Lock(ctx, "http-"+id, filelock.Exclusive, func() {
		tell.log("waiting for another build that fetches it")
	})
	if err != nil {
		return nil, err
	}
	// Under the lock, under which a prune removes it.
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		k.close()
		return nil, err
	}
	sys.Touch(k.dir)
	return k, nil
}

func (k *kept) close() { k.lock.ReleaseAndRemove() }

// nameOf makes a file name of a URL.
func nameOf(url string) string {
	sum := sha256.Sum256([]byte(url))
	return hex.EncodeToString(sum[:16])
}

// last is the last file that was fetched, nil if none was.
func (k *kept) last() *file {
	data, err := os.ReadFile(filepath.Join(k.dir, "record.json"))
	if err != nil {
		return nil
	}
	var r keptRecord
	if json.Unmarshal(data, &r) != nil || !isSHA256(r.Digest) || !k.has(r.Digest.Encoded()) {
		return nil
	}
	return &file{digest: r.Digest, etag: r.ETag, path: filepath.Join(k.dir, r.Digest.Encoded())}
}

// pinned is the file of a checksum, nil if it isn't kept.
func (k *kept) pinned(d digest.Digest) (*file, error) {
	switch last := k.last(); {
	case !isSHA256(d):
		return nil, nil
	case k.has(pinnedName(d)):
		return &file{digest: d, path: filepath.Join(k.dir, pinnedName(d))}, nil
	case last != nil && last.digest == d:
		return last, k.pin(last)
	}
	return nil, nil
}

func pinnedName(d digest.Digest) string { return "pinned-" + d.Encoded() }

func isSHA256(d digest.Digest) bool { return d.Validate() == nil && d.Algorithm() == digest.SHA256 }

func (k *kept) has(name string) bool {
	_, err := os.Lstat(filepath.Join(k.dir, name))
	return err == nil
}

// link gives a file a name in the directory.
func (k *kept) link(f *file, name string) error {
	name = filepath.Join(k.dir, name)
	return errors.Join(removeIfThere(name), os.Link(f.path, name))
}

// pin keeps a file as that of its digest.
func (k *kept) pin(f *file) error { return k.link(f, pinnedName(f.digest)) }

// put keeps a file in place of the last one.
func (k *kept) put(f *file) error {
	before := k.last()
	if err := k.link(f, f.digest.Encoded()); err != nil {
		return err
	}
	data, err := json.Marshal(keptRecord{Digest: f.digest, ETag: f.etag})
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(k.dir, "record.json"), data, 0o600); err != nil {
		return err
	}
	if before != nil && before.digest != f.digest {
		return os.Remove(before.path)
	}
	return nil
}

func removeIfThere(name string) error {
	if err := os.Remove(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
