// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The output of a container is kept in segments, numbered from 1:
//
//	log/N.1, log/N.2  the bytes of standard output and standard error
//	log/N             16 bytes for each piece: nanoseconds since 1970, which of
//	                  the two, and how many bytes; in the machine's byte order
//
// The bytes go from the container's pipe to the file by splice(2), in one step
// that a kill can't cut in two: none is lost and none is written twice. What
// was moved and not entered before a kill is entered by the next writer.
const (
	entrySize = 16

	defaultLogSize  = 16 << 20
	defaultLogFiles = 4
)

// Stream is one of a process's two outputs.
type Stream uint32

// The streams.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// logWriter appends to a container's log. Its methods may be called from
// several goroutines.
type logWriter struct {
	dir      string
	maxSize  int64
	maxFiles int

	mu      sync.Mutex
	segment int
	index   *os.File
	files   [3]*os.File // by stream
	size    int64
	lost    int64 // bytes that could not be written
}

// openLog opens the log in dir to write to, making it if it isn't there.
func openLog(dir string, c LogConfig) (*logWriter, error) {
	w := &logWriter{dir: dir, maxSize: c.MaxSize, maxFiles: c.MaxFile}
	if w.maxSize == 0 {
		w.maxSize = defaultLogSize
	}
	if w.maxFiles == 0 {
		w.maxFiles = defaultLogFiles
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	segments, err := logSegments(dir)
	if err != nil {
		return nil, err
	}
	w.segment = 1
	if n := len(segments); n > 0 {
		w.segment = segments[n-1]
	}
	if err := w.open(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// logSegments are the numbers of a log's segments, in order.
func logSegments(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

func segmentName(dir string, segment int, s Stream) string {
	name := filepath.Join(dir, strconv.Itoa(segment))
	if s == 0 {
		return name
	}
	return name + "." + strconv.Itoa(int(s))
}

// open opens the files of the current segment at their ends, and enters what a
// killed writer didn't.
func (w *logWriter) open() error {
	index, err := os.OpenFile(segmentName(w.dir, w.segment, 0), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	w.index, w.size = index, 0
	data, err := io.ReadAll(index)
	if err != nil {
		return err
	}
	if tail := len(data) % entrySize; tail != 0 { // cut by a power cut
		data = data[:len(data)-tail]
		if err := index.Truncate(int64(len(data))); err != nil {
			return err
		}
		if _, err := index.Seek(0, io.SeekEnd); err != nil {
			return err
		}
	}
	var known [3]int64
	for at := 0; at < len(data); at += entrySize {
		e := decodeEntry(data[at:])
		if e.stream == Stdout || e.stream == Stderr {
			known[e.stream] += int64(e.n)
		}
	}
	for _, s := range []Stream{Stdout, Stderr} {
		f, err := os.OpenFile(segmentName(w.dir, w.segment, s), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		w.files[s] = f
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		w.size += end
		if more := end - known[s]; more > 0 {
			if err := w.enter(s, more); err != nil {
				return err
			}
		}
	}
	return nil
}

type entry struct {
	time   int64
	stream Stream
	n      uint32
}

func decodeEntry(b []byte) entry {
	return entry{int64(binary.NativeEndian.Uint64(b)), Stream(binary.NativeEndian.Uint32(b[8:])), binary.NativeEndian.Uint32(b[12:])}
}

func (w *logWriter) enter(s Stream, n int64) error {
	var b [entrySize]byte
	binary.NativeEndian.PutUint64(b[:], uint64(time.Now().UnixNano()))
	binary.NativeEndian.PutUint32(b[8:], uint32(s))
	binary.NativeEndian.PutUint32(b[12:], uint32(n))
	_, err := w.index.Write(b[:])
	return err
}

// Write appends bytes. An error of the disk loses them and nothing else: a
// container doesn't stand still because its log can't be kept.
func (w *logWriter) Write(s Stream, b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.files[s].Write(b)
	w.written(s, int64(n), int64(len(b)), err)
}

// splice moves up to most bytes that a pipe holds to the log, and returns how
// many. 0 with no error is the pipe's end; EAGAIN says that it is empty.
func (w *logWriter) splice(s Stream, pipe uintptr, most int) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		n, err := syscall.Splice(int(pipe), nil, int(w.files[s].Fd()), nil, most, spliceNonblock|spliceMove)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return 0, err
		case err != nil:
			return w.discard(s, pipe, most)
		case n > 0:
			w.written(s, n, n, nil)
		}
		return n, nil
	}
}

const (
	spliceMove     = 1
	spliceNonblock = 2
)

// discard reads what can't be written.
func (w *logWriter) discard(s Stream, pipe uintptr, most int) (int64, error) {
	buf := make([]byte, min(most, 64<<10))
	n, err := syscall.Read(int(pipe), buf)
	if n > 0 {
		m, werr := w.files[s].Write(buf[:n]) // the pipe may be what can't be spliced
		w.written(s, int64(m), int64(n), werr)
	}
	return int64(max(n, 0)), err
}

func (w *logWriter) written(s Stream, n, wanted int64, err error) {
	w.lost += wanted - n
	w.size += n
	if n > 0 && w.enter(s, n) != nil {
		return // the next writer enters it
	}
	if err == nil && w.maxSize > 0 && w.size >= w.maxSize {
		w.rotate()
	}
}

// rotate begins a new segment and removes the oldest. If that fails the old one
// grows.
func (w *logWriter) rotate() {
	old := append(w.files[:], w.index)
	next := &logWriter{dir: w.dir, segment: w.segment + 1}
	if next.open() != nil {
		next.closeFiles()
		return
	}
	w.segment, w.index, w.files, w.size = next.segment, next.index, next.files, next.size
	closeAll(old)
	for n := w.segment - w.maxFiles; n > 0; n-- {
		if os.Remove(segmentName(w.dir, n, 0)) != nil {
			break
		}
		for _, s := range []Stream{Stdout, Stderr} {
			_ = os.Remove(segmentName(w.dir, n, s))
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

func (w *logWriter) closeFiles() { closeAll(append(w.files[:], w.index)) }

// Close closes the files. It says how much of the output is not in them.
func (w *logWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closeFiles()
	if w.lost > 0 {
		return fmt.Errorf("%d bytes of output could not be written to the log", w.lost)
	}
	return nil
}

// A Line is a line of a container's output, with its end if it has one.
type Line struct {
	Time   time.Time
	Stream Stream
	Text   []byte
}

// LogOptions say which lines are wanted.
type LogOptions struct {
	Since, Until time.Time // zero for any
	Tail         int       // only the last ones, negative for all
	Follow       bool      // and those to come, until the container ends
}

// Logs calls emit for each line of a container's output that is wanted. The
// text is good only during the call. It ends when the log does or, if it
// follows, when the container has ended or Until has come; or with ctx or an error of emit.
func (r Records) Logs(c Config, opts LogOptions, done <-chan struct{}, emit func(Line) error) error {
	if c.Log.Driver == "none" {
		return fmt.Errorf("container %s keeps no log: it was made with --log-driver none", c.Name)
	}
	lr := &logReader{dir: filepath.Join(r.Dir(c.ID), "log"), opts: opts, emit: emit}
	defer lr.close()
	if opts.Tail >= 0 {
		lr.ring = make([]Line, 0, min(opts.Tail, 1024))
		lr.tail = true
	}
	for {
		// Asked before reading: what was written until its end is then read.
		over := !opts.Follow || !opts.Until.IsZero() && time.Now().After(opts.Until) || !r.State(c.ID).Alive() && !r.held(c.ID) && !r.awaited(c.ID)
		if err := lr.read(); err != nil {
			return err
		}
		if over {
			return lr.flush()
		}
		if err := lr.endTail(); err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-time.After(pollLog):
		}
	}
}

// pollLog is how often a log that is followed is looked at.
const pollLog = 30 * time.Millisecond

type logReader struct {
	dir  string
	opts LogOptions
	emit func(Line) error

	segment int
	index   *os.File
	files   [3]*os.File
	rest    []byte  // of an entry that is half there
	part    [3]Line // lines without an end
	tail    bool    // lines are collected in ring
	ring    []Line  // the last ones
	first   int     // of ring, once it is full
}

// read reads what there is.
func (l *logReader) read() error {
	for {
		if l.index == nil {
			ok, err := l.open()
			if err != nil || !ok {
				return err
			}
		}
		buf := make([]byte, 64*entrySize)
		n, err := l.index.Read(buf)
		if n == 0 {
			if err != nil && err != io.EOF {
				return err
			}
			more, err := l.next()
			if err != nil || !more {
				return err
			}
			continue
		}
		b := append(l.rest, buf[:n]...)
		for len(b) >= entrySize {
			if err := l.piece(decodeEntry(b)); err != nil {
				return err
			}
			b = b[entrySize:]
		}
		l.rest = slices.Clone(b)
	}
}

// open opens the first segment that hasn't been read.
func (l *logReader) open() (bool, error) {
	for {
		segments, err := logSegments(l.dir)
		if err != nil {
			return false, err
		}
		i, _ := slices.BinarySearch(segments, l.segment+1)
		if i == len(segments) {
			return false, nil
		}
		index, err := os.Open(segmentName(l.dir, segments[i], 0))
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotated away
		}
		if err != nil {
			return false, err
		}
		l.segment, l.index, l.rest = segments[i], index, nil
		return true, nil
	}
}

// next goes to the next segment, if there is one: then the present one has got
// its last entry.
func (l *logReader) next() (bool, error) {
	segments, err := logSegments(l.dir)
	if err != nil || len(segments) == 0 || segments[len(segments)-1] <= l.segment {
		return false, err
	}
	// An entry may have come between the last look and this one.
	at, err := l.index.Seek(0, io.SeekCurrent)
	if err != nil {
		return false, err
	}
	if st, err := l.index.Stat(); err != nil || st.Size() > at {
		return err == nil, err
	}
	l.close()
	return true, nil
}

func (l *logReader) close() {
	closeAll(append(l.files[:], l.index))
	l.index, l.files = nil, [3]*os.File{}
}

// piece reads the bytes of an entry and makes lines of them.
func (l *logReader) piece(e entry) error {
	if e.stream != Stdout && e.stream != Stderr {
		return fmt.Errorf("%s: the log is damaged", segmentName(l.dir, l.segment, 0))
	}
	if l.files[e.stream] == nil {
		f, err := os.Open(segmentName(l.dir, l.segment, e.stream))
		if err != nil {
			return err
		}
		l.files[e.stream] = f
	}
	b := make([]byte, e.n)
	n, err := io.ReadFull(l.files[e.stream], b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return err
	}
	part := &l.part[e.stream]
	for line := range strings.Lines(string(b[:n])) {
		if len(part.Text) == 0 {
			part.Time, part.Stream = time.Unix(0, e.time), e.stream
		}
		part.Text = append(part.Text, line...)
		if strings.HasSuffix(line, "\n") || len(part.Text) >= maxLine {
			if err := l.line(*part); err != nil {
				return err
			}
			*part = Line{}
		}
	}
	return nil
}

// maxLine is where a line is cut in two.
const maxLine = 1 << 20

func (l *logReader) line(line Line) error {
	if !l.opts.Since.IsZero() && line.Time.Before(l.opts.Since) || !l.opts.Until.IsZero() && line.Time.After(l.opts.Until) {
		return nil
	}
	switch {
	case !l.tail:
		return l.emit(line)
	case l.opts.Tail == 0:
	case len(l.ring) < l.opts.Tail:
		l.ring = append(l.ring, line)
	default:
		l.ring[l.first] = line
		l.first = (l.first + 1) % l.opts.Tail
	}
	return nil
}

// endTail emits the lines that were collected; those to come are all emitted.
func (l *logReader) endTail() error {
	if !l.tail {
		return nil
	}
	l.tail = false
	for i := range l.ring {
		if err := l.emit(l.ring[(l.first+i)%len(l.ring)]); err != nil {
			return err
		}
	}
	l.ring = nil
	return nil
}

// flush emits lines that have no end.
func (l *logReader) flush() error {
	for _, s := range []Stream{Stdout, Stderr} {
		if len(l.part[s].Text) > 0 {
			if err := l.line(l.part[s]); err != nil {
				return err
			}
			l.part[s] = Line{}
		}
	}
	return l.endTail()
}
