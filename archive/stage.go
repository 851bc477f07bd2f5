// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
	"builder/layer"
	"builder/progress"
	"builder/store"
)

// Limits on what an archive may hold besides layers. A docker archive has
// three small files for each layer.
const (
	maxDocument  = image.MaxConfigSize
	maxDocuments = 64 << 20
	maxEntries   = 20_000
	maxLinks     = 10
	maxPadding   = 1 << 20
)

// staging holds what an archive has brought so far, none of it in the store
// yet: an archive may name its parts in any order, so that what a file is for
// is known only at the end.
type staging struct {
	store  *store.Store
	opts   LoadOptions
	report reporter

	entries int
	memory  int64
	docs    map[string][]byte         // small files by name
	links   map[string]string         // symbolic and hard links, cleaned targets
	blobs   map[digest.Digest]*staged // of an image layout, with their digest
	layers  map[string]*staged        // of docker's archives, by name
	skipped map[string]string         // why a file was not kept
	all     []*staged
}

// staged is a blob that may enter the store.
type staged struct {
	desc   ocispec.Descriptor
	w      *store.BlobWriter // nil: the store has it
	diffID digest.Digest     // of a layer, if it was computed on the way
}

func newStaging(s *store.Store, opts LoadOptions) *staging {
	return &staging{
		store: s, opts: opts, report: reporter{opts.Sink, opts.Vertex},
		docs: map[string][]byte{}, links: map[string]string{}, skipped: map[string]string{},
		blobs: map[digest.Digest]*staged{}, layers: map[string]*staged{},
	}
}

// close drops what was not committed.
func (g *staging) close() {
	for _, b := range g.all {
		if b.w != nil {
			b.w.Abort()
		}
	}
}

// readTar stages every file of a tar.
func (g *staging) readTar(ctx context.Context, r io.Reader) error {
	t := tar.NewReader(ctxReader{ctx, r})
	for {
		h, err := t.Next()
		if err == io.EOF {
			// What pads the end is read, too: who writes it into a pipe
			// would else be killed for it.
			_, err = io.CopyN(io.Discard, r, maxPadding)
			return readError(ctx, ignoreEOF(err))
		}
		if err != nil {
			return readError(ctx, err)
		}
		if g.entries++; g.entries > maxEntries {
			return fmt.Errorf("%w: more than %d entries: is it a root file system, to be imported?", ErrInvalid, maxEntries)
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeReg:
			err = g.file(ctx, name, h.Size, t)
		case tar.TypeSymlink:
			err = g.link(name, path.Join(path.Dir(name), h.Linkname))
		case tar.TypeLink:
			err = g.link(name, h.Linkname)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, readError(ctx, err))
		}
	}
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// readError says that an archive's end is missing, and leaves other errors.
func readError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it ends early: %w", ErrInvalid, err)
	case errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("%w: it is no tar, or a damaged one: %w", ErrInvalid, err)
	}
	return err
}

// cleanName is an entry's name without "./" and a leading slash. Nothing is
// ever made under such a name, yet one that leaves the archive is no accident.
func cleanName(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%w: entry %q has .. in its name", ErrInvalid, name)
		}
	}
	return path.Clean("/" + name)[1:], nil
}

func (g *staging) link(name, target string) error {
	target, err := cleanName(target)
	if err != nil {
		return err
	}
	if g.has(name) {
		return errTwice()
	}
	g.links[name] = target
	return nil
}

func errTwice() error { return fmt.Errorf("%w: it is there twice", ErrInvalid) }

func (g *staging) has(name string) bool {
	_, doc := g.docs[name]
	_, link := g.links[name]
	_, lay := g.layers[name]
	_, skip := g.skipped[name]
	return doc || link || lay || skip
}

// resolve follows links to the name of a file.
func (g *staging) resolve(name string) (string, error) {
	name, err := cleanName(name)
	if err != nil {
		return "", err
	}
	for range maxLinks {
		target, ok := g.links[name]
		if !ok {
			return name, nil
		}
		name = target
	}
	return "", fmt.Errorf("%w: %s: too many links", ErrInvalid, name)
}

