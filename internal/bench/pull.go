// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// startRegistry runs Debian's registry and puts an image of about a gigabyte of
// files into it, once.
func (l *lab) startRegistry(t *tool) error {
	if l.registry != "" {
		return nil
	}
	addr, _, err := l.emptyRegistry("registry")
	if err != nil {
		return err
	}
	if err := l.fillRegistry(t, addr); err != nil {
		return err
	}
	l.registry = addr
	return nil
}

// emptyRegistry runs a registry on a free loopback port, with what it has in a
// directory of its own, which stop removes.
func (l *lab) emptyRegistry(name string) (addr string, stop func(), err error) {
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = listen.Addr().String()
	_ = listen.Close()
	dir := filepath.Join(l.dir, name)
	config := dir + ".yml"
	yml := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", dir, addr)
	if err := os.WriteFile(config, []byte(yml), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.Command("docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		_ = os.RemoveAll(dir)
	})
	l.stop = append(l.stop, stop)
	for range 100 {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
			return addr, stop, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", nil, fmt.Errorf("the registry at %s does not answer", addr)
}

// fillRegistry builds an image out of what this machine has under /usr/lib and
// /usr/bin, which compresses as images do.
func (l *lab) fillRegistry(t *tool, addr string) error {
	dir, err := l.context("large", "FROM "+base+"\nCOPY bin /large/bin\nCOPY lib /large/lib\n")
	if err != nil {
		return err
	}
	script := `cp -a /usr/bin "$1/bin" && mkdir "$1/lib" && cd /usr/lib && for f in *; do
		[ "$(du -sm "$1" | cut -f1)" -lt 1000 ] && cp -a "$f" "$1/lib/"; done; true`
	if out, err := exec.Command("sh", "-c", script, "sh", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, lastLines(out))
	}
	if err := untimed(t.build(dir, "bench-large", true)); err != nil {
		return err
	}
	archive := filepath.Join(l.dir, "large.oci")
	if err := untimed(t.save("bench-large", archive)); err != nil {
		return err
	}
	return untimed(exec.Command("skopeo", "copy", "-q", "--dest-tls-verify=false", "oci-archive:"+archive, "docker://"+addr+"/large:1"))
}

// pullLarge fetches the large image from loopback and makes its file system.
// builder unpacks when a container is made, so one is run.
func pullLarge(l *lab, t *tool, _ int) (time.Duration, error) {
	if err := l.startRegistry(l.tools[0]); err != nil {
		return 0, err
	}
	name := l.registry + "/large:1"
	var took time.Duration
	for _, cmd := range t.pull(name) {
		d, err := timed(cmd)
		if err != nil {
			return 0, err
		}
		took += d
	}
	return took, untimed(t.remove(name))
}

// fetchLarge fetches the large image into a store, and unpacks nothing.
func fetchLarge(l *lab, t *tool, _ int) (time.Duration, error) {
	if err := l.startRegistry(l.tools[0]); err != nil {
		return 0, err
	}
	name := l.registry + "/large:1"
	took, err := timed(t.fetch(name))
	if err != nil {
		return 0, err
	}
	return took, untimed(t.remove(name))
}

// pushLarge pushes the large image, which is in the tool's store, to a registry
// that has nothing yet.
func pushLarge(l *lab, t *tool, i int) (took time.Duration, err error) {
	if err := l.startRegistry(l.tools[0]); err != nil {
		return 0, err
	}
	name := l.registry + "/large:1"
	get := t.fetch
	if get == nil {
		get = func(name string) *exec.Cmd { return t.pull(name)[0] }
	}
	if err := untimed(get(name)); err != nil {
		return 0, err
	}
	addr, stop, err := l.emptyRegistry(fmt.Sprintf("empty-%s-%d", t.name, i))
	if err != nil {
		return 0, err
	}
	defer stop()
	to := addr + "/large:1"
	for _, cmd := range t.push(name, to) {
		d, err := timed(cmd)
		if err != nil {
			return 0, err
		}
		took += d
	}
	for _, n := range []string{to, name} {
		if err := untimed(t.remove(n)); err != nil {
			return 0, err
		}
	}
	return took, nil
}

// untimed is timed of what is not measured.
func untimed(cmd *exec.Cmd) error {
	before, used := peak, cpu
	defer func() { peak, cpu = before, used }()
	_, err := timed(cmd)
	return err
}
