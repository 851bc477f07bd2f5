// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"

	"builder/container"
)

// Changes are what can be changed of a container that has been made. What is
// zero stays.
type Changes struct {
	Resources container.Resources `json:"resources"`
	Restart   *Restart            `json:"restart,omitempty"`
}

// check says why the changes can't be made to a container.
func (ch *Changes) check(c *Config) error {
	if ch.Restart != nil && c.AutoRemove && ch.Restart.Name != RestartNo {
		return fmt.Errorf("container %s removes itself at its end: it can't be started again", c.Name)
	}
	if err := container.CheckResources(c.Spec.Resources.Over(ch.Resources)); err != nil {
		return fmt.Errorf("container %s: with the bounds that it has: %w", c.Name, err)
	}
	return nil
}

func (ch *Changes) apply(c *Config) {
	c.Spec.Resources = c.Spec.Resources.Over(ch.Resources)
	if ch.Restart != nil {
		c.Restart = *ch.Restart
	}
}

// change changes the container's record and what the holder knows of it. h.mu is
// held.
func (h *holder) change(change func(*Config)) error {
	err := h.records.Change(h.config.ID, change)
	if err == nil {
		change(&h.config)
	}
	return err
}

// update makes changes to the running container and to its record.
func (h *holder) update(ch *Changes) (warnings []string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ch == nil {
		return nil, errors.New("an update without changes")
	}
	if err := ch.check(&h.config); err != nil {
		return nil, err
	}
	if h.process != nil {
		warn := func(msg string) { warnings = append(warnings, msg) }
		if err := h.process.Update(h.config.Spec.Resources.Over(ch.Resources), warn); err != nil {
			return warnings, fmt.Errorf("container %s: %w", h.config.Name, err)
		}
	}
	if err := h.change(ch.apply); err != nil {
		return warnings, err
	}
	h.records.event(h.config, "update", nil)
	return warnings, nil
}

// Update changes a container, at once if it runs.
func (cl *Client) Update(ctx context.Context, c Config, ch Changes) (warnings []string, err error) {
	nc, resp, err := cl.request(ctx, c, request{Op: "update", Changes: &ch}, false)
	if err == nil {
		return resp.Warnings, nc.Close()
	}
	var not *NotRunningError
	if !errors.As(err, &not) {
		return resp.Warnings, err
	}
	lock, err := cl.Records.lock(c)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	var wrong error
	err = cl.Records.Change(c.ID, func(now *Config) {
		if wrong = ch.check(now); wrong == nil {
			ch.apply(now)
		}
	})
	if err := errors.Join(wrong, err); err != nil {
		return nil, err
	}
	cl.Records.event(c, "update", nil)
	return nil, nil
}
