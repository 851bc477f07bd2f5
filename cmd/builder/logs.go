// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/supervisor"
)

func runLogs(ctx context.Context, e *env, args []string) error {
	fs := flags("logs")
	follow := fs.BoolP("follow", "f", false, "go on until the container ends")
	stamps := fs.BoolP("timestamps", "t", false, "show when each line was written")
	details := fs.Bool("details", false, "show the container's labels with each line")
	sinceText := fs.String("since", "", "only lines since a `TIME`, such as 2006-01-02T15:04:05, or a duration ago, such as 10m")
	untilText := fs.String("until", "", "only lines until a `TIME`")
	tail := fs.StringP("tail", "n", "all", "only the last `N` lines")
	words, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	opts := supervisor.LogOptions{Follow: *follow, Tail: -1}
	if opts.Since, err = parseTimeFlag("since", *sinceText); err != nil {
		return err
	}
	if *untilText == "0" { // as docker has it: without an end
		*untilText = ""
	}
	if opts.Until, err = parseTimeFlag("until", *untilText); err != nil {
		return err
	}
	if *tail != "all" {
		if opts.Tail, err = strconv.Atoi(*tail); err != nil {
			return &usageError{msg: fmt.Sprintf("logs: --tail %q: want a number, or all", *tail)}
		}
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	records := supervisor.NewRecords(s)
	c, err := e.find(ctx, records, words[0])
	if err != nil {
		return err
	}
	if err := s.Leave(); err != nil { // it may follow for long
		return err
	}
	prefix := ""
	if *details {
		prefix = labelText(c.Labels) + " "
	}
	return records.Logs(c.Config, opts, ctx.Done(), func(l supervisor.Line) error {
		to := e.stdout
		if l.Stream == supervisor.Stderr {
			to = e.stderr
		}
		text := l.Text
		if *stamps || prefix != "" {
			head := prefix
			if *stamps {
				head = l.Time.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") + " " + head
			}
			text = append([]byte(head), text...)
		}
		_, err := to.Write(text)
		return err
	})
}

func labelText(labels map[string]string) string {
	var words []string
	for k, v := range labels {
		words = append(words, k+"="+v)
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

func parseTimeFlag(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := parseTime(text)
	if err != nil {
		return t, &usageError{msg: fmt.Sprintf("--%s %q: want a time such as 2006-01-02T15:04:05 or a duration such as 24h", flag, text)}
	}
	return t, nil
}

// runEvents shows what happens to containers.
func runEvents(ctx context.Context, e *env, args []string) error {
	fs := flags("events")
	sinceText := fs.String("since", "", "show events since a `TIME` too")
	untilText := fs.String("until", "", "end at a `TIME`")
	filters := fs.StringArrayP("filter", "f", nil, "only those of a `NAME=VALUE`: container, event, image, label, network, type, volume")
	format := fs.String("format", "", "a Go template, or `json`")
	stream := fs.Bool("stream", true, "go on showing events; false: end after those that were")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	from, err := parseTimeFlag("since", *sinceText)
	if err != nil {
		return err
	}
	until, err := parseTimeFlag("until", *untilText)
	if err != nil {
		return err
	}
	if !until.IsZero() && from.After(until) {
		return &usageError{msg: fmt.Sprintf("events: --since %s is after --until %s", *sinceText, *untilText)}
	}
	if *sinceText == "" && *untilText == "" && *stream {
		from = time.Now()
	}
	match, err := parseEventFilters(*filters)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	records := supervisor.NewRecords(s)
	if err := s.Leave(); err != nil {
		return err
	}
	show, err := eventFormat(*format)
	if err != nil {
		return err
	}
	follow := *stream && (until.IsZero() || until.After(time.Now()))
	return records.Events(from, until, follow, ctx.Done(), func(ev supervisor.Event) error {
		if !match(ev) {
			return nil
		}
		text, err := show(ev)
		if err == nil {
			_, err = fmt.Fprintln(e.stdout, text)
		}
		return err
	})
}

// eventRow is what a --format of events can show, and its JSON form: docker's
// and podman's names.
type eventRow struct {
	Time     int64      `json:"time"`
	TimeNano int64      `json:"timeNano"`
	Type     string     `json:"Type"`
	Action   string     `json:"Action"`
	Status   string     `json:"status"`
	ID       string     `json:"id"`
	From     string     `json:"from"`
	Actor    eventActor `json:"Actor"`
	Scope    string     `json:"scope"`
}

type eventActor struct {
	ID         string
	Attributes map[string]string
}

func eventFormat(format string) (func(supervisor.Event) (string, error), error) {
	row := func(ev supervisor.Event) eventRow {
		return eventRow{
			Time: ev.Time.Unix(), TimeNano: ev.Time.UnixNano(), Type: ev.Type, Action: ev.Action, Status: ev.Action, ID: ev.ID,
			From: ev.Attributes["image"], Actor: eventActor{ev.ID, ev.Attributes}, Scope: "local",
		}
	}
	switch format {
	case "":
		return func(ev supervisor.Event) (string, error) {
			var words []string
			for k, v := range ev.Attributes {
				words = append(words, k+"="+v)
			}
			slices.Sort(words)
			return fmt.Sprintf("%s %s %s %s (%s)", ev.Time.Local().Format("2006-01-02T15:04:05.000000000Z07:00"), ev.Type, ev.Action, ev.ID, strings.Join(words, ", ")), nil
		}, nil
	case "json":
		format = "{{json .}}"
	}
	tmpl, err := parseTemplate(format)
	if err != nil {
		return nil, err
	}
	show := func(ev supervisor.Event) (string, error) {
		var b strings.Builder
		err := tmpl.Execute(&b, row(ev))
		return b.String(), err
	}
	_, err = show(supervisor.Event{}) // what no event has is told before there is one
	return show, err
}

func parseEventFilters(words []string) (func(supervisor.Event) bool, error) {
	groups := map[string][]func(supervisor.Event) bool{}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		var f func(supervisor.Event) bool
		switch {
		case !ok:
			return nil, &usageError{msg: fmt.Sprintf("--filter %q: want NAME=VALUE", w)}
		case name == "container":
			f = func(ev supervisor.Event) bool {
				return ev.Type == supervisor.ContainerEvent && (ev.Attributes["name"] == value || strings.HasPrefix(ev.ID, value))
			}
		case name == "event":
			f = func(ev supervisor.Event) bool { return ev.Action == value || strings.HasPrefix(ev.Action, value+":") }
		case name == "type":
			f = func(ev supervisor.Event) bool { return ev.Type == value }
		case name == "image":
			f = func(ev supervisor.Event) bool {
				if ev.Type == supervisor.ImageEvent {
					return ev.Attributes["name"] == familiarName(value) || ev.ID == value || strings.HasPrefix(strings.TrimPrefix(ev.ID, "sha256:"), value)
				}
				return familiarName(ev.Attributes["image"]) == familiarName(value)
			}
		case name == "network" || name == "volume":
			kind := name
			f = func(ev supervisor.Event) bool {
				return ev.Type == kind && (ev.Attributes["name"] == value || strings.HasPrefix(ev.ID, value))
			}
		case name == "scope":
			f = func(supervisor.Event) bool { return value == "local" }
		case name == "label":
			key, want, exact := strings.Cut(value, "=")
			f = func(ev supervisor.Event) bool {
				got, ok := ev.Attributes[key]
				return ok && (!exact || got == want)
			}
		default:
			return nil, &usageError{msg: fmt.Sprintf("--filter %s: there is no such filter; there are container, event, image, label, network, scope, type and volume", w)}
		}
		groups[name] = append(groups[name], f)
	}
	return func(ev supervisor.Event) bool {
		for _, group := range groups {
			if !slices.ContainsFunc(group, func(f func(supervisor.Event) bool) bool { return f(ev) }) {
				return false
			}
		}
		return true
	}, nil
}
