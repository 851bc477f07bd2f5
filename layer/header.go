// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Sizes and names of the tar format (POSIX.1-1988 ustar, POSIX.1-2001 pax).
const (
	blockSize   = 512
	nameSize    = 100
	prefixSize  = 155
	maxPAXSize  = 1 << 20 // what readers accept of a pax header
	paxXattr    = "SCHILY.xattr."
	paxDirName  = "PaxHeaders.0"
	trailerSize = 2 * blockSize // two zero blocks end an archive
)

// Type flags of the entries that layers have.
const (
	typeReg     = '0'
	typeLink    = '1'
	typeSymlink = '2'
	typeChar    = '3'
	typeBlock   = '4'
	typeDir     = '5'
	typeFifo    = '6'
	typeCont    = '7' // "high performance" file, read as a regular one
	typePAX     = 'x'
)

// header is one tar entry as it is written. Names of its users, access and
// change times are never written: they say something about the host and not
// about the image.
type header struct {
	name     string // a directory's ends with a slash
	link     string
	typeflag byte
	mode     uint32 // permission bits with setuid, setgid and sticky
	uid, gid uint32
	size     int64
	mtime    int64 // seconds since 1970
	devMajor uint32
	devMinor uint32
	xattrs   []xattr // sorted by name
}

// xattr is one extended attribute.
type xattr struct{ name, value string }

var (
	errAttrName = errors.New(`attribute name holds a "=", which a tar can't express`)
	errPAXSize  = errors.New("extended attributes are too large for a tar header")
)

// appendHeader appends the blocks of h to b: one ustar block, preceded by a
// pax header if and only if something doesn't fit into it. The bytes are those
// of archive/tar for a header of FormatPAX without access and change times,
// which is what BuildKit and containerd write.
func appendHeader(b []byte, h *header) ([]byte, error) {
	name, prefix := h.name, ""
	if fitsUSTAR(h) {
		if len(name) > nameSize {
			prefix, name, _ = splitName(name)
		}
		return appendBlock(b, h, name, prefix), nil
	}
	records, err := appendRecords(nil, h)
	if err != nil {
		return b, err
	}
	if len(records) > maxPAXSize {
		return b, errPAXSize
	}
	dir, file := path.Split(name)
	paxName := toASCII(path.Join(dir, paxDirName, file))
	paxName = strings.TrimRight(paxName[:min(len(paxName), nameSize)], "/")
	b = appendPAXBlock(b, paxName, len(records))
	b = append(b, records...)
	b = append(b, make([]byte, padding(int64(len(records))))...)
	return appendBlock(b, h, name, ""), nil
}

// padding is the number of bytes that fill n up to a whole block.
func padding(n int64) int64 { return -n & (blockSize - 1) }

// fitsUSTAR tells whether one plain block can hold all of h.
func fitsUSTAR(h *header) bool {
	if len(h.xattrs) > 0 || len(h.link) > nameSize || !isASCII(h.link) || !isASCII(h.name) {
		return false
	}
	if len(h.name) > nameSize {
		if _, _, ok := splitName(h.name); !ok {
			return false
		}
	}
	return fitsOctal(8, int64(h.uid)) && fitsOctal(8, int64(h.gid)) &&
		fitsOctal(12, h.size) && fitsOctal(12, h.mtime)
}

