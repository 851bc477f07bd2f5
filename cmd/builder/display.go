// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"sync"
	"time"

	"builder/progress"
)

// display opens the progress display on standard error.
func (e *env) display(mode string) (progress.Display, error) {
	if mode == "auto" || mode == "" {
		for _, name := range []string{"BUILDER_PROGRESS", "BUILDKIT_PROGRESS"} {
			if v := e.getenv(name); v != "" {
				mode = v
				break
			}
		}
	}
	d, err := progress.Auto(e.stderr, mode)
	if err != nil {
		return nil, &usageError{msg: "--progress: " + err.Error()}
	}
	return d, nil
}

// logger is where decisions are told with --debug.
func (e *env) logger() *slog.Logger {
	if !e.debug {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// vertex opens a display for a command that is one piece of work. done ends
// it, and returns the work's error or else the display's.
func (e *env) vertex(mode, name string) (done func(progress.Done) error, sink progress.Sink, err error) {
	display, err := e.display(mode)
	if err != nil {
		return nil, nil, err
	}
	display.Event(progress.Event{Vertex: name, Time: time.Now(), Start: &progress.Start{Name: name}})
	done = func(d progress.Done) error {
		display.Event(progress.Event{Vertex: name, Time: time.Now(), Done: &d})
		if err := display.Close(); d.Err == nil {
			return err
		}
		return d.Err
	}
	return done, display, nil
}

// lazyDisplay opens the progress display when there is something to show.
type lazyDisplay struct {
	open func() (progress.Display, error)
	d    progress.Display
	err  error
	once sync.Once
}

func (l *lazyDisplay) Event(ev progress.Event) {
	l.once.Do(func() { l.d, l.err = l.open() })
	if l.d != nil {
		l.d.Event(ev)
	}
}

func (l *lazyDisplay) close() error {
	if l.d == nil {
		return l.err
	}
	return l.d.Close()
}
