// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// inflateAll decodes one stream.
func inflateAll(r io.Reader) ([]byte, error) {
	f := newInflater(r)
	var out []byte
	for {
		b, err := f.next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, b...)
	}
}

// inputs are data that lead a compressor to every kind of block and match.
func inputs() map[string][]byte {
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{3}).Read(random)
	skewed := make([]byte, 1<<20) // codes of every length
	for i := range skewed {
		skewed[i] = byte(min(255, rand.New(rand.NewPCG(1, uint64(i))).ExpFloat64()*9))
	}
	var far bytes.Buffer // matches at every distance up to the largest
	for i := 0; i < 40000; i += 97 {
		far.Write(random[:40000][i%30000 : i%30000+200])
		far.Write(random[i : i+i%300])
	}
	return map[string][]byte{
		"empty":   nil,
		"byte":    {'x'},
		"zeros":   make([]byte, 3<<20),
		"twos":    bytes.Repeat([]byte("ab"), 300000),
		"sevens":  bytes.Repeat([]byte("abcdefg"), 100000),
		"nines":   bytes.Repeat([]byte("abcdefghi"), 100000),
		"random":  random,
		"skewed":  skewed,
		"far":     far.Bytes(),
		"sample":  sample(2 << 20),
		"text":    []byte(strings.Repeat("the quick brown fox jumps over the lazy dog. ", 30000)),
		"history": append(append(bytes.Clone(random[:32768]), random[:32768]...), random[1:32769]...),
	}
}

func TestInflate(t *testing.T) {
	for name, data := range inputs() {
		for _, level := range []int{flate.NoCompression, 1, 6, 9, flate.HuffmanOnly} {
			var buf bytes.Buffer
			w, err := flate.NewWriter(&buf, level)
			if err != nil {
				t.Fatal(err)
			}
			// Pieces make blocks of their own, stored and empty ones too.
			for rest := data; len(rest) > 0; {
				n := min(len(rest), 1+len(rest)*2/3)
				w.Write(rest[:n])
				w.Flush()
				rest = rest[n:]
			}
			w.Close()
			for _, r := range []io.Reader{bytes.NewReader(buf.Bytes()), iotest.HalfReader(bytes.NewReader(buf.Bytes())), iotest.DataErrReader(bytes.NewReader(buf.Bytes()))} {
				got, err := inflateAll(r)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s at %d: %d bytes of %d, %v", name, level, len(got), len(data), err)
				}
			}
		}
	}
}

// TestInflateCut: a stream that is cut anywhere is never taken for a whole one.
func TestInflateCut(t *testing.T) {
	for _, level := range []int{flate.NoCompression, 1, 9, flate.HuffmanOnly} {
		var buf bytes.Buffer
		w, _ := flate.NewWriter(&buf, level)
		w.Write(sample(3000))
		w.Close()
		for n := range buf.Len() {
			if got, err := inflateAll(bytes.NewReader(buf.Bytes()[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("level %d cut to %d of %d bytes: %d bytes, %v", level, n, buf.Len(), len(got), err)
			}
		}
	}
	broken := errors.New("broken")
	if _, err := inflateAll(io.MultiReader(strings.NewReader("\x00"), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("broken source: %v", err)
	}
}

func TestInflateRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"block type 3":              "\x07",
		"stored length":             "\x01\x01\x00\x00\x00",
		"distance before the start": "\x03\x02",                 // fixed: length 3, distance 1
		"length code 286":           "\x1b\x03\x00\x00\x00\x00", // fixed: 8 bits of symbol 286
		"286 lengths and 31":        "\x05\xfe\xff\xff",
		"repeat of nothing":         "\x05\xc0\x01\x00\x00\x00\x00\x00\x10\x00\x00\x00",
	} {
		out, err := inflateAll(strings.NewReader(in + strings.Repeat("\x00", 40)))
		want, wantErr := io.ReadAll(flate.NewReader(strings.NewReader(in + strings.Repeat("\x00", 40))))
		if !errors.Is(err, errDeflate) || wantErr == nil {
			t.Errorf("%s: %q, %v; the standard library: %q, %v", name, out, err, want, wantErr)
		}
	}
}

func TestGunzipHeaders(t *testing.T) {
	for _, h := range []gzip.Header{
		{},
		{Name: "layer.tar", Comment: "a comment", ModTime: time.Unix(clock, 0), OS: 3},
		{Extra: bytes.Repeat([]byte("x"), 65535)},
		{Extra: []byte("SZ\x02\x00ab"), Name: "n"},
	} {
		var buf bytes.Buffer
		for range 2 {
			w := gzip.NewWriter(&buf)
			w.Header = h
			fmt.Fprint(w, "data")
			w.Close()
		}
		g, err := newGunzip(&buf)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(g); err != nil || string(got) != "datadata" {
			t.Errorf("%+v: %q, %v", h, got, err)
		}
	}
}

// FuzzInflate holds the decoder to the standard library's: both accept a
// stream or both refuse it, and get the same out of it.
func FuzzInflate(f *testing.F) {
	for name, data := range inputs() {
		for _, level := range []int{flate.NoCompression, 1, 9, flate.HuffmanOnly} {
			var buf bytes.Buffer
			w, _ := flate.NewWriter(&buf, level)
			w.Write(data[:min(len(data), 5000+len(name))])
			w.Close()
			f.Add(buf.Bytes())
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := inflateAll(bytes.NewReader(in))
		want, wantErr := io.ReadAll(flate.NewReader(bytes.NewReader(in)))
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v; the standard library: %d bytes, %v", len(got), err, len(want), wantErr)
		}
	})
}

// FuzzGunzip does so for gzip.
func FuzzGunzip(f *testing.F) {
	for _, h := range []gzip.Header{{}, {Name: "n", Comment: "c", Extra: []byte("extra")}} {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		w.Header = h
		fmt.Fprint(w, "some data, some data")
		w.Close()
		f.Add(buf.Bytes())
		f.Add(append(buf.Bytes(), buf.Bytes()...))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := readGzip(func() (io.Reader, error) { return newGunzip(bytes.NewReader(in)) })
		want, wantErr := readGzip(func() (io.Reader, error) { return gzip.NewReader(bytes.NewReader(in)) })
		if errors.Is(wantErr, gzip.ErrHeader) {
			return // it refuses names of more than 512 bytes
		}
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v; the standard library: %d bytes, %v", len(got), err, len(want), wantErr)
		}
	})
}

func readGzip(open func() (io.Reader, error)) ([]byte, error) {
	r, err := open()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
