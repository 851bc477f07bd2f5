// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
)

// Chunks of a tar stream that is unpacked: large enough that handing them over
// costs nothing, few enough to stay in the processor's cache.
const (
	chunkSize = 256 << 10
	chunks    = 8
)

// chunk is a piece of the stream. It goes to the parser and to the hasher, and
// is read into again when both are done with it.
type chunk struct {
	buf  []byte
	uses atomic.Int32
}

// stream reads a tar ahead of its parser and hashes all of it. The reader it
// reads from, which as a rule decompresses, works beside the parser that way.
type stream struct {
	ctx    context.Context //nolint:containedctx // lives as long as one call
	src    io.Reader
	limit  int64 // most bytes, or 0
	free   chan *chunk
	toRead chan *chunk
	toHash chan *chunk
	err    error // why the stream ended, io.EOF as a rule; valid once toRead is closed
	digest hash.Hash
	size   int64

	cur  *chunk // the parser's
	rest []byte // of cur
}

func newStream(ctx context.Context, src io.Reader, limit int64) *stream {
	s := &stream{
		ctx: ctx, src: src, limit: limit, digest: sha256.New(),
		free: make(chan *chunk, chunks), toRead: make(chan *chunk, chunks), toHash: make(chan *chunk, chunks),
	}
	for range chunks {
		s.free <- &chunk{buf: make([]byte, chunkSize)}
	}
	return s
}

// pump reads src to its end. What is wrong with src the parser gets to know
// when it comes there.
func (s *stream) pump() error {
	defer close(s.toHash)
	defer close(s.toRead)
	for s.err == nil {
		select {
		case c := <-s.free:
			s.fill(c)
		case <-s.ctx.Done():
			s.err = context.Cause(s.ctx)
		}
	}
	return nil
}

// fill reads a chunk and hands it on.
func (s *stream) fill(c *chunk) {
	c.buf = c.buf[:cap(c.buf)]
	n, idle := 0, 0
	for n < len(c.buf) && s.err == nil {
		var m int
		m, s.err = s.src.Read(c.buf[n:])
		n += m
		if idle++; m > 0 {
			idle = 0
		} else if idle == 100 && s.err == nil {
			s.err = io.ErrNoProgress
		}
	}
	c.buf = c.buf[:n]
	s.size += int64(n)
	if s.limit > 0 && s.size > s.limit {
		s.err = fmt.Errorf("%w: more than %d bytes of tar", ErrTooLarge, s.limit)
		return
	}
	c.uses.Store(2)
	s.toRead <- c
	s.toHash <- c
}

// release gives back a chunk. Both queues have room for all of them.
func (s *stream) release(c *chunk) {
	if c.uses.Add(-1) == 0 {
		s.free <- c
	}
}

// hash computes the digest of the stream.
func (s *stream) hash() error {
	for c := range s.toHash {
		s.digest.Write(c.buf)
		s.release(c)
	}
	return nil
}

// next makes rest the next bytes to be parsed, at least one unless it fails.
func (s *stream) next() error {
	for len(s.rest) == 0 {
		if s.cur != nil {
			s.release(s.cur)
			s.cur = nil
		}
		c, ok := <-s.toRead
		if !ok {
			return s.err
		}
		s.cur, s.rest = c, c.buf
	}
	return nil
}

// Read is for the parser.
func (s *stream) Read(p []byte) (int, error) {
	if err := s.next(); err != nil {
		return 0, err
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// drain reads what is left after the archive's end, for the digest.
func (s *stream) drain() error {
	for {
		s.rest = nil
		if err := s.next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
