// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"strconv"
	"time"
)

// appendSize appends a number of bytes as people read it: 512B, 45.6MB. Units
// are decimal, as registries and disks count.
func appendSize(b []byte, n int64) []byte {
	if n < 1000 {
		return append(strconv.AppendInt(b, n, 10), 'B')
	}
	v, unit := float64(n), 0
	for v >= 999.95 && unit < 5 { // what would be shown as 1000.0 is the next unit's
		v /= 1000
		unit++
	}
	b = strconv.AppendFloat(b, v, 'f', 1, 64)
	return append(b, " kMGTP"[unit], 'B')
}

// appendSeconds appends a duration in seconds, 3.2s.
func appendSeconds(b []byte, d time.Duration) []byte {
	return append(strconv.AppendFloat(b, max(d, 0).Seconds(), 'f', 1, 64), 's')
}

// hasAmount reports whether a status counts something.
func (s *Status) hasAmount() bool { return s.Bytes || s.Current != 0 || s.Total != 0 }

// appendLabel appends what is being done, and to what.
func (s *Status) appendLabel(b []byte) []byte {
	b = append(b, oneLine(s.Action, longestName)...)
	if s.ID != "" && (s.hasAmount() || s.Action == "") {
		if s.Action != "" {
			b = append(b, ' ')
		}
		b = append(b, oneLine(s.ID, longestName)...)
	}
	return b
}

// appendAmount appends how much is done: "12.3MB / 45.6MB", "3 / 7"; nothing
// where nothing is counted.
func (s *Status) appendAmount(b []byte) []byte {
	if !s.hasAmount() {
		return b
	}
	b = s.appendCount(b, s.Current)
	if s.Total > 0 {
		b = append(b, " / "...)
		b = s.appendCount(b, s.Total)
	}
	return b
}

func (s *Status) appendCount(b []byte, n int64) []byte {
	if s.Bytes {
		return appendSize(b, n)
	}
	return strconv.AppendInt(b, n, 10)
}
