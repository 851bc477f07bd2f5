// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"errors"
	"hash/crc32"
	"io"
)

// Errors of gzip streams.
var (
	errGzipHeader   = errors.New("invalid gzip header")
	errGzipChecksum = errors.New("wrong gzip checksum")
)

// Flags of a gzip header (RFC 1952, 2.3.1).
const (
	gzipHeaderCRC = 1 << 1
	gzipExtra     = 1 << 2
	gzipName      = 1 << 3
	gzipComment   = 1 << 4
)

// gunzip decodes gzip members that follow each other.
type gunzip struct {
	f    *inflater
	crc  uint32 // of the member so far
	size uint32 // of the member so far, modulo 2^32
	rest []byte // decoded and not read yet
	err  error
}

func newGunzip(src io.Reader) (*gunzip, error) {
	g := &gunzip{f: newInflater(src)}
	if err := g.header(); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *gunzip) Read(p []byte) (int, error) {
	for len(g.rest) == 0 && g.err == nil {
		g.rest, g.err = g.f.next()
		g.crc = crc32.Update(g.crc, crc32.IEEETable, g.rest)
		g.size += uint32(len(g.rest))
		if g.err == io.EOF {
			g.err = g.member()
		}
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, g.err
}

// member ends a member and begins the next; io.EOF if there is none.
func (g *gunzip) member() error {
	crc, err := g.uint32()
	if err != nil {
		return err
	}
	size, err := g.uint32()
	if err != nil {
		return err
	}
	if crc != g.crc || size != g.size {
		return errGzipChecksum
	}
	return g.header()
}

func (g *gunzip) uint32() (uint32, error) {
	v, err := g.f.take(32)
	return uint32(v), err
}

// header reads the header of a member; io.EOF if there is nothing at all.
func (g *gunzip) header() error {
	var b [10]byte
	for i := range b {
		v, err := g.f.byte()
		if err == io.EOF && i > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		b[i] = v
	}
	if b[0] != 0x1f || b[1] != 0x8b || b[2] != 8 {
		return errGzipHeader
	}
	h := headerReader{f: g.f, crc: crc32.ChecksumIEEE(b[:])}
	if b[3]&gzipExtra != 0 {
		h.skip(int(h.byte()) | int(h.byte())<<8)
	}
	if b[3]&gzipName != 0 {
		h.skipString()
	}
	if b[3]&gzipComment != 0 {
		h.skipString()
	}
	if b[3]&gzipHeaderCRC != 0 {
		want := h.crc & 0xffff
		if got := uint32(h.byte()) | uint32(h.byte())<<8; h.err == nil && got != want {
			return errGzipHeader
		}
	}
	g.crc, g.size = 0, 0
	g.f.restart()
	return h.err
}

// headerReader reads the optional parts of a header.
type headerReader struct {
	f   *inflater
	crc uint32
	err error
}

func (h *headerReader) byte() byte {
	if h.err != nil {
		return 0
	}
	var b byte
	if b, h.err = h.f.byte(); h.err == io.EOF {
		h.err = io.ErrUnexpectedEOF
	}
	h.crc = crc32.Update(h.crc, crc32.IEEETable, []byte{b})
	return b
}

func (h *headerReader) skip(n int) {
	for ; n > 0 && h.err == nil; n-- {
		h.byte()
	}
}

func (h *headerReader) skipString() {
	for h.byte() != 0 && h.err == nil {
	}
}
