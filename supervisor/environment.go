// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"os"
	"slices"
	"strings"

	"builder/container"
)

// Environment is what a process of a container has: docker's HOSTNAME, with a
// terminal its TERM, and what image and user say, which goes before these two.
// They are no part of the container's Config, and so of no image made of it. One that
// is named there without a value isn't set.
func (r Records) Environment(c Config, tty bool) []string {
	var out []string
	add := func(name, value string) {
		if value != "" && !slices.ContainsFunc(c.Spec.Env, func(v string) bool { return v == name || strings.HasPrefix(v, name+"=") }) {
			out = append(out, name+"="+value)
		}
	}
	add("HOSTNAME", r.hostname(c))
	if tty {
		add("TERM", "xterm")
	}
	return append(out, c.Spec.Env...)
}

// hostname is the name of the host that a container sees when it starts, "" if
// that can't be told.
func (r Records) hostname(c Config) string {
	other, joined := strings.CutPrefix(c.NetworkMode, "container:")
	switch {
	case c.Spec.UTS.With == container.ShareHost:
		name, _ := os.Hostname()
		return name
	case c.Spec.UTS.With == container.ShareOther:
		other, joined = c.Join.UTS, true
	case c.Spec.Hostname != "":
		return c.Spec.Hostname
	case c.NetworkMode == string(container.NetworkHost):
		name, _ := os.Hostname()
		return name
	}
	if !joined {
		return c.ID[:12]
	}
	found, err := r.find(other)
	if err != nil || found.ID == c.ID {
		return ""
	}
	return r.hostname(found)
}
