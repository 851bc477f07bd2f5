// SPDX-License-Identifier: Apache-2.0

package layer

import "math/bits"

// lengthCodes and distanceCodes are the smallest value of each code and the
// number of its extra bits (RFC 1951, 3.2.5).
var (
	lengthCodes = [...]struct{ base, extra uint32 }{
		{3, 0}, {4, 0}, {5, 0}, {6, 0}, {7, 0}, {8, 0}, {9, 0}, {10, 0},
		{11, 1}, {13, 1}, {15, 1}, {17, 1}, {19, 2}, {23, 2}, {27, 2}, {31, 2},
		{35, 3}, {43, 3}, {51, 3}, {59, 3}, {67, 4}, {83, 4}, {99, 4}, {115, 4},
		{131, 5}, {163, 5}, {195, 5}, {227, 5}, {258, 0},
	}
	distanceCodes = [...]struct{ base, extra uint32 }{
		{1, 0}, {2, 0}, {3, 0}, {4, 0}, {5, 1}, {7, 1}, {9, 2}, {13, 2},
		{17, 3}, {25, 3}, {33, 4}, {49, 4}, {65, 5}, {97, 5}, {129, 6}, {193, 6},
		{257, 7}, {385, 7}, {513, 8}, {769, 8}, {1025, 9}, {1537, 9}, {2049, 10}, {3073, 10},
		{4097, 11}, {6145, 11}, {8193, 12}, {12289, 12}, {16385, 13}, {24577, 13},
	}
)

// literalEntry is the entry of a symbol of the literal and length alphabet,
// with a code of size bits.
func literalEntry(symbol int, size uint32) uint32 {
	switch {
	case symbol < 256:
		return flagLiteral | uint32(symbol)<<16 | size<<8 | size
	case symbol == 256:
		return flagOther | flagEnd | size<<8 | size
	case symbol-257 < len(lengthCodes):
		c := lengthCodes[symbol-257]
		return c.base<<16 | size<<8 | (size + c.extra)
	}
	return flagOther | flagInvalid
}

func distanceEntry(symbol int, size uint32) uint32 {
	if symbol >= len(distanceCodes) {
		return flagOther | flagInvalid
	}
	c := distanceCodes[symbol]
	return c.base<<16 | size<<8 | (size + c.extra)
}

func lengthsEntry(symbol int, size uint32) uint32 {
	return uint32(symbol)<<16 | size<<8 | size
}

// fixedCodes sets up the codes of a block that brings none (RFC 1951, 3.2.6).
func (f *inflater) fixedCodes() error {
	for i := range f.lens {
		switch {
		case i < 144:
			f.lens[i] = 8
		case i < 256:
			f.lens[i] = 9
		case i < 280:
			f.lens[i] = 7
		case i < 288:
			f.lens[i] = 8
		default:
			f.lens[i] = 5
		}
	}
	return f.codes(288, 32)
}

// dynamicCodes reads the codes of a block (RFC 1951, 3.2.7).
func (f *inflater) dynamicCodes() error {
	counts, err := f.take(14)
	if err != nil {
		return err
	}
	literals, distances, lengths := int(counts&31)+257, int(counts>>5&31)+1, int(counts>>10)+4
	if literals > 286 || distances > 30 {
		return errDeflate
	}
	var lens [19]uint8
	for _, i := range []uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}[:lengths] {
		v, err := f.take(3)
		if err != nil {
			return err
		}
		lens[i] = uint8(v)
	}
	if !fillTable(f.lengths[:], lengthsBits, lens[:], lengthsEntry) {
		return errDeflate
	}
	for i := 0; i < literals+distances; {
		if i, err = f.readLength(i, literals+distances); err != nil {
			return err
		}
	}
	return f.codes(literals, distances)
}

