// SPDX-License-Identifier: Apache-2.0

package rootfs

import "io"

// countingReader reports how much was read, about every four megabytes.
type countingReader struct {
	r      io.Reader
	n      int64
	next   int64
	report func(n int64)
}

const reportEvery = 4 << 20

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.n >= c.next {
		c.next = c.n + reportEvery
		c.report(c.n)
	}
	return n, err
}

// drain reads the rest, so that a reader that verifies at its end does.
func (c *countingReader) drain() error {
	_, err := io.Copy(io.Discard, c)
	return err
}
