// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"builder/internal/quickjson"
	"builder/network"
)

// Event is something that happened to a container, or to an image, a network or a
// volume.
type Event struct {
	Time       time.Time         `json:"time"`
	Type       string            `json:"type"`       // container, image, network, volume
	Action     string            `json:"action"`     // create, start, die, …: docker's words
	ID         string            `json:"id"`         // a volume's is its name
	Attributes map[string]string `json:"attributes"` // name, image, labels, and what the action adds
}

// Types of events.
const (
	ContainerEvent = "container"
	ImageEvent     = "image"
	NetworkEvent   = "network"
	VolumeEvent    = "volume"
)

// maxEvents is the size at which a new file of events is begun; the one before
// is kept.
const maxEvents = 4 << 20

func (r Records) eventFile() string { return r.s.Path("events") }

// containerEvent is an event of a container.
func (r Records) containerEvent(c Config, action string, more map[string]string) Event {
	attributes := map[string]string{"name": r.nameOf(c), "image": c.Image}
	for k, v := range c.Labels {
		attributes[k] = v
	}
	for k, v := range more {
		attributes[k] = v
	}
	return Event{Type: ContainerEvent, Action: action, ID: c.ID, Attributes: attributes}
}

// event notes an event of a container.
func (r Records) event(c Config, action string, more map[string]string) {
	r.Note(r.containerEvent(c, action, more))
}

// Event notes that something was done to a container by a command.
func (r Records) Event(c Config, action string, more map[string]string) { r.event(c, action, more) }

// placeEvents are those of the networks and volumes that a container comes to by its
// start, or leaves by its end.
func placeEvents(c Config, att *network.Attachment, networks, volumes string) (out []Event) {
	if att != nil {
		for _, on := range att.Connected {
			out = append(out, networkEvent(on.Network, on.ID, networks, c.ID))
		}
	}
	for _, m := range c.Mounts {
		if m.Type != MountVolume {
			continue
		}
		attributes := map[string]string{"driver": "local", "container": c.ID}
		if volumes == "mount" {
			attributes["destination"] = m.Target
			attributes["read/write"] = strconv.FormatBool(!m.ReadOnly)
			attributes["propagation"] = m.Propagation
		}
		out = append(out, Event{Type: VolumeEvent, Action: volumes, ID: m.Source, Attributes: attributes})
	}
	return out
}

func networkEvent(name, id, action, container string) Event {
	return Event{Type: NetworkEvent, Action: action, ID: id, Attributes: map[string]string{"name": name, "type": "bridge", "container": container}}
}

// Note notes events that happen now, in their order. What can't be written is not
// known: nothing else depends on it.
func (r Records) Note(events ...Event) {
	var lines []byte
	for _, e := range events {
		e.Time = time.Now()
		line, err := quickjson.Marshal(e)
		if err != nil {
			return
		}
		lines = append(append(lines, line...), '\n')
	}
	// One write of whole lines, at the end: many processes may do so.
	f, err := os.OpenFile(r.eventFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > maxEvents {
		_ = os.Rename(r.eventFile(), r.eventFile()+".1") // two may; then a few are lost
	}
	_, _ = f.Write(lines)
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