// readLength reads the length of the i-th code, or of it and some that follow,
// of all in total. It returns the index of the next one.
func (f *inflater) readLength(i, total int) (int, error) {
	e, err := f.symbol(f.lengths[:], lengthsBits)
	if err != nil {
		return 0, err
	}
	symbol := uint8(e >> 16)
	if symbol < 16 {
		f.lens[i] = symbol
		return i + 1, nil
	}
	value, least, extra := uint8(0), 3, uint(3)
	switch symbol {
	case 16:
		if i == 0 {
			return 0, errDeflate
		}
		value, extra = f.lens[i-1], 2
	case 18:
		least, extra = 11, 7
	}
	n, err := f.take(extra)
	if err != nil {
		return 0, err
	}
	end := i + least + int(n)
	if end > total {
		return 0, errDeflate
	}
	for ; i < end; i++ {
		f.lens[i] = value
	}
	return i, nil
}

// codes makes the tables of a block from the lengths of its codes.
func (f *inflater) codes(literals, distances int) error {
	if !fillTable(f.literals[:], literalBits, f.lens[:literals], literalEntry) ||
		!fillTable(f.distances[:], distanceBits, f.lens[literals:literals+distances], distanceEntry) {
		return errDeflate
	}
	f.coded = true
	return nil
}

// fillTable makes the table of a code from the lengths of its symbols' codes,
// and tells whether they are one: no two may begin alike and none be left
// over. As in zlib, a code of a single symbol of one bit is fine, and so is an
// empty one until it is used.
func fillTable(table []uint32, root uint, lens []uint8, entry func(symbol int, size uint32) uint32) bool {
	var count [maxCode + 1]int
	for _, n := range lens {
		count[n]++
	}
	used, left := len(lens)-count[0], 1
	for n := 1; n <= maxCode; n++ {
		if left = left<<1 - count[n]; left < 0 {
			return false
		}
	}
	if left > 0 {
		if used > 1 || used == 1 && count[1] == 0 {
			return false
		}
		for i := range table[:1<<root] {
			table[i] = flagOther | flagInvalid
		}
	}
	// Symbols by the length of their codes, which are given out in this order.
	var sorted [288]uint16
	var at [maxCode + 2]int
	for n := 1; n <= maxCode; n++ {
		at[n+1] = at[n] + count[n]
	}
	for symbol, n := range lens {
		if n > 0 {
			sorted[at[n]] = uint16(symbol)
			at[n]++
		}
	}
	b := tableFiller{table: table, root: root, count: count, free: 1 << root, prefix: -1}
	code := uint(0)
	for i, size := 0, uint(1); i < used; i++ {
		symbol := int(sorted[i])
		for n := uint(lens[symbol]); size < n; size++ {
			code <<= 1
		}
		b.put(code, size, symbol, entry)
		b.count[size]--
		code++
	}
	return true
}

// tableFiller puts codes into a table, shorter ones first.
type tableFiller struct {
	table  []uint32
	root   uint
	count  [maxCode + 1]int // codes of each length that are to come
	free   int              // first entry that no longer code has yet
	prefix int              // first bits of the codes that sub is for
	sub    []uint32
}

// put adds the code of a symbol. Streams have a code's first bit lowest.
func (b *tableFiller) put(code, size uint, symbol int, entry func(symbol int, size uint32) uint32) {
	code = uint(bits.Reverse16(uint16(code)) >> (16 - size))
	table, shift := b.table[:1<<b.root], size
	if size > b.root {
		if prefix := int(code & (1<<b.root - 1)); prefix != b.prefix {
			b.begin(prefix, size)
		}
		table, shift, code = b.sub, size-b.root, code>>b.root
	}
	e := entry(symbol, uint32(shift))
	for i := code; i < uint(len(table)); i += 1 << shift {
		table[i] = e
	}
}

// begin takes entries for all codes that begin with prefix, the shortest of
// which has size bits.
func (b *tableFiller) begin(prefix int, size uint) {
	more := size - b.root
	for left := 1 << more; b.root+more < maxCode; more++ {
		if left -= b.count[b.root+more]; left <= 0 {
			break
		}
		left <<= 1
	}
	b.prefix = prefix
	b.sub = b.table[b.free : b.free+1<<more]
	b.table[prefix] = uint32(flagOther) | uint32(b.free)<<16 | uint32(more)<<8
	b.free += 1 << more
}
