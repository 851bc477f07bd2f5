// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// startRegistry runs Debian's registry on a free loopback port and puts an
// image of about a gigabyte of files into it, once.
func (l *lab) startRegistry(t *tool) error {
	if l.registry != "" {
		return nil
	}
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := listen.Addr().String()
	_ = listen.Close()
	config := filepath.Join(l.dir, "registry.yml")
	yml := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", filepath.Join(l.dir, "registry"), addr)
	if err := os.WriteFile(config, []byte(yml), 0o600); err != nil {
		return err
	}
	cmd := exec.Command("docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		return err
	}
	l.stop = append(l.stop, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	if err := l.fillRegistry(t, addr); err != nil {
		return err
	}
	l.registry = addr
	return nil
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
	if _, err := timed(t.build(dir, "bench-large", true)); err != nil {
		return err
	}
	archive := filepath.Join(l.dir, "large.oci")
	if _, err := timed(t.save("bench-large", archive)); err != nil {
		return err
	}
	_, err = timed(exec.Command("skopeo", "copy", "-q", "--dest-tls-verify=false", "oci-archive:"+archive, "docker://"+addr+"/large:1"))
	return err
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
	_, err := timed(t.remove(name))
	return took, err
}