// splitName cuts a name of more than 100 bytes at a slash into the prefix and
// name fields of a ustar block.
func splitName(s string) (prefix, name string, ok bool) {
	if len(s) <= nameSize {
		return "", "", false
	}
	end := len(s)
	if end > prefixSize+1 {
		end = prefixSize + 1
	} else if s[end-1] == '/' {
		end-- // a directory's last slash is no place to cut
	}
	i := strings.LastIndexByte(s[:end], '/')
	rest := len(s) - i - 1
	if i <= 0 || rest == 0 || rest > nameSize {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// appendRecords appends the pax records that h needs, sorted by keyword.
func appendRecords(b []byte, h *header) ([]byte, error) {
	for _, x := range h.xattrs {
		if strings.Contains(x.name, "=") {
			return b, errAttrName
		}
		b = appendRecord(b, paxXattr+x.name, x.value)
	}
	if !fitsOctal(8, int64(h.gid)) {
		b = appendRecord(b, "gid", strconv.FormatUint(uint64(h.gid), 10))
	}
	if len(h.link) > nameSize || !isASCII(h.link) {
		b = appendRecord(b, "linkpath", h.link)
	}
	if !fitsOctal(12, h.mtime) {
		b = appendRecord(b, "mtime", strconv.FormatInt(h.mtime, 10))
	}
	if len(h.name) > nameSize || !isASCII(h.name) {
		b = appendRecord(b, "path", h.name)
	}
	if !fitsOctal(12, h.size) {
		b = appendRecord(b, "size", strconv.FormatInt(h.size, 10))
	}
	if !fitsOctal(8, int64(h.uid)) {
		b = appendRecord(b, "uid", strconv.FormatUint(uint64(h.uid), 10))
	}
	return b, nil
}

// appendRecord appends "LENGTH KEY=VALUE\n", where LENGTH counts its own
// digits too.
func appendRecord(b []byte, key, value string) []byte {
	size := len(key) + len(value) + len(" =\n")
	digits := len(strconv.Itoa(size))
	if len(strconv.Itoa(size+digits)) > digits {
		digits++
	}
	b = strconv.AppendInt(b, int64(size+digits), 10)
	b = append(b, ' ')
	b = append(b, key...)
	b = append(b, '=')
	b = append(b, value...)
	return append(b, '\n')
}

// appendPAXBlock appends the block that announces size bytes of pax records.
func appendPAXBlock(b []byte, name string, size int) []byte {
	var blk [blockSize]byte
	copy(blk[:nameSize], name)
	putOctal(blk[100:108], 0)
	putOctal(blk[108:116], 0)
	putOctal(blk[116:124], 0)
	putOctal(blk[124:136], int64(size))
	putOctal(blk[136:148], 0)
	blk[156] = typePAX
	seal(&blk)
	return append(b, blk[:]...)
}

// appendBlock appends the entry's own block. What doesn't fit is cut short, or
// zero if it is a number: a pax record has it then.
func appendBlock(b []byte, h *header, name, prefix string) []byte {
	var blk [blockSize]byte
	putString(blk[:nameSize], name)
	putOctal(blk[100:108], int64(h.mode))
	putOctal(blk[108:116], int64(h.uid))
	putOctal(blk[116:124], int64(h.gid))
	putOctal(blk[124:136], h.size)
	putOctal(blk[136:148], h.mtime)
	blk[156] = h.typeflag
	putString(blk[157:257], h.link)
	putOctal(blk[329:337], int64(h.devMajor))
	putOctal(blk[337:345], int64(h.devMinor))
	copy(blk[345:500], prefix)
	seal(&blk)
	return append(b, blk[:]...)
}

// seal sets the magic number and the checksum, which is the sum of all bytes
// of the block with the checksum's own taken as spaces.
func seal(blk *[blockSize]byte) {
	copy(blk[257:265], "ustar\x0000")
	copy(blk[148:156], "        ")
	// Eight bytes at a time, added up in lanes of 16 bits: 64 times 255 fits.
	const lanes = 0x00ff00ff00ff00ff
	var even, odd uint64
	for b := blk[:]; len(b) >= 8; b = b[8:] {
		x := binary.LittleEndian.Uint64(b)
		even += x & lanes
		odd += x >> 8 & lanes
	}
	var sum int64
	for ; even|odd != 0; even, odd = even>>16, odd>>16 {
		sum += int64(even&0xffff + odd&0xffff)
	}
	putOctal(blk[148:155], sum)
}

// putString sets a field to the ASCII part of s, cut to fit. A cut name must
// not end with a slash: some readers take it for a directory's then.
func putString(field []byte, s string) {
	s = toASCII(s)
	n := copy(field, s)
	if n < len(s) && field[n-1] == '/' {
		n = len(bytes.TrimRight(field[:n-1], "/"))
		field[n] = 0
	}
}

// putOctal sets a numeric field: octal digits that fill it, and a NUL. A
// number that doesn't fit is written as zero.
func putOctal(field []byte, x int64) {
	if !fitsOctal(len(field), x) {
		x = 0
	}
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = '0' + byte(x&7)
		x >>= 3
	}
	field[len(field)-1] = 0
}

// fitsOctal tells whether a numeric field of n bytes can hold x.
func fitsOctal(n int, x int64) bool {
	return x >= 0 && x < 1<<(uint(n-1)*3)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 || s[i] == 0 {
			return false
		}
	}
	return true
}

// toASCII drops every byte of s that is not ASCII.
func toASCII(s string) string {
	if isASCII(s) {
		return s
	}
	return string(slices.DeleteFunc([]byte(s), func(c byte) bool { return c >= 0x80 || c == 0 }))
}
