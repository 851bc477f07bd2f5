// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"builder/internal/conformance"
)

// flags are the arguments of buildctl that ask for what builder build is
// asked for.
func (r *recorder) flags(w *conformance.Work, archive string) ([]string, error) {
	f := &translation{base: r.base, lists: map[string][]string{}, output: w.Output + ",dest=" + archive}
	f.add("build", "--progress=plain", "--frontend=dockerfile.v0", "--oci-layout=base="+filepath.Join(r.base, "layout"))
	f.add(r.names...)
	f.context(w)
	for _, a := range w.Args {
		if err := f.flag(a); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"add-hosts", "ulimit", "no-cache"} {
		if values := f.lists[name]; len(values) > 0 {
			f.opt(name, strings.Join(values, ","))
		}
	}
	if f.dockerfile != "" {
		f.add("--local=dockerfile=" + f.dockerfile)
	}
	f.add("--output=" + f.output)
	return f.args, nil
}

// translation turns flags of builder build into flags of buildctl.
type translation struct {
	args       []string
	base       string
	output     string
	lists      map[string][]string // options that have all values in one
	dockerfile string              // the directory of the Dockerfile, "" if it is in a remote context
}

func (f *translation) add(args ...string) { f.args = append(f.args, args...) }

func (f *translation) opt(name, value string) { f.add("--opt", name+"="+value) }

func (f *translation) list(name, value string) { f.lists[name] = append(f.lists[name], value) }

// context gives the build context. An archive on standard input is given by
// its address, as buildx does.
func (f *translation) context(w *conformance.Work) {
	switch {
	case w.Context == "-" && strings.HasSuffix(w.Stdin, ".tar"):
		f.opt("context", w.URL()+"/context.tar")
	case w.Context == "-":
		f.add("--local=context=" + filepath.Join(w.Dir, "ctx"))
		f.dockerfile = w.Dir
	case filepath.IsAbs(w.Context):
		f.add("--local=context=" + w.Context)
		f.dockerfile = w.Context
		if w.Stdin != "" {
			f.dockerfile = w.Dir
		}
	default:
		f.opt("context", w.Context)
	}
}

func (f *translation) flag(arg string) error {
	name, value, _ := strings.Cut(arg, "=")
	switch name {
	case "--build-arg", "--label":
		f.add("--opt", strings.TrimPrefix(name, "--")+":"+value)
	case "--target", "--platform", "--shm-size", "--cgroup-parent":
		f.opt(strings.TrimPrefix(name, "--"), value)
	case "--no-cache", "--secret", "--ssh", "--allow":
		f.add(arg)
	case "--no-cache-filter":
		f.list("no-cache", value)
	case "--network":
		f.opt("force-network-mode", value)
	case "--add-host":
		f.list("add-hosts", strings.Replace(value, ":", "=", 1))
	case "--ulimit":
		f.list("ulimit", value)
	case "--file":
		f.file(value)
	case "--annotation":
		f.annotation(value)
	case "--build-context":
		return f.named(value)
	default:
		return fmt.Errorf("no flag of buildctl is known for %q", arg)
	}
	return nil
}

// file names the Dockerfile. In a remote context the name is one in there.
func (f *translation) file(name string) {
	if name == "-" {
		return
	}
	if filepath.IsAbs(name) {
		f.dockerfile = filepath.Dir(name)
		name = filepath.Base(name)
	}
	f.opt("filename", name)
}

// annotation is one of the exporter's options: [TYPE:]KEY=VALUE.
func (f *translation) annotation(value string) {
	key, text, _ := strings.Cut(value, "=")
	kind := "annotation"
	for _, prefix := range []string{"manifest", "index", "manifest-descriptor", "index-descriptor"} {
		if rest, ok := strings.CutPrefix(key, prefix+":"); ok {
			kind, key = "annotation-"+prefix, rest
		}
	}
	f.output += "," + kind + "." + key + "=" + text
}

// named gives a named context.
func (f *translation) named(value string) error {
	name, source, _ := strings.Cut(value, "=")
	name = strings.ToLower(name)
	switch {
	case filepath.IsAbs(source):
		f.add("--local=" + name + "=" + source)
		source = "local:" + name
	case strings.HasPrefix(source, "docker-image://"):
		ref := strings.TrimPrefix(source, "docker-image://")
		if !strings.Contains(ref, ":") {
			ref += ":latest"
		}
		digest, err := layoutDigest(filepath.Join(f.base, "layout"), ref)
		if err != nil {
			return err
		}
		source = "oci-layout://base@" + digest
	case strings.HasPrefix(source, "oci-layout://"):
		dir := strings.TrimPrefix(source, "oci-layout://")
		dir, digest, ok := strings.Cut(dir, "@")
		if !ok {
			var tag string
			var err error
			dir, tag, _ = strings.Cut(dir, ":")
			if digest, err = layoutDigest(dir, tag); err != nil {
				return err
			}
		}
		f.add("--oci-layout=" + name + "-layout=" + dir)
		source = "oci-layout://" + name + "-layout@" + digest
	}
	f.add("--opt", "context:"+name+"="+source)
	return nil
}

// layoutDigest finds a name in an OCI layout.
func layoutDigest(dir, name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return "", err
	}
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return "", fmt.Errorf("index.json of %q: %w", dir, err)
	}
	for _, m := range index.Manifests {
		if m.Annotations["org.opencontainers.image.ref.name"] == name || name == "" {
			return m.Digest, nil
		}
	}
	return "", fmt.Errorf("no %q in layout %q", name, dir)
}
