// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"encoding/binary"
	"errors"
	"io"
)

// Inflating is what bounds the unpacking of most images. This decoder of the
// deflate format (RFC 1951) takes half the time that the libraries do: it has
// 64 bits of input at hand, finds a symbol of up to 11 bits together with the
// number of its extra bits in one look-up, and copies matches by words. It
// trusts nothing in the input; the bounds checks of the compiler stay in.

// errDeflate is the error for what no compressor writes.
var errDeflate = errors.New("corrupt deflate data")

const (
	maxCode      = 15 // bits of the longest code
	literalBits  = 11 // of a literal or length code that the first look-up takes
	distanceBits = 8
	lengthsBits  = 7 // of the code in which the lengths of the others are written

	// Entries that the tables need at most, those for longer codes included:
	// what zlib's "enough" computes for 288 and 32 symbols.
	literalEntries  = 2342
	distanceEntries = 402

	history  = 32 << 10  // how far back a match reaches
	decodeAt = 256 << 10 // bytes decoded at a time
	maxMatch = 258
	// outSlack is what the fast loop may write beyond the limit: three
	// literals, a match, and the rest of the last word.
	outSlack = 3 + maxMatch + 8

	inputSize = 128 << 10
	// inputSlack is what the fast loop may look at: two words.
	inputSlack = 16
)

// An entry of a table tells what the next bits stand for:
//
//	bits 0-7    how many bits to take, the extra ones included
//	bits 8-15   how many of them are the code, which the extra bits follow
//	bits 16-30  the literal, or the smallest length or distance
//
// or, with flagOther, that it is something else: the end, nothing, or the start
// of a longer code, where bits 8-15 tell how many more bits choose among the
// entries from the one on that bits 16-27 tell.
const (
	flagOther   = 1 << 31
	flagLiteral = 1 << 30 // in the table of literals and lengths only
	flagEnd     = 1 << 29 // with flagOther
	flagInvalid = 1 << 28 // with flagOther
)

// inflater decodes deflate streams that follow each other in an io.Reader.
type inflater struct {
	src io.Reader
	err error // of src
	in  []byte
	pos int    // next byte of in that is not in acc
	end int    // of the input in in
	acc uint64 // the next bits, lowest first; those above n may be set already
	n   uint   // how many of them count

	out  []byte
	done int // end of what was given away
	op   int // end of what is decoded

	stored int  // bytes left of a stored block
	coded  bool // inside of a block with codes
	last   bool // it is the last block
	ended  bool // the stream has ended
	failed error

	literals  [literalEntries]uint32
	distances [distanceEntries]uint32
	lengths   [1 << lengthsBits]uint32
	lens      [288 + 32]uint8
}

func newInflater(src io.Reader) *inflater {
	return &inflater{
		src: src,
		in:  make([]byte, inputSize),
		out: make([]byte, history+decodeAt+outSlack),
	}
}

// restart begins with the stream that follows the last one.
func (f *inflater) restart() {
	f.done, f.op = 0, 0
	f.last, f.ended = false, false
}

// next returns decoded bytes, valid until the next call, and io.EOF at the end
// of the stream.
func (f *inflater) next() ([]byte, error) {
	if f.op > history {
		f.op = copy(f.out, f.out[f.op-history:f.op])
	}
	f.done = f.op
	for f.op < history+decodeAt && !f.ended && f.failed == nil {
		f.failed = f.step()
	}
	if f.op == f.done {
		if f.failed != nil {
			return nil, f.failed
		}
		return nil, io.EOF
	}
	// What was decoded before a failure is given out before it.
	return f.out[f.done:f.op], nil
}

// step decodes a part of a block, or the header of one.
func (f *inflater) step() error {
	switch {
	case f.stored > 0:
		return f.copyStored()
	case f.coded:
		if err := f.more(); err != nil {
			return err
		}
		if f.end-f.pos >= inputSlack {
			return f.decode()
		}
		return f.decodeOne()
	case f.last:
		f.align()
		f.ended = true
		return nil
	}
	kind, err := f.take(3)
	if err != nil {
		return err
	}
	f.last = kind&1 != 0
	switch kind >> 1 {
	case 0:
		return f.storedHeader()
	case 1:
		return f.fixedCodes()
	case 2:
		return f.dynamicCodes()
	}
	return errDeflate
}

