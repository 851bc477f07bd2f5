// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"fmt"
	"io"
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
