// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// base is the image that everything is built on.
const base = "bench/base"

// tool is builder or a peer.
type tool struct {
	name  string
	build func(dir, tag string, cached bool) *exec.Cmd
	run   func(network, tag string, args ...string) *exec.Cmd // nil if it can't

	// What the row about registries needs; nil if the tool can't.
	pull   func(name string) []*exec.Cmd
	remove func(name string) *exec.Cmd
	save   func(tag, file string) *exec.Cmd
	fetch  func(name string) *exec.Cmd       // without unpacking
	push   func(name, to string) []*exec.Cmd // of what was fetched or pulled

	clean func()

	daemon int   // its process, 0 for none
	peak   int64 // of its commands in this row, in kB
	each   int64 // what a container takes more of memory, in kB; 0 if that isn't the row's
}

// prepare makes the base image, busybox alone, and gives it to every tool that
// works here. builder comes first.
func (l *lab) prepare(bin string) error {
	tarball := filepath.Join(l.dir, "base.tar")
	script := `mkdir -p $1/rootfs/bin $1/rootfs/tmp $1/rootfs/etc && cp "$(command -v busybox)" $1/rootfs/bin/ &&
		for a in $(busybox --list); do [ $a = busybox ] || ln -s busybox $1/rootfs/bin/$a; done &&
		echo root:x:0:0:root:/:/bin/sh > $1/rootfs/etc/passwd && tar -C $1/rootfs -cf $2 .`
	if out, err := exec.Command("sh", "-c", script, "sh", l.dir, tarball).CombinedOutput(); err != nil {
		return fmt.Errorf("make base image (is busybox-static installed?): %w\n%s", err, out)
	}
	root := filepath.Join(l.dir, "builder")
	empty := filepath.Join(l.dir, "empty") // a store that has built nothing
	builder := func(args ...string) *exec.Cmd { return exec.Command(bin, append([]string{"--root", root}, args...)...) }
	l.tools = append(l.tools, &tool{
		name: "builder",
		build: func(dir, tag string, cached bool) *exec.Cmd {
			return builder(append([]string{"build", "-q", "-t", tag}, noCache(cached, dir)...)...)
		},
		run: func(network, tag string, args ...string) *exec.Cmd {
			return builder(append([]string{"run", "--rm", "--network", network, tag}, args...)...)
		},
		pull: func(name string) []*exec.Cmd {
			return []*exec.Cmd{exec.Command(bin, "--root", empty, "pull", "-q", name), exec.Command(bin, "--root", empty, "run", "--rm", name, "/bin/true")}
		},
		remove: func(string) *exec.Cmd { return exec.Command("rm", "-rf", empty) },
		fetch:  func(name string) *exec.Cmd { return exec.Command(bin, "--root", empty, "pull", "-q", name) },
		push: func(name, to string) []*exec.Cmd {
			return []*exec.Cmd{exec.Command(bin, "--root", empty, "tag", name, to), exec.Command(bin, "--root", empty, "push", "-q", to)}
		},
		save: func(tag, file string) *exec.Cmd {
			return builder("save", "--format", "oci-archive", "-o", file, tag)
		},
		clean: func() {},
	})
	if out, err := builder("import", tarball, base).CombinedOutput(); err != nil {
		return fmt.Errorf("import base image: %w\n%s", err, out)
	}
	for _, name := range []string{"docker", "podman", "buildah"} {
		if slices.Contains(l.wanted, name) {
			l.addDockerLike(name, tarball)
		}
	}
	for _, name := range []string{"runc", "crun"} {
		if slices.Contains(l.wanted, name) {
			if err := l.addRuntime(name); err != nil {
				return err
			}
		}
	}
	if slices.Contains(l.wanted, "skopeo") {
		l.addSkopeo()
	}
	if slices.Contains(l.wanted, "buildctl") {
		return l.addBuildctl(builder)
	}
	return nil
}

func noCache(cached bool, dir string) []string {
	if cached {
		return []string{dir}
	}
	return []string{"--no-cache", dir}
}