// more reads input if there is little left. At the end of the source it does
// nothing.
func (f *inflater) more() error {
	if f.end-f.pos >= inputSlack || f.err == io.EOF {
		return nil
	}
	f.end = copy(f.in, f.in[f.pos:f.end])
	f.pos = 0
	for idle := 0; f.end < inputSlack && f.err == nil; idle++ {
		var n int
		n, f.err = f.src.Read(f.in[f.end:])
		f.end += n
		if idle == 100 && f.err == nil {
			f.err = io.ErrNoProgress
		}
	}
	if f.err == io.EOF {
		return nil
	}
	return f.err
}

// need makes at least n bits count, of up to 56.
func (f *inflater) need(n uint) error {
	for f.n < n {
		if f.pos == f.end {
			if err := f.more(); err != nil {
				return err
			}
			if f.pos == f.end {
				return io.ErrUnexpectedEOF
			}
		}
		f.acc |= uint64(f.in[f.pos]) << f.n
		f.pos++
		f.n += 8
	}
	return nil
}

// drop takes n bits that count.
func (f *inflater) drop(n uint) {
	f.acc >>= n
	f.n -= n
}

// take returns the next n bits.
func (f *inflater) take(n uint) (uint, error) {
	if err := f.need(n); err != nil {
		return 0, err
	}
	v := uint(f.acc & (1<<n - 1))
	f.drop(n)
	return v, nil
}

// align drops what is left of a byte.
func (f *inflater) align() { f.drop(f.n & 7) }

// byte returns the next byte after a stream; io.EOF where there is none.
func (f *inflater) byte() (byte, error) {
	v, err := f.take(8)
	if err == io.ErrUnexpectedEOF && f.n == 0 {
		err = io.EOF
	}
	return byte(v), err
}

func (f *inflater) storedHeader() error {
	f.align()
	v, err := f.take(32)
	if err != nil {
		return err
	}
	if v>>16 != ^v&0xffff {
		return errDeflate
	}
	f.stored = int(v & 0xffff)
	return nil
}

// copyStored copies a part of a stored block. It begins at a byte's start.
func (f *inflater) copyStored() error {
	for f.n > 0 && f.stored > 0 {
		f.out[f.op] = byte(f.acc)
		f.drop(8)
		f.op++
		f.stored--
	}
	if f.n > 0 {
		return nil
	}
	f.acc = 0
	if err := f.more(); err != nil {
		return err
	}
	if f.pos == f.end && f.stored > 0 {
		return io.ErrUnexpectedEOF
	}
	room := min(f.stored, history+decodeAt-f.op)
	n := copy(f.out[f.op:f.op+max(room, 0)], f.in[f.pos:f.end])
	f.pos += n
	f.op += n
	f.stored -= n
	return nil
}