// file stages one file.
func (g *staging) file(ctx context.Context, name string, size int64, r io.Reader) error {
	if d, ok := blobDigest(name); ok {
		return g.blob(ctx, d, size, r)
	}
	if g.has(name) {
		return errTwice()
	}
	br := bufio.NewReaderSize(r, 4096)
	start, err := br.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if isLayer(start) {
		b, err := g.layerFile(ctx, name, size, br)
		g.layers[name] = b
		return err
	}
	if size > maxDocument {
		g.skipped[name] = fmt.Sprintf("it has %d bytes and is no layer; documents may have %d", size, int64(maxDocument))
		return nil
	}
	if g.memory += size; g.memory > maxDocuments {
		return fmt.Errorf("%w: more than %d bytes besides layers: is it a root file system, to be imported?", ErrInvalid, int64(maxDocuments))
	}
	data, err := io.ReadAll(br)
	g.docs[name] = data
	return err
}

// blobDigest is the digest of which a file of an image layout must be.
func blobDigest(name string) (digest.Digest, bool) {
	hex, ok := strings.CutPrefix(name, blobsDir+"/sha256/")
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	return d, ok && d.Validate() == nil
}

// isLayer reports whether a file begins like a tar, plain or compressed. An
// empty tar is all zeros.
func isLayer(start []byte) bool {
	for _, magic := range []string{"\x1f\x8b\x08", "\x28\xb5\x2f\xfd", "BZh", "\xfd7zXZ\x00"} {
		if bytes.HasPrefix(start, []byte(magic)) {
			return true
		}
	}
	return len(start) == 512 && (string(start[257:262]) == "ustar" || len(bytes.Trim(start, "\x00")) == 0)
}

// newBlob begins a staged blob. What is written must be hashed on the way.
func (g *staging) newBlob() (*staged, error) {
	w, err := g.store.NewBlob()
	if err != nil {
		return nil, err
	}
	b := &staged{w: w}
	g.all = append(g.all, b)
	return b, nil
}

// blob stages a blob of an image layout. One that the store has, or that came
// before, is not read.
func (g *staging) blob(ctx context.Context, d digest.Digest, size int64, r io.Reader) error {
	if g.blobs[d] != nil {
		return nil
	}
	desc := ocispec.Descriptor{Digest: d, Size: size}
	if g.store.Has(desc) {
		g.blobs[d] = &staged{desc: desc}
		g.report.amount(d.Encoded(), "exists", size, size)
		return nil
	}
	b, err := g.newBlob()
	if err != nil {
		return err
	}
	got, n, err := g.copy(ctx, b, d.Encoded(), size, r)
	if err != nil {
		return err
	}
	if got != d || n != size {
		return fmt.Errorf("%w: its bytes have digest %s", ErrInvalid, got)
	}
	b.desc = desc
	g.blobs[d] = b
	return nil
}

func (g *staging) copy(ctx context.Context, b *staged, id string, size int64, r io.Reader) (digest.Digest, int64, error) {
	digester := digest.SHA256.Digester()
	n, err := io.Copy(io.MultiWriter(b.w.File(), digester.Hash()), g.report.reader(ctxReader{ctx, r}, id, size))
	g.report.amount(id, "loaded", n, n)
	return digester.Digest(), n, err
}

