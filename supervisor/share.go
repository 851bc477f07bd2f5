// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"builder/container"
	"builder/network"
)

// Join are containers whose namespaces another one shares, by ID; "" is none.
type Join struct {
	IPC string `json:"ipc,omitempty"`
	PID string `json:"pid,omitempty"`
	UTS string `json:"uts,omitempty"`
	// User is one whose user namespace it shares; Spec.IDs are the same.
	User string `json:"user,omitempty"`
	// Shareable says that others may share its IPC namespace.
	Shareable bool `json:"shareable,omitempty"`
}

// Needs are the IDs of containers that have to run before this one can start: those whose
// namespaces it shares, and those that it is linked to.
func (c *Config) Needs() (ids []string) {
	for _, id := range []string{c.Join.IPC, c.Join.PID, c.Join.UTS, c.Join.User} {
		if id != "" {
			ids = append(ids, id)
		}
	}
	if id, ok := strings.CutPrefix(c.NetworkMode, "container:"); ok {
		ids = append(ids, id)
	}
	if c.Endpoint != nil {
		for _, conn := range c.Endpoint.Connections {
			if conn.Network == network.Default { // on others they are names of whoever may come
				ids = slices.AppendSeq(ids, maps.Values(conn.Links))
			}
		}
	}
	return ids
}

// share gives the Spec the namespaces of other containers, which run. The files
// are to be closed once it has started.
func (h *holder) share(spec *container.Spec) (opened []*os.File, err error) {
	for _, s := range []struct {
		kind, id string
		to       *container.Sharing
	}{{"ipc", h.config.Join.IPC, &spec.IPC}, {"pid", h.config.Join.PID, &spec.PID}, {"uts", h.config.Join.UTS, &spec.UTS}} {
		if s.id == "" {
			continue
		}
		fail := func(err error) ([]*os.File, error) {
			closeAll(opened)
			return nil, fmt.Errorf("--%s container:%s: %w", s.kind, s.id, err)
		}
		c, err := h.records.Find(s.id)
		if err != nil {
			return fail(err)
		}
		if !c.State.Alive() {
			return fail(&NotRunningError{c.Name})
		}
		ns, err := container.OpenNamespace(c.State.Pid, c.State.PidStart, s.kind)
		if err != nil {
			return fail(err)
		}
		opened = append(opened, ns)
		*s.to = container.Sharing{With: container.ShareOther, NS: ns}
		if s.kind != "ipc" {
			continue
		}
		shm, err := container.SharedMemory(c.State.Pid, c.State.PidStart)
		if err != nil {
			return fail(errors.Join(errors.New("copy /dev/shm"), err))
		}
		if shm == nil {
			spec.NoShm = true
			continue
		}
		opened = append(opened, shm)
		spec.Shm = shm
	}
	return opened, nil
}
