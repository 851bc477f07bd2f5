// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"os"

	"builder/supervisor"
	"builder/usernet"
	"builder/usernet/stack"
	"builder/userns"
)

// runUsernet is the process that has the containers' network of an ordinary
// user; [usernet.Client] starts it.
func runUsernet(ctx context.Context, e *env, args []string) error {
	ready := os.NewFile(3, "ready")
	err := e.serveUsernet(ctx, args, ready)
	if err != nil {
		_, _ = ready.WriteString(err.Error()) // if it is waited for still
	}
	return err
}

func (e *env) serveUsernet(ctx context.Context, args []string, ready *os.File) error {
	if _, err := e.parse(flags("usernet"), args, 0, 0); err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	if err := s.Leave(); err != nil {
		return err
	}
	if err := userns.Register(s.Path(membersDir)); err != nil {
		return err
	}
	return usernet.Serve(ctx, s.Path(usernetDir), stack.Forward, func() { ready.Close() }, supervisor.NewRecords(s).Networks().InUse)
}
