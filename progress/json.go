// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"
)

// NewJSON returns a display that writes each event as one JSON object on a
// line of its own, for programs to read. Log data is base64, as it may be no
// text. The members have the names of the fields of [Event] and its parts in
// lower case; an error is its message, beside "canceled".
func NewJSON(w io.Writer) Display {
	return &jsonLines{out: batch{w: w}}
}

type jsonLines struct {
	mu     sync.Mutex
	out    batch
	timer  *time.Timer
	closed bool
}

type jsonEvent struct {
	Vertex string      `json:"vertex,omitempty"`
	Time   time.Time   `json:"time"`
	Start  *jsonStart  `json:"start,omitempty"`
	Done   *jsonDone   `json:"done,omitempty"`
	Log    *jsonLog    `json:"log,omitempty"`
	Status *jsonStatus `json:"status,omitempty"`
	Plan   *jsonPlan   `json:"plan,omitempty"`

	Finding *jsonFinding `json:"finding,omitempty"`
}

type jsonStart struct {
	Name     string `json:"name"`
	Stage    string `json:"stage,omitempty"`
	Location string `json:"location,omitempty"`
}

type jsonDone struct {
	Cached   bool   `json:"cached,omitempty"`
	Error    string `json:"error,omitempty"`
	Canceled bool   `json:"canceled,omitempty"`
	Result   string `json:"result,omitempty"`
}

type jsonLog struct {
	Stream string `json:"stream"`
	Data   []byte `json:"data"`
}

type jsonStatus struct {
	ID      string `json:"id"`
	Action  string `json:"action,omitempty"`
	Current int64  `json:"current,omitempty"`
	Total   int64  `json:"total,omitempty"`
	Bytes   bool   `json:"bytes,omitempty"`
	Done    bool   `json:"done,omitempty"`
}

type jsonPlan struct {
	Title    string `json:"title,omitempty"`
	Vertices int    `json:"vertices"`
}

type jsonFinding struct {
	Rule    string `json:"rule"`
	Message string `json:"message"`
	URL     string `json:"url,omitempty"`
	File    string `json:"file,omitempty"`
	Start   int    `json:"start,omitempty"`
	End     int    `json:"end,omitempty"`
	Excerpt string `json:"excerpt,omitempty"`
}

// Event implements [Sink].
func (j *jsonLines) Event(e Event) {
	line, err := json.Marshal(toJSON(e))
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return
	}
	if err != nil { // a year beyond 9999, which no clock shows
		if j.out.err == nil {
			j.out.err = err
		}
		return
	}
	j.out.buf = append(append(j.out.buf, line...), '\n')
	j.settle()
}

// settle writes now or makes sure that it is done soon.
func (j *jsonLines) settle() {
	if j.out.settle(clock()) && j.timer == nil {
		j.timer = time.AfterFunc(flushEvery, func() {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.timer = nil
			if !j.closed {
				j.settle()
			}
		})
	}
}

// Close implements [Display].
func (j *jsonLines) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	if j.timer != nil {
		j.timer.Stop()
	}
	j.out.flush()
	return j.out.err
}

func toJSON(e Event) jsonEvent {
	out := jsonEvent{Vertex: e.Vertex, Time: e.Time}
	if e.Time.IsZero() {
		out.Time = clock()
	}
	switch {
	case e.Start != nil:
		s := jsonStart(*e.Start)
		out.Start = &s
	case e.Done != nil:
		d := jsonDone{Cached: e.Done.Cached, Result: e.Done.Result.String()}
		if e.Done.Err != nil {
			d.Error, d.Canceled = e.Done.Err.Error(), errors.Is(e.Done.Err, context.Canceled)
		}
		out.Done = &d
	case e.Log != nil:
		out.Log = &jsonLog{Stream: e.Log.Stream.String(), Data: e.Log.Data}
	case e.Status != nil:
		s := jsonStatus(*e.Status)
		out.Status = &s
	case e.Plan != nil:
		p := jsonPlan(*e.Plan)
		out.Plan = &p
	case e.Finding != nil:
		f := e.Finding
		out.Finding = &jsonFinding{f.Rule, f.Message, f.URL, f.File, f.Start, f.End, Excerpt(f.File, f.Source, f.Start, f.End)}
	}
	return out
}

// String returns the stream's name: stdout, stderr, warning.
func (s Stream) String() string {
	switch s {
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	case Warning:
		return "warning"
	}
	return "unknown"
}
