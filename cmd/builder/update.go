// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"builder/supervisor"
)

// runUpdate changes what containers may use, at once if they run.
func runUpdate(ctx context.Context, e *env, args []string) error {
	fs := flags("update")
	var bounds boundFlags
	bounds.addFlags(fs)
	restart := fs.String("restart", "", "when to start it again: `no|always|unless-stopped|on-failure[:TIMES]`")
	words, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	if fs.NFlag() == 0 {
		return &usageError{msg: "update: say what to change", hint: "builder update --help"}
	}
	var ch supervisor.Changes
	if flag, err := bounds.resolve(&ch.Resources); err != nil {
		return &usageError{msg: fmt.Sprintf("update: --%s: %v", flag, err), hint: "builder update --help"}
	}
	if fs.Changed("restart") {
		policy, err := parseRestart(*restart)
		if err != nil {
			return err
		}
		ch.Restart = &policy
	}
	return e.forContainers(words, func(client *supervisor.Client, c supervisor.Container) error {
		warnings, err := client.Update(ctx, c.Config, ch)
		for _, w := range warnings {
			e.warn(fmt.Sprintf("container %s: %s", c.Name, w))
		}
		return err
	})
}
