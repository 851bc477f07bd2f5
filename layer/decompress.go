// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

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
	case string(Uncompressed):
		err = nil
	default:
		d.r, d.close, err = openOther(name, br)
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
