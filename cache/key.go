// SPDX-License-Identifier: Apache-2.0

// Package cache maps what a build step is to what it made.
//
// A step's [Key] is a hash of everything that its result depends on, written
// field by field into a [Hash]. The fields are kept with the [Record], so that
// a miss can be explained by comparing them with an earlier record's. A record
// that is damaged, or whose snapshot is gone, is a miss and never a failure.
package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
)

// keyVersion is part of every key: a change of what a key means, or of what a
// step does, gets a new one, and older records are not found any more.
const keyVersion = "builder step 1"

// Key is the identity of a step: the hex form of a SHA-256.
type Key string

// Field is one labelled input of a key.
type Field struct {
	Label string `json:"l"`
	Value string `json:"v"`
}

// Hash gathers the fields of a key. The zero value is not usable; see [NewHash].
type Hash struct {
	h      hash.Hash
	fields []Field
	buf    []byte
}

// NewHash begins a key of the given kind ("run", "copy").
func NewHash(kind string) *Hash {
	h := &Hash{h: sha256.New()}
	h.write(keyVersion)
	h.Add("kind", kind)
	return h
}

// Add puts a field into the key. Label and value are written with their
// lengths, so no two lists of fields hash the same bytes.
func (h *Hash) Add(label, value string) {
	h.write(label)
	h.write(value)
	h.fields = append(h.fields, Field{label, value})
}

// AddList is Add for each value under one label, with their number.
func (h *Hash) AddList(label string, values []string) {
	h.buf = binary.AppendUvarint(h.buf[:0], uint64(len(values)))
	h.h.Write(h.buf)
	for _, v := range values {
		h.Add(label, v)
	}
}

func (h *Hash) write(s string) {
	h.buf = binary.AppendUvarint(h.buf[:0], uint64(len(s)))
	h.buf = append(h.buf, s...)
	h.h.Write(h.buf)
}

// Sum returns the key of the fields added so far.
func (h *Hash) Sum() Key { return Key(hex.EncodeToString(h.h.Sum(nil))) }

// Fields returns the fields added so far, in order.
func (h *Hash) Fields() []Field { return h.fields }
