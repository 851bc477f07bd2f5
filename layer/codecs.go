// SPDX-License-Identifier: Apache-2.0

//go:build !front

package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ReadsAll says whether this program can read all compressions that there are.
const ReadsAll = true

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

// maxWindow is the largest zstd window that is decoded: the format allows any
// size, and a stream of a few bytes could ask for all memory. It is what the
// zstd program decodes without being told more.
const maxWindow = 128 << 20

// openOther decompresses what isn't gzip.
func openOther(name string, br *bufio.Reader) (r io.Reader, done func(), err error) {
	done = func() {}
	switch name {
	case "zstd":
		var z *zstd.Decoder
		z, err = zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow))
		if err == nil {
			r, done = z, z.Close
		}
	case "bzip2":
		r = bzip2.NewReader(br)
	case "xz":
		r, err = xz.NewReader(br)
	}
	return r, done, err
}
