// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"fmt"
	"strconv"
	"strings"
)

// Mode is a change of permissions, as --chmod gives it. The zero value changes
// nothing.
type Mode struct {
	octal   bool
	bits    uint32
	clauses []modeClause
}

// modeClause is one of the comma-separated parts: who, then operations.
type modeClause struct {
	who uint32 // the bits of ugo that are spoken of; 0: nothing was said, all
	ops []modeOp
}

type modeOp struct {
	op    byte   // '+', '-' or '='
	perms string // of "rwxXstugo"
}

const (
	permUser, permGroup, permOther = 0o4700, 0o2070, 0o0007
	permSticky                     = 0o1000
	permAll                        = permUser | permGroup | permOther
)

// ParseMode reads an octal mode up to 07777 or a symbolic one as chmod(1)
// takes it, where what is said of nobody in particular is said of all: "+x"
// is "a+x", whatever the umask. "" is the zero Mode.
func ParseMode(s string) (Mode, error) {
	if s == "" {
		return Mode{}, nil
	}
	if s[0] >= '0' && s[0] <= '9' {
		bits, err := strconv.ParseUint(s, 8, 32)
		if err != nil || bits > 0o7777 {
			return Mode{}, fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
		}
		return Mode{octal: true, bits: uint32(bits)}, nil
	}
	var m Mode
	for part := range strings.SplitSeq(s, ",") {
		c, ok := parseModeClause(part)
		if !ok {
			return Mode{}, fmt.Errorf("invalid chmod parameter: '%s'. %q is neither an octal nor a symbolic mode", s, part)
		}
		m.clauses = append(m.clauses, c)
	}
	return m, nil
}

func parseModeClause(s string) (modeClause, bool) {
	var c modeClause
	for ; s != ""; s = s[1:] {
		switch s[0] {
		case 'u':
			c.who |= permUser
		case 'g':
			c.who |= permGroup
		case 'o':
			c.who |= permOther
		case 'a':
			c.who |= permAll
		default:
			goto ops
		}
	}
ops:
	for s != "" {
		op := modeOp{op: s[0]}
		if !strings.ContainsRune("+-=", rune(op.op)) {
			return c, false
		}
		s = s[1:]
		n := 0
		for n < len(s) && strings.IndexByte("rwxXstugo", s[n]) >= 0 {
			n++
		}
		op.perms, s = s[:n], s[n:]
		c.ops = append(c.ops, op)
	}
	return c, len(c.ops) > 0
}

// IsZero tells whether m changes nothing.
func (m Mode) IsZero() bool { return !m.octal && len(m.clauses) == 0 }

// Octal returns the mode that was given as a number.
func (m Mode) Octal() (bits uint32, ok bool) { return m.bits, m.octal }

// Apply returns the permission bits, of 07777, of a file whose type and
// permissions are mode.
func (m Mode) Apply(mode uint32) uint32 {
	perm := mode & 0o7777
	if m.octal {
		return m.bits
	}
	dir := mode&modeType == modeDir
	// X looks at the permissions before any change, as BSD's setmode does.
	canX := dir || perm&0o111 != 0
	for _, c := range m.clauses {
		for _, op := range c.ops {
			perm = c.apply(op, perm, canX)
		}
	}
	return perm
}

// apply does one operation as BSD's setmode(3) does: letters that copy another
// class's permissions take effect one by one, the others together. "t" said of
// nobody in particular makes the operation one on that bit alone, as in the
// library that BuildKit uses.
func (c modeClause) apply(op modeOp, perm uint32, canX bool) uint32 {
	who := c.who
	special := who == 0 || who&^permOther != 0 // "o+s" and "o+t" mean nothing
	all := func() uint32 {
		if who == 0 {
			return permAll
		}
		return who
	}
	var set uint32
	cleared := false // an '=' must clear once, even if it sets nothing
	flush := func() {
		if set != 0 || op.op == '=' && !cleared {
			perm = change(op.op, perm, all(), set&all())
		}
		set, cleared = 0, true
	}
	for _, p := range []byte(op.perms) {
		switch p {
		case 'r':
			set |= 0o444
		case 'w':
			set |= 0o222
		case 'x':
			set |= 0o111
		case 'X':
			if canX || op.op == '-' {
				set |= 0o111
			}
		case 's':
			if special {
				set |= 0o6000
			}
		case 't':
			if special {
				set |= permSticky
				who |= permSticky
			}
		case 'u', 'g', 'o':
			cleared = true
			flush()
			shift := map[byte]int{'u': 6, 'g': 3, 'o': 0}[p]
			rwx := perm >> shift & 7 * 0o111
			perm = change(op.op, perm, all()&0o777, rwx&all())
		}
	}
	flush()
	return perm
}

// change sets, adds or removes the bits; '=' clears the rest of who.
func change(op byte, perm, who, bits uint32) uint32 {
	switch op {
	case '+':
		return perm | bits
	case '-':
		return perm &^ bits
	default:
		return perm&^who | bits
	}
}
