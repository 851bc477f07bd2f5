// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Compress writes to w the layer blob of an existing tar stream, which it reads
// to its end and does not look into. The bytes are those that [Diff] writes for
// the same tar and options, whatever pieces the stream comes in. When ctx ends,
// Compress returns as soon as the reader and the writer do.
func Compress(ctx context.Context, w io.Writer, tar io.Reader, opts Options) (Layer, error) {
	return writeLayer(ctx, w, opts, func(_ context.Context, s *sink) (int, error) {
		if err := s.readFrom(tar); err != nil {
			return 0, fmt.Errorf("read tar: %w", err)
		}
		return 0, nil
	})
}

// compressor compresses units, each on its own. It is used by one goroutine.
type compressor struct {
	compress func(dst, src []byte) ([]byte, error) // appends to dst
	close    func()
}

func newCompressor(opts Options) (compressor, error) {
	switch opts.Compression {
	case Gzip:
		return newDeflater(opts.Level)
	case Zstd:
		return newZstd(opts.Level)
	default:
		return compressor{
			compress: func(_, src []byte) ([]byte, error) { return src, nil },
			close:    func() {},
		}, nil
	}
}

// newDeflater makes deflate blocks that end at a byte's end (a sync flush, RFC
// 1951), so that they can be put one after the other into one gzip member.
func newDeflater(level int) (compressor, error) {
	fw, err := flate.NewWriter(nil, flateLevel(level))
	if err != nil {
		return compressor{}, err
	}
	var out bytes.Buffer
	return compressor{
		compress: func(dst, src []byte) ([]byte, error) {
			out = *bytes.NewBuffer(dst)
			fw.Reset(&out)
			if _, err := fw.Write(src); err != nil {
				return nil, err
			}
			if err := fw.Flush(); err != nil {
				return nil, err
			}
			return out.Bytes(), nil
		},
		close: func() {},
	}, nil
}

// flateLevel is the level as deflate's implementations count.
func flateLevel(level int) int {
	if level == StoreOnly {
		return flate.NoCompression
	}
	return level
}

// newZstd makes zstd frames, which may follow each other in one stream.
func newZstd(level int) (compressor, error) {
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(zstdUnitSize),
	)
	if err != nil {
		return compressor{}, err
	}
	return compressor{
		compress: func(dst, src []byte) ([]byte, error) { return enc.EncodeAll(src, dst), nil },
		close:    func() { _ = enc.Close() },
	}, nil
}
