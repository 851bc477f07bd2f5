// SPDX-License-Identifier: Apache-2.0

//go:build !front

package layer

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"strconv"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// writeEStargz is writeLayer for eStargz: the plain tar of source goes through
// the library that knows the format, on one core.
func writeEStargz(ctx context.Context, w io.Writer, opts Options, source func(context.Context, *sink) (int, error)) (Layer, error) {
	pr, pw := io.Pipe()
	digester := sha256.New()
	blob := &counter{w: io.MultiWriter(w, digester)}
	level := flateLevel(opts.Level)
	c := &estargzCompressor{GzipCompressor: estargz.NewGzipCompressorWithLevel(level), level: level}
	out := estargz.NewWriterWithCompressor(blob, c)
	var toc digest.Digest
	done := make(chan error, 1)
	go func() {
		err := out.AppendTarLossLess(pr)
		if err == nil {
			toc, err = out.Close()
		}
		pr.CloseWithError(err)
		done <- err
	}()
	plain, err := writeLayer(ctx, pw, Options{Compression: Uncompressed, Epoch: opts.Epoch, Time: opts.Time}, source)
	pw.CloseWithError(err) // nil is the end of the tar
	if outErr := <-done; err == nil {
		err = outErr
	}
	if err != nil {
		return Layer{}, err
	}
	return Layer{
		DiffID: digest.Digest(out.DiffID()),
		Blob: ocispec.Descriptor{
			MediaType: EStargz.mediaType(), Digest: digest.NewDigest(digest.SHA256, digester), Size: blob.n,
			Annotations: map[string]string{
				estargz.TOCJSONDigestAnnotation:         toc.String(),
				estargz.StoreUncompressedSizeAnnotation: strconv.FormatInt(c.size, 10),
			},
		},
		Size:    c.size,
		Entries: plain.Entries,
	}, nil
}

// EStargzSize tells where the table of contents of an eStargz blob begins: what
// is before it is the layer's tar as a gzip stream. It is 0 of other blobs.
func EStargzSize(blob io.ReaderAt, size int64) int64 {
	toc, _, err := estargz.OpenFooter(io.NewSectionReader(blob, 0, size))
	if err != nil || toc <= 0 || toc >= size {
		return 0
	}
	return toc
}

// EStargzAnnotations are those of an eStargz blob's annotations that whoever
// fetches files of it needs; nil if it has none.
func EStargzAnnotations(all map[string]string) map[string]string {
	var out map[string]string
	for _, key := range []string{estargz.TOCJSONDigestAnnotation, estargz.StoreUncompressedSizeAnnotation} {
		if v, ok := all[key]; ok {
			if out == nil {
				out = map[string]string{}
			}
			out[key] = v
		}
	}
	return out
}

// estargzCompressor compresses the members with a faster gzip than the
// library's own, and counts the plain bytes.
type estargzCompressor struct {
	*estargz.GzipCompressor
	level int
	size  int64
}

func (c *estargzCompressor) Writer(w io.Writer) (estargz.WriteFlushCloser, error) {
	zw, err := gzip.NewWriterLevel(w, c.level)
	if err != nil {
		return nil, err
	}
	return &countedGzip{Writer: zw, n: &c.size}, nil
}

func (c *estargzCompressor) WriteTOCAndFooter(w io.Writer, off int64, toc *estargz.JTOC, diffHash hash.Hash) (digest.Digest, error) {
	return c.GzipCompressor.WriteTOCAndFooter(w, off, toc, &countedHash{Hash: diffHash, n: &c.size})
}

type countedGzip struct {
	*gzip.Writer
	n *int64
}

func (z *countedGzip) Write(p []byte) (int, error) {
	n, err := z.Writer.Write(p)
	*z.n += int64(n)
	return n, err
}

type countedHash struct {
	hash.Hash
	n *int64
}

func (h *countedHash) Write(p []byte) (int, error) {
	*h.n += int64(len(p))
	return h.Hash.Write(p)
}

// counter counts what is written through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
