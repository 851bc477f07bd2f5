// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// Event is something that happened to a container.
type Event struct {
	Time       time.Time         `json:"time"`
	Type       string            `json:"type"`   // container
	Action     string            `json:"action"` // create, start, die, …: docker's words
	ID         string            `json:"id"`
	Attributes map[string]string `json:"attributes"` // name, image, labels, and what the action adds
}

// maxEvents is the size at which a new file of events is begun; the one before
// is kept.
const maxEvents = 4 << 20

func (r Records) eventFile() string { return r.s.Path("events") }

// event notes an event. What can't be written is not known: nothing else
// depends on it.
func (r Records) event(c Config, action string, more map[string]string) {
	attributes := map[string]string{"name": r.nameOf(c), "image": c.Image}
	for k, v := range c.Labels {
		attributes[k] = v
	}
	for k, v := range more {
		attributes[k] = v
	}
	r.note(Event{Time: time.Now(), Type: "container", Action: action, ID: c.ID, Attributes: attributes})
}

// Event notes that something was done to a container by a command.
func (r Records) Event(c Config, action string, more map[string]string) { r.event(c, action, more) }

func (r Records) note(e Event) {
	line, err := json.Marshal(e)
	if err != nil {
		return
	}
	// One write of a whole line, at the end: many processes may do so.
	f, err := os.OpenFile(r.eventFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > maxEvents {
		_ = os.Rename(r.eventFile(), r.eventFile()+".1") // two may; then a few are lost
	}
	_, _ = f.Write(append(line, '\n'))
}

// Events calls emit for the events from since on, and with follow for those to
// come until done is closed or, if it is not zero, until is over.
func (r Records) Events(since, until time.Time, follow bool, done <-chan struct{}, emit func(Event) error) error {
	wanted := func(e Event) bool {
		return !e.Time.Before(since) && (until.IsZero() || !e.Time.After(until))
	}
	er := &eventReader{wanted: wanted, emit: emit}
	defer er.close()
	if !since.IsZero() {
		if err := er.whole(r.eventFile() + ".1"); err != nil {
			return err
		}
	}
	for {
		over := !follow || !until.IsZero() && time.Now().After(until)
		if err := er.read(r.eventFile()); err != nil {
			return err
		}
		if over {
			return nil
		}
		select {
		case <-done:
			return nil
		case <-time.After(pollLog):
		}
	}
}

type eventReader struct {
	wanted func(Event) bool
	emit   func(Event) error
	f      *os.File
	rest   []byte
}

func (e *eventReader) close() {
	if e.f != nil {
		e.f.Close()
	}
	e.f, e.rest = nil, nil
}

func (e *eventReader) whole(name string) error {
	err := e.read(name)
	e.close()
	return err
}

func (e *eventReader) read(name string) error {
	if e.f == nil {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		e.f = f
	}
	data, err := io.ReadAll(e.f)
	if err != nil {
		return err
	}
	e.rest = append(e.rest, data...)
	for {
		line, rest, ok := bytes.Cut(e.rest, []byte("\n"))
		if !ok {
			break
		}
		e.rest = rest
		var ev Event
		if json.Unmarshal(line, &ev) == nil && e.wanted(ev) {
			if err := e.emit(ev); err != nil {
				return err
			}
		}
	}
	// Another file may be in its place.
	if now, err := os.Stat(name); err == nil && len(data) == 0 {
		if mine, err := e.f.Stat(); err == nil && !os.SameFile(mine, now) {
			e.close()
		}
	}
	return nil
}
