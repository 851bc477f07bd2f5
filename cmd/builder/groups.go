// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// groups are docker's second names of commands: container ls is ps.
func groups() map[string]map[string]string {
	return map[string]map[string]string{
		"container": {
			"attach": "attach", "commit": "commit", "cp": "cp", "create": "create", "diff": "diff", "exec": "exec", "export": "export",
			"inspect": "inspect --type container", "kill": "kill", "logs": "logs", "ls": "ps", "list": "ps", "ps": "ps", "pause": "pause",
			"port": "port", "rename": "rename", "restart": "restart", "rm": "rm", "run": "run", "start": "start", "stats": "stats",
			"stop": "stop", "top": "top", "unpause": "unpause", "update": "update", "wait": "wait",
		},
		"image": {
			"build": "build", "history": "history", "import": "import", "inspect": "inspect --type image", "load": "load", "ls": "images",
			"list": "images", "pull": "pull", "push": "push", "rm": "rmi", "remove": "rmi", "save": "save", "tag": "tag", "tree": "tree",
		},
		"buildx":  {"bake": "bake", "build": "build", "du": "df", "version": "version"},
		"builder": {"build": "build"},
		"system":  {"df": "df", "events": "events", "info": "info"},
	}
}

// runGroup calls a command by its second name.
func runGroup(name string) runFunc {
	return func(ctx context.Context, e *env, args []string) error {
		subs := groups()[name]
		if len(args) == 0 || args[0] == "--help" || args[0] == "-h" {
			fs := flags(name)
			if len(args) > 0 {
				_, err := e.parse(fs, args[:1], 1, -1)
				return err
			}
			return &usageError{msg: name + ": name a command", hint: "there are " + strings.Join(append(slices.Sorted(maps.Keys(subs)), "prune"), ", ")}
		}
		if prune, ok := prunes()[name]; ok && args[0] == "prune" {
			if prune == nil {
				return errWhole
			}
			return prune(ctx, e, args[1:])
		}
		words := strings.Fields(subs[args[0]])
		if len(words) == 0 {
			return &usageError{msg: fmt.Sprintf("%s: unknown command %q", name, args[0]), hint: "there are " + strings.Join(append(slices.Sorted(maps.Keys(subs)), "prune"), ", ")}
		}
		all := commands()
		i := slices.IndexFunc(all, func(c command) bool { return c.name == words[0] })
		if i < 0 {
			return &usageError{msg: fmt.Sprintf("%s: there is no command %q", name, words[0])}
		}
		if all[i].run == nil {
			return errWhole
		}
		return all[i].run(ctx, e, append(words[1:], args[1:]...))
	}
}
