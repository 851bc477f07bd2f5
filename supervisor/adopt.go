// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/container"
)

// adopt takes over what an earlier monitor held when it was killed. What can't
// be taken over now, as the disk is full perhaps, is tried again.
func (m *Monitor) adopt(ctx context.Context) error {
	done, err := m.adoptAll()
	if done || err != nil {
		return err
	}
	m.busy.Add(1)
	go func() {
		defer m.release()
		for pause := firstPause; ; pause = min(2*pause, longestPause) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			if done, _ := m.adoptAll(); done { // what is left is told
				return
			}
		}
	}()
	return nil
}

// adoptAll takes over the containers that have no holder. done is false if there
// are some that could not be. They are noted in m.left.
func (m *Monitor) adoptAll() (done bool, err error) {
	m.adopting.Lock()
	defer m.adopting.Unlock()
	all, err := m.records.configs()
	if err != nil {
		return false, err
	}
	left := map[string]error{}
	for _, c := range all {
		if err := m.adoptOne(c); err != nil {
			left[c.ID] = fmt.Errorf("take over container %s: %w", c.Name, err)
		}
	}
	m.mu.Lock()
	before := m.left
	m.left = left
	m.mu.Unlock()
	for id, err := range left {
		if was := before[id]; was == nil || was.Error() != err.Error() {
			m.log(err.Error())
		}
	}
	if len(left) > 0 {
		return false, nil
	}
	m.mu.Lock()
	m.adopted = true
	m.mu.Unlock()
	m.kept.dropOthers()
	m.forgetExits()
	return true, nil
}

// takeOver tries anew to take over a container that could not be.
func (m *Monitor) takeOver(id string) error {
	m.mu.Lock()
	why := m.left[id]
	m.mu.Unlock()
	if why == nil {
		return nil
	}
	m.adopting.Lock()
	defer m.adopting.Unlock()
	c, err := m.records.load(id)
	if err == nil {
		err = m.adoptOne(c)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // else it was removed
		return fmt.Errorf("container %s can't be taken over: %w", id[:12], err)
	}
	m.mu.Lock()
	delete(m.left, id)
	m.mu.Unlock()
	return nil
}

// forgetExits removes what the keeper has noted and nobody waits for: of
// containers whose end is written down, and of orphans that were none.
func (m *Monitor) forgetExits() {
	dir := filepath.Dir(m.records.exitFile(0))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return
	}
	m.mu.Lock()
	held, adopted := slices.Collect(maps.Values(m.holders)), m.adopted
	m.mu.Unlock()
	if !adopted {
		return // some are for those that are not looked at yet
	}
	wanted := map[string]bool{}
	for _, h := range held {
		wanted[strconv.Itoa(h.current().Pid)] = true
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") { // being written, or left by a killed keeper
			if st, err := e.Info(); err != nil || time.Since(st.ModTime()) < time.Minute {
				continue
			}
		}
		if !wanted[e.Name()] {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// adoptOne takes over a container if it has no holder.
func (m *Monitor) adoptOne(c Config) error {
	if m.held(c.ID) != nil {
		return nil
	}
	st := m.records.readState(c.ID)
	switch {
	case st.Foreground && st.Alive(): // its holder is a command, or it has ended with it
		m.tell(c, m.records.EndOrphan(c))
		return nil
	case !st.Alive() && st.Status != Restarting:
		if c.AutoRemove && st.Status == Exited {
			m.tell(c, m.records.removeAbandoned(c.ID))
		}
		return nil
	}
	lock, err := m.records.lock(c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil { // somebody looks at it, perhaps, who is slow
		return err
	}
	st = m.records.readState(c.ID)
	if now, err := m.records.load(c.ID); err == nil {
		c = now // as it is now that nobody changes it
	}
	if !st.Alive() && st.Status != Restarting { // it has ended meanwhile
		return lock.Release()
	}
	h := newHolder(m.records, m.snaps, c, lock)
	h.warn, h.kept = m.log, m.kept
	if st.Alive() && st.processLives() {
		err := h.takeOver(st)
		if err == nil {
			m.add(h, h.hold)
			return nil
		}
		if !errors.Is(err, container.ErrGone) { // it has just ended
			return errors.Join(err, lock.Release())
		}
	}
	again, err := m.adoptEnded(h, st)
	if err != nil {
		return errors.Join(err, lock.Release())
	}
	if again {
		m.add(h, func() {
			if h.restart() {
				h.hold()
			}
		})
		return nil
	}
	h.release()
	return nil
}

// tell logs what is nobody's concern later.
func (m *Monitor) tell(c Config, err error) {
	if err != nil && !errors.Is(err, ErrRunning) {
		m.log(fmt.Sprintf("container %s: %v", c.Name, err))
	}
}

// adoptEnded takes what a container has left that has ended without a holder, and
// says whether it is to be started again. After an error it can be repeated.
func (m *Monitor) adoptEnded(h *holder, st State) (again bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = st
	if st.Alive() {
		removeGroups(h.config) // with what is left of its processes
		if err := h.drain(); err != nil {
			return false, err
		}
		h.state = m.records.abandonedState(st)
		m.tell(h.config, m.records.networks.Drop(h.config.ID))
	}
	// One word, so that a kill in between leaves nothing half said.
	again = (h.config.Restart.wants(h.state) || h.config.renews(st)) && !h.state.Stopped
	h.state.Status = Exited
	h.last, h.resting, h.over = h.state, again, !again
	if again {
		h.state.Status = Restarting
	}
	if err := h.records.saveState(h.config.ID, h.state); err != nil {
		return false, err
	}
	h.kept.drop(h.config)
	if st.Alive() {
		h.tellEnd(placeEvents(h.config, st.Network, "disconnect", "unmount"))
	}
	return again, nil
}

func (m *Monitor) add(h *holder, run func()) {
	m.mu.Lock()
	m.holders[h.config.ID] = h
	m.mu.Unlock()
	go func() {
		defer m.drop(h)
		defer close(h.ended)
		defer h.release()
		run()
	}()
}
