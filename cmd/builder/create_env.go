// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"builder/image"

	"github.com/spf13/pflag"
)

// envFlags are the flags about the variables of a container's processes.
type envFlags struct {
	env, envFile, unset []string

	unsetAll, host, proxy bool
}

func (f *envFlags) addFlags(fs *pflag.FlagSet) {
	wordsVarP(fs, &f.env, "env", "e", "set a variable, `NAME=VALUE`, or NAME for the environment's")
	wordsVar(fs, &f.envFile, "env-file", "read variables from a `FILE`")
	wordsVar(fs, &f.unset, "unsetenv", "leave out a variable `NAME` of the image")
	fs.BoolVar(&f.unsetAll, "unsetenv-all", false, "leave out all of the image's")
	fs.BoolVar(&f.host, "env-host", false, "pass on all variables of builder's own environment")
	fs.BoolVar(&f.proxy, "http-proxy", false, "pass on those about proxies; those of docker's config file are set anyway")
}

// list is the environment that the flags make of the image's.
func (f *envFlags) list(e *env, fromImage []string) ([]string, error) {
	if f.unsetAll {
		fromImage = nil
	}
	vars := image.NewEnv(slices.DeleteFunc(slices.Clone(fromImage), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(f.unset, name)
	})...)
	if f.host {
		for _, v := range os.Environ() {
			name, value, _ := strings.Cut(v, "=")
			vars.Set(name, value)
		}
	}
	configured := e.configuredProxies()
	for _, name := range image.ProxyNames {
		if value := configured[name]; value != "" {
			vars.Set(name, value)
			vars.Set(strings.ToLower(name), value)
		}
	}
	if f.proxy {
		for _, name := range image.ProxyNames {
			for _, name := range []string{name, strings.ToLower(name)} {
				if value := e.getenv(name); value != "" {
					vars.Set(name, value)
				}
			}
		}
	}
	unset, err := setEnv(e, vars, f.envFile, f.env)
	return append(vars.List(), unset...), err
}

// setEnv adds the variables of --env-file and -e. unset are those of -e NAME that aren't
// in the environment: the container is to have none of the name, as with docker, but HOME
// and PATH, which it has in any case.
func setEnv(e *env, vars *image.Env, files, env []string) (unset []string, err error) {
	var words []string
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--env-file: %w", err)
		}
		for _, line := range strings.Split(string(data), "\n") {
			line = strings.TrimSuffix(line, "\r")
			if trimmed := strings.TrimSpace(line); trimmed == "" || strings.HasPrefix(trimmed, "#") {
				continue
			}
			word := strings.TrimLeft(line, " \t")
			if k, _, _ := strings.Cut(word, "="); strings.ContainsAny(k, " \t") {
				return nil, &usageError{msg: fmt.Sprintf("--env-file %s: a variable can't be called %q: there are blanks in it", name, k)}
			}
			words = append(words, word)
		}
	}
	for i, w := range append(words, env...) {
		k, v, ok := strings.Cut(w, "=")
		if k == "" {
			return nil, &usageError{msg: fmt.Sprintf("run: invalid environment variable %q", w)}
		}
		if !ok {
			v, ok = lookupEnv(e, k)
		}
		if ok || i >= len(words) {
			unset = slices.DeleteFunc(unset, func(name string) bool { return name == k })
		}
		switch {
		case ok:
			vars.Set(k, v)
		case i >= len(words):
			vars.Unset(k)
			unset = append(unset, k)
		}
	}
	return unset, nil
}

// variables are those of an environment that have values: what is only named is unset.
func variables(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool { return !strings.Contains(v, "=") })
}
