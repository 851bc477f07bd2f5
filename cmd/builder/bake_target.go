// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"builder/bake"
	"builder/build"

	"github.com/spf13/pflag"
)

// targetFlag is what an attribute of a target is as a flag of builder build.
type targetFlag struct{ attribute, flag, value string }

// targetFlags gives a target as flags of builder build, but for its context,
// its Dockerfile and the targets that it takes as contexts.
func targetFlags(t *bake.Target) []targetFlag {
	var out []targetFlag
	add := func(attribute, flag string, values ...string) {
		for _, v := range values {
			out = append(out, targetFlag{attribute, flag, v})
		}
	}
	pairs := func(attribute, flag string, values map[string]*string) {
		for _, k := range slices.Sorted(maps.Keys(values)) {
			if v := values[k]; v != nil {
				add(attribute, flag, k+"="+*v)
			}
		}
	}
	text := func(attribute, flag string, value *string) {
		if value != nil && *value != "" {
			add(attribute, flag, *value)
		}
	}
	pairs("args", "build-arg", t.Args)
	pairs("labels", "label", t.Labels)
	pairs("extra-hosts", "add-host", t.ExtraHosts)
	text("target", "target", t.Target)
	text("network", "network", t.Network)
	text("shm-size", "shm-size", t.ShmSize)
	if t.Call != nil && *t.Call != "build" {
		text("call", "call", t.Call)
	}
	add("annotations", "annotation", t.Annotations...)
	add("platforms", "platform", t.Platforms...)
	add("no-cache-filter", "no-cache-filter", t.NoCacheFilter...)
	add("ulimits", "ulimit", t.Ulimits...)
	if t.Pull != nil {
		add("pull", "pull", strconv.FormatBool(*t.Pull))
	}
	if t.NoCache != nil {
		add("no-cache", "no-cache", strconv.FormatBool(*t.NoCache))
	}
	add("entitlements", "allow", t.Entitlements...)
	for _, s := range t.Secrets {
		add("secret", "secret", s.String())
	}
	for _, s := range t.SSH {
		add("ssh", "ssh", s.String())
	}
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		if source := t.Contexts[name]; !strings.HasPrefix(source, "target:") {
			add("contexts", "build-context", name+"="+strings.TrimPrefix(source, "cwd://"))
		}
	}
	return append(out, outsideFlags(t)...)
}

// outsideFlags are those about what is outside of the build: caches,
// attestations, policies, limits, and where the result goes.
func outsideFlags(t *bake.Target) []targetFlag {
	var out []targetFlag
	entries := func(attribute string, list []bake.Entry) {
		for _, e := range list {
			if off, err := strconv.ParseBool(e.Attrs["disabled"]); e.Disabled || err == nil && off {
				continue
			}
			out = append(out, targetFlag{attribute, attribute, e.String()})
		}
	}
	entries("attest", t.Attest)
	entries("cache-from", t.CacheFrom)
	entries("cache-to", t.CacheTo)
	entries("policy", t.Policy)
	if r := t.Resources; r != nil {
		for _, f := range []struct {
			flag  string
			value *string
		}{
			{"memory", r.Memory}, {"memory-swap", r.MemorySwap}, {"cpuset-cpus", r.CPUSetCPUs}, {"cpuset-mems", r.CPUSetMems},
			{"cpu-shares", number(r.CPUShares)}, {"cpu-period", number(r.CPUPeriod)}, {"cpu-quota", number(r.CPUQuota)},
		} {
			if f.value != nil {
				out = append(out, targetFlag{"resources", f.flag, *f.value})
			}
		}
	}
	if t.Linked {
		return out // its result is the context of another target
	}
	for _, tag := range t.Tags {
		out = append(out, targetFlag{"tags", "tag", tag})
	}
	for _, e := range t.Outputs {
		if e.Type == "docker" && e.Dest == "" {
			e.Type = "image" // docker's image store is builder's
		}
		out = append(out, targetFlag{"output", "output", e.String()})
	}
	return out
}

func number(n *int64) *string {
	if n == nil {
		return nil
	}
	s := strconv.FormatInt(*n, 10)
	return &s
}

// secretLeak lets a build write the value of a secret into the image. No
// definition can ask for it.
const secretLeak = "secret.leak"

// targetRequest turns a target into a build. What builder build has no flag
// for is an error about the attribute.
func (b *bakery) targetRequest(t *bake.Target) (*buildRequest, error) {
	fs := flags("build")
	o := &buildOptions{}
	o.addFlags(fs)
	given := targetFlags(t)
	if slices.Contains(b.opts.allow, secretLeak) {
		given = append(given, targetFlag{"entitlements", "allow", secretLeak})
	}
	for _, f := range given {
		if err := setTargetFlag(fs, f); err != nil {
			return nil, t.Fault(f.attribute, err)
		}
	}
	if b.opts.pull != "" {
		o.pull = b.opts.pull
	}
	path := *t.Context
	switch {
	case path == "-":
		return nil, t.Fault("context", errors.New("standard input can't be the context of a target"))
	case *t.Dockerfile == "-":
		return nil, t.Fault("dockerfile", errors.New("standard input can't be the Dockerfile of a target: give dockerfile-inline"))
	case t.DockerfileInline != nil:
		o.file = "-"
	case *t.Dockerfile != "Dockerfile": // else the names that Dockerfiles have are looked for
		o.file = dockerfilePath(path, *t.Dockerfile)
	}
	req, err := o.request(b.e, path)
	if err != nil {
		return nil, targetFault(t, given, err)
	}
	req.opts.Name = t.Name
	if t.Linked {
		// Others may stand on it, so it is wanted as an image, but not by name.
		req.opts.Images, req.nameless = []build.ImageOptions{{}}, true
	}
	return req, nil
}

// dockerfilePath is where a target's Dockerfile is: below its context.
func dockerfilePath(context, file string) string {
	if here, ok := strings.CutPrefix(file, "cwd://"); ok {
		return filepath.Clean(here)
	}
	if filepath.IsAbs(file) || bake.IsRemote(file) || bake.IsRemote(context) {
		return file
	}
	return filepath.Join(context, file)
}

func setTargetFlag(fs *pflag.FlagSet, f targetFlag) error {
	flag := fs.Lookup(f.flag)
	if flag == nil {
		return fmt.Errorf("%s: not supported yet", f.value)
	}
	if err := flag.Value.Set(f.value); err != nil {
		return fmt.Errorf("%s: %w", f.value, err)
	}
	return nil
}

// targetFault says of an error about a flag which attribute of the target it
// comes from.
func targetFault(t *bake.Target, given []targetFlag, err error) error {
	var usage *usageError
	if !errors.As(err, &usage) {
		return fmt.Errorf("target %s: %w", t.Name, err)
	}
	text := strings.TrimPrefix(usage.msg, "build: ")
	m := regexp.MustCompile(`^--([a-z-]+):? `).FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("target %s: %s", t.Name, text)
	}
	attribute := m[1]
	if i := slices.IndexFunc(given, func(f targetFlag) bool { return f.flag == m[1] }); i >= 0 {
		attribute = given[i].attribute
	}
	return t.Fault(attribute, errors.New(text[len(m[0]):]))
}
