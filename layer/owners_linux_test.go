// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"testing"
)

// shift has ids from 100 on be those from 0 on.
type shift struct{}

func (shift) UID(id uint32) (uint32, bool) { return id - 100, id >= 100 }
func (shift) GID(id uint32) (uint32, bool) { return id - 100, id >= 100 }

func TestCapabilitiesIn(t *testing.T) {
	const data = "\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	for value, want := range map[string]string{
		"\x01\x00\x00\x03" + data + "\x64\x00\x00\x00": "\x01\x00\x00\x02" + data,
		"\x01\x00\x00\x03" + data + "\x65\x00\x00\x00": "\x01\x00\x00\x03" + data + "\x65\x00\x00\x00", // of another one's root
		"\x01\x00\x00\x03" + data + "\x01\x00\x00\x00": "\x01\x00\x00\x03" + data + "\x01\x00\x00\x00",
		"\x01\x00\x00\x02" + data:                      "\x01\x00\x00\x02" + data,
		"":                                             "",
	} {
		list := []xattr{{"user.x", value}, {attrCapability, value}}
		got := capabilitiesIn(shift{}, list)
		if got[0].value != value || got[1].value != want || list[1].value != value {
			t.Errorf("%q becomes %q, want %q", value, got, want)
		}
	}
}

func TestOwnerIn(t *testing.T) {
	if u, g, err := ownerIn(nil, 1, 2); u != 1 || g != 2 || err != nil {
		t.Errorf("without a map: %d:%d %v", u, g, err)
	}
	if u, g, err := ownerIn(shift{}, 101, 233); u != 1 || g != 133 || err != nil {
		t.Errorf("with one: %d:%d %v", u, g, err)
	}
	if _, _, err := ownerIn(shift{}, 101, 1); err == nil {
		t.Error("an owner that there is not is taken")
	}
}
