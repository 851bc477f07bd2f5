// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"io"
	"runtime"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// The tar is cut into units of a fixed size, whatever its entries are, and each
// unit is compressed on its own. That makes the blob a function of the tar and
// the options alone: not of the number of workers, nor of whether the tar was
// made here or read. A smaller unit compresses worse (gzip by 0.3 % at 1 MiB),
// a larger one costs memory.
const (
	unitSize     = 1 << 20
	zstdUnitSize = 4 << 20 // zstd's window is larger, and so is its loss
	// Bounds on memory on large machines: 30 MB for gzip, 70 MB for zstd.
	// SHA-256, one chain over the whole tar, is the limit for the fast
	// levels by then.
	maxWorkers     = 8
	maxZstdWorkers = 4
)

// unit is one piece of the tar on its way to the blob:
//
//	source (in order) → worker: fills, compresses → hasher and writer (in order)
type unit struct {
	buf   []byte // the tar bytes
	fills []fill // what the worker has to read into buf
	out   []byte // the blob bytes; buf itself when nothing is compressed

	filled     chan struct{} // one token when buf is whole, for the hasher
	compressed chan struct{} // one token when out is ready, for the writer
	done       chan struct{} // one token when the hasher is through
}

// fill is a part of a unit that its worker reads.
type fill struct {
	start, end int // its place in the unit
	from       source
	offset     int64 // of the part in its source
}

// source is a file's data.
type source interface {
	// readAt reads exactly len(dst) bytes at offset.
	readAt(dst []byte, offset int64) error
}

// sink takes the tar in order, and what it doesn't have yet as fills.
type sink struct {
	ctx  context.Context //nolint:containedctx // lives as long as one call
	free chan *unit
	work chan *unit
	hash chan *unit
	out  chan *unit
	cur  *unit
	size int64 // bytes of tar so far
}

// unit returns the unit that is being filled, with room for at least a byte.
func (s *sink) unit() (*unit, error) {
	if s.cur != nil && len(s.cur.buf) < cap(s.cur.buf) {
		return s.cur, nil
	}
	if err := s.flush(); err != nil {
		return nil, err
	}
	select {
	case s.cur = <-s.free:
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
	s.cur.buf = s.cur.buf[:0]
	clear(s.cur.fills)
	s.cur.fills = s.cur.fills[:0]
	return s.cur, nil
}

// flush hands the current unit on.
func (s *sink) flush() error {
	if s.cur == nil {
		return nil
	}
	u := s.cur
	s.cur = nil
	s.size += int64(len(u.buf))
	// Each queue has room for all units, so none of these waits.
	s.hash <- u
	s.out <- u
	s.work <- u
	return s.ctx.Err()
}

// Write adds p to the tar.
func (s *sink) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		u, err := s.unit()
		if err != nil {
			return 0, err
		}
		room := min(len(p), cap(u.buf)-len(u.buf))
		u.buf = append(u.buf, p[:room]...)
		p = p[room:]
	}
	return n, nil
}

// file adds size bytes to the tar that the workers read from src.
func (s *sink) file(src source, size int64) error {
	for offset := int64(0); offset < size; {
		u, err := s.unit()
		if err != nil {
			return err
		}
		start := len(u.buf)
		n := min(size-offset, int64(cap(u.buf)-start))
		u.buf = u.buf[:start+int(n)]
		u.fills = append(u.fills, fill{start: start, end: len(u.buf), from: src, offset: offset})
		offset += n
	}
	return nil
}

