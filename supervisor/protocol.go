// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"builder/network"
)

// The holder of containers serves requests on a socket, one for a connection:
// a line of JSON, which is answered by a line of JSON. After the answer to
// start and attach, frames follow in both directions if the request says so.
//
// The socket lies in a directory that only the user may enter: who can open it
// is the user or root.

// request is what is asked of a holder.
type request struct {
	Op     string        `json:"op"` // start start-in-user-namespace attach stop kill restart pause unpause resize wait connect disconnect update ping
	ID     string        `json:"id"` // whole
	Signal int           `json:"signal,omitempty"`
	Grace  time.Duration `json:"grace,omitempty"` // negative: for ever
	// Repeated says that it was asked before, of a monitor that was killed: it may
	// have been carried out.
	Repeated bool `json:"repeated,omitempty"`
	// Shutdown is that of [Client.ShutDown].
	Shutdown bool        `json:"shutdown,omitempty"`
	Attach   *attachment `json:"attach,omitempty"`
	Width    uint16      `json:"width,omitempty"`
	Height   uint16      `json:"height,omitempty"`

	Connection *network.Connection `json:"connection,omitempty"` // of connect and disconnect
	Changes    *Changes            `json:"changes,omitempty"`    // of update
}

// Requests to start a container. One in a user namespace is asked for by another
// word: a monitor that doesn't know of these would start it without.
const (
	opStart       = "start"
	opStartMapped = "start-in-user-namespace"
)

// starts says whether a container runs anew by it.
func (r *request) starts() bool {
	return r.Op == opStart || r.Op == opStartMapped || r.Op == "restart"
}

// attachment says what of a container's streams is wanted.
type attachment struct {
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// response is the answer.
type response struct {
	Error    string   `json:"error,omitempty"`
	Code     int      `json:"code,omitempty"` // exit code for the error, of a start
	NotHeld  bool     `json:"notHeld,omitempty"`
	Running  bool     `json:"running,omitempty"` // the error is [ErrRunning]
	Warnings []string `json:"warnings,omitempty"`
	State    *State   `json:"state,omitempty"`
}

// Kinds of frames. A frame is its kind, the length of what follows in four
// bytes, the most significant first, and that.
const (
	frameStdout = 1 // from the holder: output
	frameStderr = 2
	frameEnd    = 3 // from the holder, the last: the State as JSON
	frameStdin  = 4 // from the client: input
	frameEOF    = 5 // from the client: the end of the input
	frameResize = 6 // from the client: width and height of the terminal, two bytes each
	frameSignal = 7 // from the client: a signal's number, one byte
)

// maxFrame bounds a frame.
const maxFrame = 1 << 20

// conn is one end of a connection.
type conn struct {
	net.Conn
	r  *bufio.Reader
	mu sync.Mutex // for writing frames
}

func newConn(c net.Conn) *conn { return &conn{Conn: c, r: bufio.NewReaderSize(c, 4<<10)} }

func (c *conn) writeJSON(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.Write(append(data, '\n'))
	return err
}

func (c *conn) readJSON(v any) error {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return json.Unmarshal(line, v)
		}
		if !errors.Is(err, bufio.ErrBufferFull) || len(line) > maxFrame {
			return err
		}
	}
}

func (c *conn) writeFrame(kind byte, b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		n := min(len(b), maxFrame)
		head := [5]byte{kind}
		binary.BigEndian.PutUint32(head[1:], uint32(n))
		bufs := net.Buffers{head[:], b[:n]}
		if _, err := bufs.WriteTo(c.Conn); err != nil {
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
	}
}

// frameWriter writes frames of a kind.
type frameWriter struct {
	c    *conn
	kind byte
}

func (w frameWriter) Write(b []byte) (int, error) {
	if err := w.c.writeFrame(w.kind, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *conn) readFrame(buf []byte) (kind byte, b []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err = io.ReadFull(c.r, buf)
	return head[0], buf, err
}
