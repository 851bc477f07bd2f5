// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"builder/bake"
	"builder/build"
	"builder/image"
)

// callTargets answers the targets' calls, one after the other. A target that
// fails doesn't keep the others from being told of.
func (b *bakery) callTargets(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if b.call != nil && b.call.format == "json" {
		return b.callJSON(ctx, names)
	}
	code := 0
	for i, name := range names {
		if i > 0 {
			fmt.Fprintln(b.e.stdout)
		}
		fmt.Fprintln(b.e.stdout, name)
		t := b.targets[name]
		if t.Description != "" {
			fmt.Fprintln(b.e.stdout, t.Description)
		}
		fmt.Fprintln(b.e.stdout)
		failed, err := b.callTarget(ctx, t, b.e.stdout)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			b.e.explain(fmt.Errorf("target %s: %w", name, err))
		}
		code = max(code, failed)
	}
	if code != 0 {
		return &exitError{code}
	}
	return nil
}

// callTarget answers a target's call on out. It returns the exit code, and the
// error unless the answer has told of it.
func (b *bakery) callTarget(ctx context.Context, t *bakeTarget, out *os.File) (code int, err error) {
	e := *b.e
	e.stdout = out
	// Nothing is built, so of the targets that are its contexts nothing is known.
	err = b.linkContexts(t, func(*bakeTarget) build.NamedContext {
		return func(context.Context, image.Platform) (build.ContextSource, error) { return build.ContextSource{}, nil }
	})
	if err != nil {
		return exitFailure, err
	}
	if t.DockerfileInline != nil {
		if e.stdin, err = pipe(*t.DockerfileInline); err != nil {
			return exitFailure, err
		}
		defer e.stdin.Close()
	}
	err = e.runCall(ctx, t.req)
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		return exit.code, nil
	case err != nil:
		return exitFailure, err
	}
	return 0, nil
}

// callJSON answers calls as one JSON object, as buildx does: the definition,
// and with each target its answer.
func (b *bakery) callJSON(ctx context.Context, names []string) error {
	out := struct {
		Group  map[string]*bake.Group    `json:"group,omitempty"`
		Target map[string]map[string]any `json:"target"`
	}{b.def.Groups, map[string]map[string]any{}}
	for name, t := range b.def.Targets {
		out.Target[name] = map[string]any{"build": t}
	}
	code := 0
	for _, name := range names {
		t := b.targets[name]
		answer, failed, err := b.captureCall(ctx, t)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if answer == nil {
			answer = map[string]any{}
		}
		if err != nil {
			answer["error"] = err.Error()
		}
		out.Target[name][t.req.call.name] = answer
		code = max(code, failed)
	}
	if err := printJSON(b.e.stdout, out); err != nil {
		return err
	}
	if code != 0 {
		return &exitError{code}
	}
	return nil
}

// captureCall answers a call and reads the answer.
func (b *bakery) captureCall(ctx context.Context, t *bakeTarget) (answer map[string]any, code int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, exitFailure, err
	}
	defer r.Close()
	text := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(r) // of a pipe of ours
		text <- data
	}()
	code, err = b.callTarget(ctx, t, w)
	w.Close()
	if data := <-text; len(data) > 0 {
		err = errors.Join(err, json.Unmarshal(data, &answer))
	}
	return answer, code, err
}