// readFrom adds all of r to the tar.
func (s *sink) readFrom(r io.Reader) error {
	for {
		u, err := s.unit()
		if err != nil {
			return err
		}
		n, err := r.Read(u.buf[len(u.buf):cap(u.buf)])
		u.buf = u.buf[:len(u.buf)+n]
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// pipeline runs one layer's way from tar to blob.
type pipeline struct {
	opts   Options
	w      io.Writer
	sink   *sink
	diffID hash.Hash // written by the hasher
	crc    uint32    // of the tar, for gzip; by the hasher
	blob   hash.Hash // written by the writer
	size   int64     // of the blob
}

// writeLayer runs source, which puts the tar into the sink and returns the
// number of its entries, and writes the blob to w meanwhile.
func writeLayer(ctx context.Context, w io.Writer, opts Options, source func(context.Context, *sink) (int, error)) (Layer, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return Layer{}, err
	}
	if opts.Compression == EStargz {
		return writeEStargz(ctx, w, opts, source)
	}
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	units, size := 2*workers+2, unitSize
	if opts.Compression == Zstd {
		workers = min(workers, maxZstdWorkers)
		units, size = workers+2, zstdUnitSize
	}
	g, ctx := errgroup.WithContext(ctx)
	p := &pipeline{opts: opts, w: w, diffID: sha256.New(), blob: sha256.New()}
	p.sink = &sink{
		ctx:  ctx,
		free: make(chan *unit, units), work: make(chan *unit, units),
		hash: make(chan *unit, units), out: make(chan *unit, units),
	}
	for range units {
		p.sink.free <- &unit{
			buf:    make([]byte, 0, size),
			filled: make(chan struct{}, 1), compressed: make(chan struct{}, 1), done: make(chan struct{}, 1),
		}
	}
	var entries int
	g.Go(func() (err error) {
		defer close(p.sink.out)
		defer close(p.sink.hash)
		defer close(p.sink.work)
		if entries, err = source(ctx, p.sink); err != nil {
			return err
		}
		return p.sink.flush()
	})
	for range workers {
		g.Go(func() error { return p.worker(ctx) })
	}
	g.Go(func() error { return p.hasher(ctx) })
	g.Go(func() error { return p.writer(ctx) })
	if err := g.Wait(); err != nil {
		return Layer{}, err
	}
	return p.layer(entries), nil
}

// layer describes what was written.
func (p *pipeline) layer(entries int) Layer {
	diffID := digest.NewDigest(digest.SHA256, p.diffID)
	blob := digest.NewDigest(digest.SHA256, p.blob)
	if p.opts.Compression == Uncompressed {
		blob = diffID
	}
	return Layer{
		DiffID:  diffID,
		Blob:    ocispec.Descriptor{MediaType: p.opts.Compression.mediaType(), Digest: blob, Size: p.size},
		Size:    p.sink.size,
		Entries: entries,
	}
}

// worker fills and compresses units, any of them in any order.
func (p *pipeline) worker(ctx context.Context) error {
	c, err := newCompressor(p.opts)
	if err != nil {
		return err
	}
	defer c.close()
	for {
		var u *unit
		select {
		case u = <-p.sink.work:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if u == nil {
			return nil
		}
		for _, f := range u.fills {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := f.from.readAt(u.buf[f.start:f.end], f.offset); err != nil {
				return err
			}
		}
		u.filled <- struct{}{}
		if cap(u.out) == 0 && p.opts.Compression != Uncompressed {
			u.out = make([]byte, 0, cap(u.buf)*5/8)
		}
		if u.out, err = c.compress(u.out[:0], u.buf); err != nil {
			return err
		}
		u.compressed <- struct{}{}
	}
}

// hasher computes the diffID, and gzip's checksum of the plain data.
func (p *pipeline) hasher(ctx context.Context) error {
	for u := range p.sink.hash {
		if err := wait(ctx, u.filled); err != nil {
			return err
		}
		p.diffID.Write(u.buf)
		if p.opts.Compression == Gzip {
			p.crc = crc32.Update(p.crc, crc32.IEEETable, u.buf)
		}
		u.done <- struct{}{}
	}
	return ctx.Err()
}

// writer writes the blob and recycles units.
func (p *pipeline) writer(ctx context.Context) error {
	if err := p.write(p.head()); err != nil {
		return err
	}
	for u := range p.sink.out {
		if err := wait(ctx, u.compressed); err != nil {
			return err
		}
		if err := p.write(u.out); err != nil {
			return err
		}
		if err := wait(ctx, u.done); err != nil {
			return err
		}
		p.sink.free <- u
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return p.write(p.tail())
}

func (p *pipeline) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if p.opts.Compression != Uncompressed {
		p.blob.Write(b) // else it is the diffID
	}
	p.size += int64(len(b))
	_, err := p.w.Write(b)
	return err
}

// head is what a blob begins with before its first unit: for gzip the member
// header (RFC 1952) without time and name and of no known system.
func (p *pipeline) head() []byte {
	if p.opts.Compression != Gzip {
		return nil
	}
	hint := byte(0)
	switch p.opts.Level {
	case 1:
		hint = 4
	case 9:
		hint = 2
	}
	return []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, hint, 255}
}

// tail is what a blob ends with. It runs after the hasher has seen every unit.
func (p *pipeline) tail() []byte {
	switch p.opts.Compression {
	case Gzip:
		b := []byte{3, 0} // the last deflate block, which is empty
		b = binary.LittleEndian.AppendUint32(b, p.crc)
		return binary.LittleEndian.AppendUint32(b, uint32(p.sink.size)) // modulo 2^32, as RFC 1952 says
	case Zstd:
		if p.sink.size == 0 {
			// One frame of no content: an empty file is no zstd stream.
			return []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0}
		}
	}
	return nil
}

// wait takes a token, or gives up when ctx ends.
func wait(ctx context.Context, token <-chan struct{}) error {
	select {
	case <-token:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
