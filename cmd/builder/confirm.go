// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// confirmed asks, as docker does: only y goes on.
func (e *env) confirmed(command string, what ...string) error {
	fmt.Fprintf(e.stdout, "WARNING! This will remove:\n  - %s\n", strings.Join(what, "\n  - "))
	fmt.Fprint(e.stdout, "Are you sure you want to continue? [y/N] ")
	line, err := bufio.NewReader(io.LimitReader(e.stdin, 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" {
		fmt.Fprintln(e.stdout)
		return fmt.Errorf("%s: cancelled: answer y, or use --force", command)
	}
	return nil
}
