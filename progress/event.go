// SPDX-License-Identifier: Apache-2.0

// Package progress carries what happens during a build, a pull or a load from
// the code that does it to whoever shows it. Senders emit an [Event]; a [Sink]
// renders it: as lines ([NewPlain]), as a live view ([NewTTY]), or not at all.
//
// The words are BuildKit's: a vertex is one unit of work that is displayed (a
// step, a pull, an export); it starts, may log output and report amounts, and
// completes, perhaps from the cache or with an error.
package progress

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Sink receives events. Event may be called from many goroutines at once and
// must not keep the event's Data after it returns.
type Sink interface {
	Event(e Event)
}

// Event is one change of one vertex. Exactly one of Start, Done, Log, Status,
// Plan and Finding is set.
type Event struct {
	Vertex string    // identifies the vertex within its build, e.g. "build 3/7"
	Time   time.Time // when it happened; zero for now

	Start   *Start
	Done    *Done
	Log     *Log
	Status  *Status
	Plan    *Plan    // has no vertex
	Finding *Finding // has no vertex; shown at the end
}

// Plan says what is to come, as far as it is known. A later one replaces it.
// It isn't needed: without it only what has started counts.
type Plan struct {
	Title    string // what is going on, "Building" if empty
	Vertices int    // how many vertices there will be, those begun included
}

// Start says that a vertex has begun.
type Start struct {
	Name  string // what is shown: "[build 3/7] RUN make", "pull debian:12"
	Stage string // name of its stage, "" for what belongs to none
	// Location of the instruction, as Dockerfile:12; "" where there is none.
	Location string
}

// Done says that a vertex has ended.
type Done struct {
	Cached bool
	// Err is the failure, nil for success. Canceled vertices end with an
	// error that wraps context.Canceled.
	Err error
	// Result is what came out, where a user would want to see it: the
	// image's digest, a layer's.
	Result digest.Digest
}

// Stream tells output from diagnostics.
type Stream int

// The streams of a process, and warnings of builder's own.
const (
	Stdout Stream = iota + 1
	Stderr
	Warning
)

// Log is output of a vertex: raw bytes, in no way aligned to lines. A Warning
// is text in whole lines; it may name a vertex that never starts.
type Log struct {
	Stream Stream
	Data   []byte
}

// Status reports an amount: a layer being pulled, a context being read. The
// same ID of the same vertex updates the same line. The ID is shown after the
// action where there is an amount; else the action alone is a sentence of its
// own, "waiting for another build".
type Status struct {
	ID      string
	Action  string // "downloading", "unpacking", "compressing", …
	Current int64
	Total   int64 // 0 where it isn't known
	Bytes   bool  // amounts are bytes, else a count
	Done    bool
}