// layerFile stages a file of a docker archive that looks like a layer. What is
// compressed in a way that images know stays as it is, so that an image's
// layers are the same blobs however it came. Anything else is written anew.
func (g *staging) layerFile(ctx context.Context, name string, size int64, r io.Reader) (*staged, error) {
	b, err := g.newBlob()
	if err != nil {
		return nil, err
	}
	br := bufio.NewReaderSize(r, 4096)
	mediaType := ""
	switch start, _ := br.Peek(4); {
	case bytes.HasPrefix(start, []byte("\x1f\x8b")):
		mediaType = ocispec.MediaTypeImageLayerGzip
	case bytes.HasPrefix(start, []byte("\x28\xb5\x2f\xfd")):
		mediaType = ocispec.MediaTypeImageLayerZstd
	}
	if mediaType != "" {
		d, n, err := g.copy(ctx, b, name, size, br)
		b.desc = ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: n}
		return b, err
	}
	plain, _, err := layer.Decompress(g.report.reader(ctxReader{ctx, br}, name, size))
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	l, err := layer.Compress(ctx, b.w.File(), plain, g.opts.Layer)
	b.desc, b.diffID = l.Blob, l.DiffID
	g.report.amount(name, "loaded", size, size)
	return b, err
}

// document stages a document made here, or returns it staged already.
func (g *staging) document(mediaType string, data []byte) (*staged, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if b := g.blobs[desc.Digest]; b != nil {
		return b, nil
	}
	b := &staged{desc: desc}
	if !g.store.Has(desc) {
		var err error
		if b, err = g.newBlob(); err != nil {
			return nil, err
		}
		b.desc = desc
		if _, err := b.w.File().Write(data); err != nil {
			return nil, fmt.Errorf("write blob: %w", err)
		}
	}
	g.blobs[desc.Digest] = b
	return b, nil
}

// find returns the staged or stored blob of a descriptor.
func (g *staging) find(desc ocispec.Descriptor) (*staged, error) {
	b := g.blobs[desc.Digest]
	if b == nil && g.store.Has(desc) {
		b = &staged{desc: desc}
		g.blobs[desc.Digest] = b
	}
	if b == nil {
		return nil, fmt.Errorf("%w: blob %s is missing", errMissing, desc.Digest)
	}
	if b.desc.Size != desc.Size {
		return nil, fmt.Errorf("%w: blob %s has %d bytes, and what names it says %d", ErrInvalid, desc.Digest, b.desc.Size, desc.Size)
	}
	return b, nil
}

// errMissing is an [ErrInvalid] that may be overlooked in an index.
var errMissing = fmt.Errorf("%w: incomplete", ErrInvalid)

// open reads a staged or stored blob.
func (g *staging) open(b *staged) (io.ReadCloser, error) {
	if b.w == nil {
		return g.store.OpenBlob(b.desc)
	}
	return io.NopCloser(io.NewSectionReader(b.w.File(), 0, b.desc.Size)), nil
}

func (g *staging) read(desc ocispec.Descriptor, limit int64) ([]byte, error) {
	b, err := g.find(desc)
	if err != nil {
		return nil, err
	}
	if desc.Size > limit {
		return nil, fmt.Errorf("%w: document %s has %d bytes, at most %d are allowed", ErrInvalid, desc.Digest, desc.Size, limit)
	}
	r, err := g.open(b)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// reporter sends amounts to a sink, which may be nil.
type reporter struct {
	sink   progress.Sink
	vertex string
}

func (r reporter) amount(id, action string, n, total int64) {
	if r.sink == nil {
		return
	}
	if digest.SHA256.Validate(id) == nil { // of a blob; a file's name stays whole
		id = id[:12]
	}
	r.sink.Event(progress.Event{Vertex: r.vertex, Time: time.Now(), Status: &progress.Status{
		ID: id, Action: action, Current: n, Total: total, Bytes: true, Done: n == total && action != "loading",
	}})
}

func (r reporter) reader(in io.Reader, id string, total int64) io.Reader {
	if r.sink == nil {
		return in
	}
	return &reportReader{in: in, report: func(n int64) { r.amount(id, "loading", n, total) }}
}

// reportReader reports how much was read, every 4 MiB.
type reportReader struct {
	in          io.Reader
	report      func(int64)
	n, reported int64
}

func (r *reportReader) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	if r.n += int64(n); r.n-r.reported >= 4<<20 {
		r.reported = r.n
		r.report(r.n)
	}
	return n, err
}
