// SPDX-License-Identifier: Apache-2.0

//go:build front

package layer

import (
	"bufio"
	"context"
	"io"
)

// The front program (see Two programs in ARCHITECTURE.md) writes no compressed layers and
// reads gzip alone: what else there is takes long to begin with.

// ReadsAll says whether this program can read all compressions that there are.
const ReadsAll = false

func newDeflater(int) (compressor, error) { return compressor{}, ErrNotHere }
func newZstd(int) (compressor, error)     { return compressor{}, ErrNotHere }

func writeEStargz(context.Context, io.Writer, Options, func(context.Context, *sink) (int, error)) (Layer, error) {
	return Layer{}, ErrNotHere
}

func openOther(string, *bufio.Reader) (r io.Reader, done func(), err error) {
	return nil, func() {}, ErrNotHere
}
