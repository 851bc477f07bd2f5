// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxWindow is the largest zstd window that is decoded: the format allows any
// size, and a stream of a few bytes could ask for all memory. It is what the
// zstd program decodes without being told more.
const maxWindow = 128 << 20

// Decompress tells by its first bytes how r is compressed and returns the
// plain stream and the compression's name: "gzip", "zstd", "bzip2", "xz", or
// "uncompressed" for anything else, be it empty. Streams of the same kind that
// follow each other are one; other data after the end is an error. A stream
// that ends early is [io.ErrUnexpectedEOF]. The plain stream has no size
// limit, which [Apply] has.
//
// Close frees what the decoder holds; it may be called at any time, but not
// while a Read runs, and does not close r. More of r may have been read than
// was needed.
func Decompress(r io.Reader) (io.ReadCloser, string, error) {
	br := bufio.NewReaderSize(r, 128<<10)
	magic, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", fmt.Errorf("read start of stream: %w", err)
	}
	name := compressionOf(magic)
	d := &decoder{name: name, r: br, close: func() {}}
	switch name {
	case "gzip":
		d.r, err = newGunzip(br)
	case "zstd":
		var z *zstd.Decoder
		z, err = zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow))
		if err == nil {
			d.r, d.close = z, z.Close
		}
	case "bzip2":
		d.r, err = bzip2.NewReader(br), nil
	case "xz":
		d.r, err = xz.NewReader(br)
	default:
		err = nil
	}
	if err != nil {
		return nil, name, d.fail(err)
	}
	return d, name, nil
}

// compressionOf names the compression that a stream begins with.
func compressionOf(magic []byte) string {
	has := func(s string) bool { return bytes.HasPrefix(magic, []byte(s)) }
	switch {
	case has("\x1f\x8b\x08"):
		return "gzip"
	case has("\x28\xb5\x2f\xfd"):
		return "zstd"
	case len(magic) >= 4 && magic[0]&0xf0 == 0x50 && has(string(magic[:1])+"\x2a\x4d\x18"):
		return "zstd" // a skippable frame (RFC 8878, 3.1.2) comes first
	case has("BZh"):
		return "bzip2"
	case has("\xfd7zXZ\x00"):
		return "xz"
	}
	return string(Uncompressed)
}

// decoder says in its errors which compression went wrong.
type decoder struct {
	name  string
	r     io.Reader
	close func()
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = d.fail(err)
	}
	return n, err
}

func (d *decoder) Close() error {
	d.close()
	return nil
}

func (d *decoder) fail(err error) error {
	if d.name == string(Uncompressed) {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("decompress %s: %w", d.name, err)
}