// decode decodes symbols as long as there are input and room for any of them.
func (f *inflater) decode() error {
	in, out := f.in[:f.end], f.out
	pos, op, acc, n := f.pos, f.op, f.acc, f.n
	var err error
loop:
	for pos <= len(in)-inputSlack && op < history+decodeAt {
		// Refill: the bits that are there already are or-ed with themselves.
		acc |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
		pos += int((63 - n) >> 3)
		n |= 56

		e := f.literals[acc&(1<<literalBits-1)]
		// Up to three literals of 11 bits; 23 bits are left then.
		if e&flagLiteral != 0 {
			acc >>= e & 63
			n -= uint(e & 63)
			out[op] = byte(e >> 16)
			op++
			e = f.literals[acc&(1<<literalBits-1)]
			if e&flagLiteral != 0 {
				acc >>= e & 63
				n -= uint(e & 63)
				out[op] = byte(e >> 16)
				op++
				e = f.literals[acc&(1<<literalBits-1)]
				if e&flagLiteral != 0 {
					acc >>= e & 63
					n -= uint(e & 63)
					out[op] = byte(e >> 16)
					op++
					continue
				}
			}
		}
		if e&flagOther != 0 {
			if e&(flagEnd|flagInvalid) == 0 {
				acc >>= literalBits
				n -= literalBits
				e = f.literals[uint64(e>>16&0xfff)+acc&(1<<(e>>8&15)-1)]
			}
			switch {
			case e&flagLiteral != 0:
				acc >>= e & 63
				n -= uint(e & 63)
				out[op] = byte(e >> 16)
				op++
				continue
			case e&flagEnd != 0:
				acc >>= e & 63
				n -= uint(e & 63)
				f.coded = false
				break loop
			case e&flagOther != 0:
				err = errDeflate
				break loop
			}
		}
		length := int(e>>16) + int(acc&(1<<(e&63)-1)>>(e>>8&63))
		acc >>= e & 63
		n -= uint(e & 63)

		// A distance takes 28 bits at most.
		acc |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
		pos += int((63 - n) >> 3)
		n |= 56
		e = f.distances[acc&(1<<distanceBits-1)]
		if e&flagOther != 0 {
			if e&flagInvalid == 0 {
				acc >>= distanceBits
				n -= distanceBits
				e = f.distances[uint64(e>>16&0xfff)+acc&(1<<(e>>8&15)-1)]
			}
			if e&flagOther != 0 {
				err = errDeflate
				break loop
			}
		}
		dist := int(e>>16) + int(acc&(1<<(e&63)-1)>>(e>>8&63))
		acc >>= e & 63
		n -= uint(e & 63)
		if dist > op {
			err = errDeflate
			break loop
		}
		copyMatch(out, op, dist, length)
		op += length
	}
	f.pos, f.op, f.acc, f.n = pos, op, acc, n
	return err
}

// copyMatch repeats length bytes that begin dist bytes before op. It may write
// up to seven bytes more.
func copyMatch(out []byte, op, dist, length int) {
	switch {
	case dist >= 8:
		from, to := out[op-dist:op-dist+length+8], out[op:op+length+8]
		for len(to) > 8 {
			binary.LittleEndian.PutUint64(to, binary.LittleEndian.Uint64(from))
			to, from = to[8:], from[8:]
		}
	case dist == 1:
		b := out[op-1]
		to := out[op : op+length]
		for i := range to {
			to[i] = b
		}
	default:
		for i := op; i < op+length; i++ {
			out[i] = out[i-dist]
		}
	}
}

// decodeOne decodes one symbol with whatever input is left. Bits that are
// missing are taken for zeros; if any of them were needed it is an error.
func (f *inflater) decodeOne() error {
	e, err := f.symbol(f.literals[:], literalBits)
	switch {
	case err != nil:
		return err
	case e&flagLiteral != 0:
		f.out[f.op] = byte(e >> 16)
		f.op++
		return nil
	case e&flagEnd != 0:
		f.coded = false
		return nil
	}
	length, err := f.extra(e)
	if err != nil {
		return err
	}
	if e, err = f.symbol(f.distances[:], distanceBits); err != nil {
		return err
	}
	dist, err := f.extra(e)
	if err != nil {
		return err
	}
	if dist > f.op {
		return errDeflate
	}
	copyMatch(f.out, f.op, dist, length)
	f.op += length
	return nil
}

// symbol takes a code, without its extra bits, and returns its entry.
func (f *inflater) symbol(table []uint32, root uint) (uint32, error) {
	for {
		// What is above n may not be there yet, and changes nothing if the
		// code turns out to be no longer than n.
		acc := f.acc & (1<<f.n - 1)
		e, size := table[acc&(1<<root-1)], uint(0)
		if e&flagOther != 0 && e&(flagEnd|flagInvalid) == 0 {
			e, size = table[uint64(e>>16&0xfff)+acc>>root&(1<<(e>>8&15)-1)], root
		}
		size += uint(e >> 8 & 15)
		invalid := e&flagOther != 0 && e&flagEnd == 0
		if !invalid && size <= f.n {
			f.drop(size)
			return e, nil
		}
		if f.n >= maxCode {
			return 0, errDeflate
		}
		if err := f.need(f.n + 1); err != nil {
			return 0, err
		}
	}
}

// extra takes the extra bits of an entry, and returns the length or distance.
func (f *inflater) extra(e uint32) (int, error) {
	v, err := f.take(uint(e&63 - e>>8&63))
	return int(e>>16) + int(v), err
}
