// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"builder/internal/atomicfile"
	"builder/internal/filelock"
	"builder/internal/sys"
	"builder/store"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrMiss says that a key has no usable record.
var ErrMiss = errors.New("no cached result")

// Record is what is known of a step that ran.
type Record struct {
	Key         Key       `json:"key"`
	Snapshot    string    `json:"snapshot"`    // the committed result; "" if only Layers are known
	Instruction string    `json:"instruction"` // as shown to people
	Created     time.Time `json:"created"`
	Fields      []Field   `json:"fields"` // the key's preimage
	// Layers are the result as layers, from the bottom, if it was not made
	// here. They count as long as all their blobs are in the store.
	Layers []Layer `json:"layers,omitempty"`
}

// Layer is a layer of a result.
type Layer struct {
	Blob   ocispec.Descriptor `json:"blob"`
	DiffID digest.Digest      `json:"diffID"`
}

// Cache is the cache/ part of a state directory.
//
//	steps/K2/KEY.json   records; K2 is the key's first two digits
//	memo/K2/KEY         small values that are functions of their key
//	mounts/ID           cache mounts
//	contexts/ID         content digests of build contexts
type Cache struct {
	s *store.Store
}

// Open returns the cache in a state directory.
func Open(s *store.Store) (*Cache, error) { return &Cache{s}, nil }

func (c *Cache) file(kind, key, ext string) string {
	return c.s.Path("cache", kind, key[:2], key+ext)
}

// Get returns the record of a key; the error wraps [ErrMiss] if there is none
// that can be read. Whether its snapshot is still there is for the caller to
// find out.
func (c *Cache) Get(key Key) (*Record, error) {
	data, err := os.ReadFile(c.file("steps", string(key), ".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrMiss
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMiss, err)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%w: damaged record: %w", ErrMiss, err)
	}
	if r.Key != key || r.Snapshot == "" && len(r.Layers) == 0 {
		return nil, fmt.Errorf("%w: damaged record", ErrMiss)
	}
	return &r, nil
}

// Used notes that the result of a key is being used. The time, to the hour, is
// the modification time of the record's file; see [Cache.File].
func (c *Cache) Used(key Key) { sys.Touch(c.File(key)) }

// File is where the record of a key is.
func (c *Cache) File(key Key) string { return c.file("steps", string(key), ".json") }

// Put keeps a record, in place of an earlier one of the same key.
func (c *Cache) Put(r *Record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteMkdir(c.file("steps", string(r.Key), ".json"), data, 0o600); err != nil {
		return fmt.Errorf("keep step record: %w", err)
	}
	return nil
}

// Walk calls f for every readable record.
func (c *Cache) Walk(f func(*Record) error) error {
	names, err := filepath.Glob(c.s.Path("cache", "steps", "*", "*.json"))
	if err != nil {
		return err
	}
	for _, name := range names {
		base := filepath.Base(name)
		r, err := c.Get(Key(base[:len(base)-len(".json")]))
		if err != nil {
			continue
		}
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

// Lock waits until no other build, in this process or another, works on the
// step, and keeps others waiting until it is released. wait, if not nil, is
// called once if there is somebody to wait for.
func (c *Cache) Lock(ctx context.Context, key Key, wait func()) (*filelock.Lock, error) {
	return c.s.Lock(ctx, "step-"+string(key[:32]), filelock.Exclusive, wait)
}

// Memo returns the value that was remembered under a key, "" if none was. A
// memo saves work whose result is a function of its key; losing it costs time.
func (c *Cache) Memo(key Key) string {
	data, err := os.ReadFile(c.file("memo", string(key), ""))
	if err != nil || len(data) <= sha256.Size {
		return ""
	}
	// The value carries its own checksum: a file torn by a power cut is none.
	sum := sha256.Sum256(data[sha256.Size:])
	if string(data[:sha256.Size]) != string(sum[:]) {
		return ""
	}
	return string(data[sha256.Size:])
}

// SetMemo remembers a value under a key.
func (c *Cache) SetMemo(key Key, value string) error {
	sum := sha256.Sum256([]byte(value))
	return atomicfile.WriteMkdir(c.file("memo", string(key), ""), append(sum[:], value...), 0o600)
}

// Salt returns random bytes that belong to the state directory.
func (c *Cache) Salt() ([]byte, error) {
	const size = 32
	name := c.s.Path("cache", "salt")
	salt, err := os.ReadFile(name)
	if err == nil && len(salt) == size {
		return salt, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	salt = make([]byte, size)
	rand.Read(salt)
	return salt, atomicfile.WriteMkdir(name, salt, 0o600)
}

// ContextIndex is the file that remembers the content digests of the build
// context in directory dir.
func (c *Cache) ContextIndex(dir string) (string, error) {
	if err := os.MkdirAll(c.s.Path("cache", "contexts"), 0o700); err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(dir))
	name := c.s.Path("cache", "contexts", hex.EncodeToString(sum[:16]))
	sys.Touch(name)
	return name, nil
}
