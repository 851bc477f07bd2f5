// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"fmt"
	"os"

	"builder/container"
	"builder/internal/sys"
	"builder/mount"
)

// namespaces are what a container in a user namespace starts with. They are to
// be closed once it has started.
type namespaces struct{ user, net *os.File }

func (n namespaces) close() {
	for _, f := range []*os.File{n.user, n.net} {
		if f != nil {
			f.Close()
		}
	}
}

// ShowsOwners says whether the files of a container in a user namespace are on
// disk with the owners that it sees, and shown by the namespace: only the
// machine's root can do that. Else they are there with what these ids are outside
// of it.
func ShowsOwners() bool { return !sys.InUserNamespace() }

// shownBy is the namespace that shows owners, nil for as they are.
func shownBy(ns *mount.UserNS) *mount.UserNS {
	if ShowsOwners() {
		return ns
	}
	return nil
}

// userNamespace gives the Spec the user namespace that it asks for, its own or
// that of another container, which runs.
func (h *holder) userNamespace(spec *container.Spec) (out namespaces, err error) {
	if spec.IDs.IsZero() {
		return out, nil
	}
	var other *os.File
	if id := h.config.Join.User; id != "" {
		c, err := h.records.Find(id)
		if err == nil && !c.State.Alive() {
			err = &NotRunningError{c.Name}
		}
		if err == nil {
			other, err = container.OpenNamespace(c.State.Pid, c.State.PidStart, "user")
		}
		if err != nil {
			return out, fmt.Errorf("--userns container:%s: %w", id, err)
		}
		defer other.Close()
	}
	spec.UserNS, out.net, err = container.NewUserNamespace(spec.IDs, other)
	if err != nil {
		return out, err
	}
	out.user = spec.UserNS.File
	return out, nil
}
