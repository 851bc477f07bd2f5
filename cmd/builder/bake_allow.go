// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"builder/bake"
)

// permission is something that a target asks for, as --allow grants it.
type permission struct {
	grant string // the value of --allow
	path  string // of fs.read and fs.write: the place, links followed
}

// allowed checks that the definition asks for nothing but what --allow grants:
// privileges, an ssh agent, files outside of the current directory. A
// definition may come from anywhere.
func (b *bakery) allowed(words []string) error {
	grants, err := parseGrants(words)
	if err != nil {
		return err
	}
	const variable = "BUILDX_BAKE_ENTITLEMENTS_FS"
	checked, err := b.e.truth(variable)
	if err != nil {
		return err
	}
	trusted := !checked && b.e.getenv(variable) != "" // with files and the agent
	missing := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(b.def.Targets)) {
		wanted, err := permissions(b.def.Targets[name])
		if err != nil {
			return fmt.Errorf("target %s: %w", name, err)
		}
		for _, p := range wanted {
			if trusted && (p.path != "" || p.grant == "ssh") || grants.covers(p) {
				continue
			}
			missing[p.grant] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var flags []string
	for _, g := range slices.Sorted(maps.Keys(missing)) {
		flags = append(flags, "--allow="+g)
	}
	return &usageError{msg: "bake: the definition asks for more than it may: " + strings.Join(slices.Sorted(maps.Keys(missing)), ", "),
		hint: "if you trust it: " + strings.Join(flags, " ")}
}

// permissions are what a target asks for.
func permissions(t *bake.Target) ([]permission, error) {
	var out []permission
	for _, e := range t.Entitlements {
		if !t.FromSet("entitlements", e) {
			out = append(out, permission{grant: e})
		}
	}
	reads, writes := targetPaths(t)
	for _, s := range t.SSH {
		if len(s.Paths) == 0 && !t.FromSet("ssh", "") {
			out = append(out, permission{grant: "ssh"})
		}
	}
	for _, kind := range []struct {
		name  string
		paths []string
	}{{"fs.read", reads}, {"fs.write", writes}} {
		for _, p := range kind.paths {
			place, err := followed(p)
			if err != nil {
				return nil, err
			}
			out = append(out, permission{grant: kind.name + "=" + p, path: place})
		}
	}
	return out, nil
}

// targetPaths are the files that a target reads and writes by the definition's
// wish.
func targetPaths(t *bake.Target) (reads, writes []string) {
	if !bake.IsRemote(*t.Context) {
		reads = append(reads, *t.Context)
		if t.DockerfileInline == nil {
			reads = append(reads, dockerfilePath(*t.Context, *t.Dockerfile))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		source := t.Contexts[name]
		if layout, ok := strings.CutPrefix(source, "oci-layout://"); ok {
			source, _, _ = strings.Cut(layout, "@")
		} else if strings.HasPrefix(source, "target:") || strings.HasPrefix(source, "docker-image:") || bake.IsRemote(source) {
			continue
		}
		reads = append(reads, strings.TrimPrefix(source, "cwd://"))
	}
	for _, s := range t.Secrets {
		if s.File != "" && !t.FromSet("secret", s.ID) {
			reads = append(reads, s.File)
		}
	}
	for _, s := range t.SSH {
		if !t.FromSet("ssh", "") {
			reads = append(reads, s.Paths...)
		}
	}
	for _, out := range t.Outputs {
		if out.Dest != "" && out.Dest != "-" && !t.Linked && !t.FromSet("output", "") {
			writes = append(writes, out.Dest)
		}
	}
	for _, c := range t.CacheFrom {
		if c.Type == "local" && c.Attrs["src"] != "" && !t.FromSet("cache-from", "") {
			reads = append(reads, c.Attrs["src"])
		}
	}
	for _, c := range t.CacheTo {
		if c.Type == "local" && c.Attrs["dest"] != "" && !t.FromSet("cache-to", "") {
			writes = append(writes, c.Attrs["dest"])
		}
	}
	return reads, writes
}

// grants are the values of --allow.
type grants struct {
	words         map[string]bool
	reads, writes []string // directories, links followed; "*" is everything
}

func parseGrants(words []string) (*grants, error) {
	here, err := followed(".")
	if err != nil {
		return nil, err
	}
	g := &grants{words: map[string]bool{}, reads: []string{here}, writes: []string{here}}
	for _, w := range words {
		key, path, hasPath := strings.Cut(w, "=")
		switch key {
		case "network.host", "security.insecure", "ssh", "device", secretLeak:
			g.words[w] = true
			continue
		case "fs", "fs.read", "fs.write":
		default:
			return nil, &usageError{msg: fmt.Sprintf("bake: --allow %q: want network.host, security.insecure, ssh, fs.read=PATH, fs.write=PATH or fs=PATH", w)}
		}
		if !hasPath || path == "" {
			return nil, &usageError{msg: fmt.Sprintf("bake: --allow %q: want %s=PATH, or %s=* for everything", w, key, key)}
		}
		if path != "*" {
			if path, err = followed(path); err != nil {
				return nil, err
			}
		}
		if key != "fs.write" {
			g.reads = append(g.reads, path)
		}
		if key != "fs.read" {
			g.writes = append(g.writes, path)
		}
	}
	return g, nil
}

func (g *grants) covers(p permission) bool {
	if p.path == "" {
		key, _, _ := strings.Cut(p.grant, "=")
		return g.words[p.grant] || key == "device" && g.words[key]
	}
	dirs := g.reads
	if strings.HasPrefix(p.grant, "fs.write=") {
		dirs = g.writes
	}
	return slices.ContainsFunc(dirs, func(dir string) bool {
		rel, err := filepath.Rel(dir, p.path)
		return dir == "*" || err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	})
}

// followed is where a path leads, links followed as far as it exists.
func followed(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if _, lerr := os.Lstat(path); lerr == nil || !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("follow %q: %w", path, err) // a link that leads nowhere could lead anywhere later
		}
		path, rest = filepath.Dir(path), filepath.Join(filepath.Base(path), rest)
	}
}
