// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"builder/container"
	"builder/supervisor"
)

// runTop shows the processes of a container, as the machine's ps shows them.
func runTop(ctx context.Context, e *env, args []string) error {
	fs := flags("top")
	fs.SetInterspersed(false)
	words, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	c, err := e.find(ctx, supervisor.NewRecords(s), words[0])
	if err != nil {
		return err
	}
	if !c.State.Alive() {
		return fmt.Errorf("container %s is not running", c.Name)
	}
	groups, err := container.OpenGroups()
	if err != nil {
		return err
	}
	g, err := findGroup(groups, c)
	if err != nil {
		return err
	}
	defer g.Close()
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	options := words[1:]
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := listProcesses(ctx, options, pids)
	if err != nil {
		return err
	}
	supervisor.NewRecords(s).Event(c.Config, "top", nil)
	rows, err := processRows(out, pids)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(e.stdout, 20, 1, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

// findGroup is the group of all processes of a container that runs.
func findGroup(groups container.Groups, c supervisor.Container) (container.Group, error) {
	spec := c.Spec
	spec.ID = c.ID
	if c.State.Network != nil {
		spec.Network = container.NetworkPrivate
	}
	return groups.Find(&spec, c.State.Pid)
}

// listProcesses runs ps: for the processes alone if its options allow that.
func listProcesses(ctx context.Context, options []string, pids []int) ([]byte, error) {
	if _, err := exec.LookPath("ps"); err != nil {
		return nil, errors.New("top shows what ps shows, and this machine has no ps: install procps")
	}
	list := make([]string, len(pids))
	for i, pid := range pids {
		list[i] = strconv.Itoa(pid)
	}
	only := exec.CommandContext(ctx, "ps", append(slices.Clone(options), "-q"+strings.Join(list, ","))...)
	if out, err := only.Output(); err == nil {
		return out, nil
	}
	var stderr bytes.Buffer
	all := exec.CommandContext(ctx, "ps", options...)
	all.Stderr = &stderr
	out, err := all.Output()
	if err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return nil, fmt.Errorf("ps %s: %w: %s", strings.Join(options, " "), err, first)
	}
	return out, nil
}

// processRows are the header and the lines of ps about some processes, by
// columns; the last one may have spaces in it.
func processRows(out []byte, pids []int) ([][]string, error) {
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	header := strings.Fields(lines[0])
	at := slices.Index(header, "PID")
	if at < 0 {
		return nil, errors.New("ps shows no column PID: give it options that have one, as -o pid,comm")
	}
	rows := [][]string{header}
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) < len(header) {
			continue
		}
		if pid, err := strconv.Atoi(fields[at]); err != nil || !slices.Contains(pids, pid) {
			continue
		}
		last := len(header) - 1
		rows = append(rows, append(fields[:last:last], strings.Join(fields[last:], " ")))
	}
	return rows, nil
}
