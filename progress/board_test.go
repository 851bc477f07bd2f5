// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"testing"
	"time"
)

// TestLeft is a table of how long a transfer still takes.
func TestLeft(t *testing.T) {
	for _, c := range []struct {
		current, total, rate int64
		want                 string
	}{
		{0, 100, 0, ""}, {100, 100, 10, ""}, {50, 0, 10, ""}, {95, 100, 10, "1s"}, {0, 100, 10, "10s"}, {0, 6000, 10, "10m00s"},
		{0, 1 << 40, 100 << 20, "2h54m"}, {0, 36000, 10, "1h00m"}, {0, 35999, 10, "1h00m"},
	} {
		a := &amount{}
		a.Current, a.Total = c.current, c.total
		got := ""
		if left := a.left(c.rate); left > 0 {
			got = string(appendTime(nil, left.Round(time.Millisecond)))
		}
		if got != c.want {
			t.Errorf("%d of %d at %d/s: %q, want %q", c.current, c.total, c.rate, got, c.want)
		}
	}
}