// addDockerLike adds a peer with docker's command line.
func (l *lab) addDockerLike(name, tarball string) {
	importer := name
	if name == "buildah" {
		importer = "podman" // one store, and buildah has no import
	}
	if exec.Command(name, "info").Run() != nil || exec.Command(importer, "import", tarball, base).Run() != nil {
		fmt.Fprintf(os.Stderr, "bench: %s is not here or doesn't work: left out\n", name)
		return
	}
	// Old crun refuses hosts with both versions of control groups; runc runs.
	_, err := exec.LookPath("runc")
	runc := err == nil
	var global []string
	if name == "podman" && runc {
		global = []string{"--runtime", "runc"}
	}
	t := &tool{name: name, clean: func() { exec.Command(importer, "rmi", "-f", base).Run() }}
	if name == "docker" {
		t.daemon = daemonOf()
	}
	t.build = func(dir, tag string, cached bool) *exec.Cmd {
		args := []string{"build", "-q", "-t", tag}
		switch name {
		case "docker":
			args = append(args, "--network=host")
		case "podman":
			args = append(args, "--layers", "--pull=never")
		case "buildah":
			args = append(args, "--layers", "--pull-never")
		}
		if name == "buildah" && runc {
			args = append(args, "--runtime", "runc")
		}
		cmd := exec.Command(name, slices.Concat(global, args, noCache(cached, dir))...)
		cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
		return cmd
	}
	if name != "buildah" {
		t.run = func(network, tag string, args ...string) *exec.Cmd {
			opts := []string{"run", "--rm", "--network", network}
			if name == "podman" {
				// Its own limits, or the host's, may be above what is allowed here.
				opts = append(opts, "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
			}
			return exec.Command(name, slices.Concat(global, opts, []string{tag}, args)...)
		}
	}
	if name != "buildah" {
		t.pull = func(image string) []*exec.Cmd {
			args := []string{"pull", "-q"}
			if name == "podman" {
				args = append(args, "--tls-verify=false")
			}
			return []*exec.Cmd{exec.Command(name, append(args, image)...)}
		}
		t.remove = func(image string) *exec.Cmd { return exec.Command(name, "rmi", "-f", image) }
		t.push = func(image, to string) []*exec.Cmd {
			args := []string{"push", "-q"}
			if name == "podman" {
				args = append(args, "--tls-verify=false")
			}
			return []*exec.Cmd{exec.Command(name, "tag", image, to), exec.Command(name, append(args, to)...)}
		}
	}
	l.tools = append(l.tools, t)
}

// addRuntime adds a bare OCI runtime, which gets the files of the base image
// unpacked, and keeps and removes nothing of them.
func (l *lab) addRuntime(name string) error {
	bundle := filepath.Join(l.dir, name)
	if exec.Command(name, "--version").Run() != nil {
		fmt.Fprintf(os.Stderr, "bench: %s is not here: left out\n", name)
		return nil
	}
	script := `mkdir $1 && cd $1 && cp -a ../rootfs . && ` + name + ` spec && sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"\/bin\/true"/' config.json`
	if out, err := exec.Command("sh", "-c", script, "sh", bundle).CombinedOutput(); err != nil {
		return fmt.Errorf("make bundle for %s: %w\n%s", name, err, out)
	}
	t := &tool{name: name, clean: func() {}}
	// Its default configuration has a network namespace with nothing in it.
	t.run = func(network, _ string, _ ...string) *exec.Cmd {
		if network != "none" {
			return nil
		}
		return exec.Command(name, "run", "--bundle", bundle, "bench-"+name)
	}
	l.tools = append(l.tools, t)
	return nil
}

// addSkopeo adds skopeo, which copies between a registry and an OCI layout.
func (l *lab) addSkopeo() {
	if exec.Command("skopeo", "--version").Run() != nil {
		fmt.Fprintln(os.Stderr, "bench: skopeo is not here: left out")
		return
	}
	layout := filepath.Join(l.dir, "skopeo")
	l.tools = append(l.tools, &tool{
		name: "skopeo",
		fetch: func(name string) *exec.Cmd {
			return exec.Command("skopeo", "copy", "-q", "--src-tls-verify=false", "docker://"+name, "oci:"+layout+":x")
		},
		push: func(_, to string) []*exec.Cmd {
			return []*exec.Cmd{exec.Command("skopeo", "copy", "-q", "--dest-tls-verify=false", "oci:"+layout+":x", "docker://"+to)}
		},
		remove: func(string) *exec.Cmd { return exec.Command("rm", "-rf", layout) },
		clean:  func() {},
	})
}

// addBuildctl adds BuildKit, which gets the base image as an OCI layout.
func (l *lab) addBuildctl(builder func(...string) *exec.Cmd) error {
	if os.Getenv("BUILDKIT_HOST") == "" || exec.Command("buildctl", "debug", "workers").Run() != nil {
		fmt.Fprintln(os.Stderr, "bench: buildctl is not here or BUILDKIT_HOST is not set: left out")
		return nil
	}
	layout := filepath.Join(l.dir, "layout")
	if out, err := builder("save", "--format", "oci-dir", "-o", layout, base).CombinedOutput(); err != nil {
		return fmt.Errorf("save base image: %w\n%s", err, out)
	}
	out, err := exec.Command("sh", "-c", `grep -o 'sha256:[0-9a-f]*' "$1"/index.json | head -1`, "sh", layout).Output()
	if err != nil {
		return err
	}
	digest := strings.TrimSpace(string(out))
	l.tools = append(l.tools, &tool{
		name: "buildctl",
		build: func(dir, tag string, cached bool) *exec.Cmd {
			args := []string{"build", "--progress=plain", "--frontend", "dockerfile.v0", "--local", "context=" + dir, "--local", "dockerfile=" + dir,
				"--oci-layout", "base=" + layout, "--opt", "context:" + base + "=oci-layout://base@" + digest,
				"--output", "type=image,name=docker.io/library/" + tag}
			if !cached {
				args = append(args, "--no-cache")
			}
			return exec.Command("buildctl", args...)
		},
		clean: func() {},
	})
	return nil
}

func (l *lab) clean() {
	for _, stop := range l.stop {
		stop()
	}
	for _, t := range l.tools {
		t.clean()
	}
}
