// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/build"

	"github.com/spf13/pflag"
)

// editFlags are the flags, most of them Buildah's, that say how the image
// differs from what its Dockerfile says.
type editFlags struct {
	from        string
	labels      []string
	unsetEnv    []string
	unsetLabels []string
	omitHistory bool
	squash      bool
	timestamp   string
}

func (f *editFlags) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&f.from, "from", "", "image that stands for the base image of the first FROM")
	wordsVar(fs, &f.labels, "label", "label of the image, `NAME=VALUE`")
	wordsVar(fs, &f.unsetEnv, "unsetenv", "variable of the base image that the image has not")
	wordsVar(fs, &f.unsetLabels, "unsetlabel", "label of the base image that the image has not")
	fs.BoolVar(&f.omitHistory, "omit-history", false, "leave out the image's history")
	fs.BoolVar(&f.squash, "squash", false, "make one layer of all that is added to the base image")
	fs.StringVar(&f.timestamp, "timestamp", "", "time of the image and of all files in its new layers, in `SECONDS` since 1970")
}

// resolve reads the flags; flag names the one that is wrong.
func (f *editFlags) resolve(opts *build.Options) (flag string, err error) {
	opts.From = f.from
	opts.Edits = build.Edits{UnsetEnv: f.unsetEnv, UnsetLabels: f.unsetLabels, OmitHistory: f.omitHistory, Squash: f.squash}
	opts.Labels = map[string]string{}
	for _, l := range f.labels {
		// As docker does: a label without a value is empty.
		k, v, _ := strings.Cut(l, "=")
		if k == "" {
			return "label", fmt.Errorf("%q: want NAME=VALUE", l)
		}
		opts.Labels[k] = v
	}
	for flag, names := range map[string][]string{"unsetenv": f.unsetEnv, "unsetlabel": f.unsetLabels} {
		if slices.ContainsFunc(names, func(n string) bool { return n == "" || flag == "unsetenv" && strings.Contains(n, "=") }) {
			return flag, fmt.Errorf("%q: want names alone", names)
		}
	}
	if f.timestamp == "" {
		return "", nil
	}
	sec, err := strconv.ParseInt(f.timestamp, 10, 64)
	if err != nil || sec < 0 {
		return "timestamp", fmt.Errorf("%q: want seconds since 1970", f.timestamp)
	}
	if _, given := opts.Args["SOURCE_DATE_EPOCH"]; given {
		return "timestamp", fmt.Errorf("it can't be given together with the build argument SOURCE_DATE_EPOCH")
	}
	t := time.Unix(sec, 0).UTC()
	opts.Edits.Timestamp = &t
	return "", nil
}

// argFlags give ARGs their values.
type argFlags struct {
	buildArgs []string
	files     []string
}

func (f *argFlags) addFlags(fs *pflag.FlagSet) {
	wordsVar(fs, &f.buildArgs, "build-arg", "value of an ARG, `NAME=VALUE`, or NAME for the environment's")
	wordsVar(fs, &f.files, "build-arg-file", "`FILE` of such values, one a line; --build-arg goes before it")
}

// resolve returns the values by name.
func (f *argFlags) resolve(e *env) (args map[string]string, flag string, err error) {
	var words []string
	for _, name := range f.files {
		lines, err := readArgFile(name)
		if err != nil {
			return nil, "build-arg-file", err
		}
		words = append(words, lines...)
	}
	for _, w := range f.buildArgs {
		if w == "" || w[0] == '=' {
			return nil, "build-arg", fmt.Errorf("%q: want NAME=VALUE or NAME", w)
		}
	}
	words = append(words, f.buildArgs...)
	args = keyValues(words, func(name string) (string, bool) { return lookupEnv(e, name) })
	if _, given := args["SOURCE_DATE_EPOCH"]; !given {
		// As buildx does.
		if v := e.getenv("SOURCE_DATE_EPOCH"); v != "" {
			args["SOURCE_DATE_EPOCH"] = v
		}
	}
	return args, "", nil
}

// readArgFile reads NAME=VALUE lines; empty ones and those that begin with #
// mean nothing.
func readArgFile(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var words []string
	scan := bufio.NewScanner(f)
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if k, _, ok := strings.Cut(line, "="); !ok || strings.TrimSpace(k) == "" {
			return nil, fmt.Errorf("%s:%d: %q: want NAME=VALUE", name, n, line)
		}
		words = append(words, line)
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return words, nil
}
