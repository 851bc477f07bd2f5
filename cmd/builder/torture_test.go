// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"builder/image"
	"builder/layer"
	"builder/store"

	"github.com/opencontainers/go-digest"
)

// TestTorture has eight workers do everything that commands do with one state
// directory, all at once, and kills one command in six at a random moment.
// After it every image that a command had reported as done is whole, nothing
// is left of what was killed, and df says what du does.
//
// It lasts as long as BUILDER_TORTURE says (15m), a few seconds if it says
// nothing, and does what follows from BUILDER_TORTURE_SEED.
func TestTorture(t *testing.T) {
	duration := 8 * time.Second
	if v := os.Getenv("BUILDER_TORTURE"); v != "" {
		var err error
		if duration, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("BUILDER_TORTURE_SEED"); v != "" {
		if _, err := fmt.Sscan(v, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("BUILDER_TORTURE_SEED=%d", seed)
	w := newBench(t)
	torture := &torture{workbench: w, registry: startRegistry(t), cache: t.TempDir(), counts: map[string]int{}}
	var wg sync.WaitGroup
	end := time.Now().Add(duration)
	var workers []*torturer
	for i := range 8 {
		at := &torturer{torture: torture, number: i, random: rand.New(rand.NewPCG(seed, uint64(i))), dir: t.TempDir(), have: map[string]string{}, pushed: map[string]string{}}
		workers = append(workers, at)
		wg.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				at.act()
			}
		})
	}
	wg.Wait()
	torture.check(workers)
}

// torture is what the workers share.
type torture struct {
	*workbench
	registry string
	cache    string // a directory of caches

	mu     sync.Mutex
	counts map[string]int // of commands by what they were and how they ended
}

func (o *torture) count(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counts[what]++
}

// torturer does one command after the other. Names that begin with its own are
// nobody else's.
type torturer struct {
	*torture
	number int
	random *rand.Rand
	dir    string
	have   map[string]string // what an image of its own names says
	pushed map[string]string // what one in the registry says
}

// builder runs a command that may be killed; killed says that it was. A command
// that was not must succeed, unless what it says is among the excuses.
func (o *torturer) builder(excuses []string, args ...string) (out string, ok, killed bool) {
	cmd := o.command(args...)
	cmd.Dir = o.dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	if err := cmd.Start(); err != nil {
		o.t.Error(err)
		return "", false, false
	}
	var timer *time.Timer
	if o.random.IntN(6) == 0 {
		timer = time.AfterFunc(time.Duration(o.random.IntN(400))*time.Millisecond, func() { cmd.Process.Kill() })
	}
	err := cmd.Wait()
	if f := os.Getenv("BUILDER_TORTURE_LOG"); f != "" {
		log, _ := os.OpenFile(f, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		index, _ := os.ReadFile(filepath.Join(o.root, "index.json"))
		fmt.Fprintf(log, "%s %s w%d %v %q %x\n", began.Format("15:04:05.000"), time.Now().Format("15:04:05.000"), o.number, err, args, sha256.Sum256(index))
		log.Close()
	}
	if timer != nil {
		timer.Stop()
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		o.count(args[0])
		return stdout.String(), true, false
	case errors.As(err, &exit) && exit.ExitCode() == -1:
		o.count(args[0] + " killed")
		return "", false, true
	}
	for _, excuse := range excuses {
		if strings.Contains(stderr.String(), excuse) {
			o.count(args[0] + " excused")
			return "", false, false
		}
	}
	o.t.Errorf("worker %d: builder %s: %v\n%s", o.number, strings.Join(args, " "), err, stderr.String())
	return "", false, false
}

// Names of images.
func (o *torturer) own() string    { return fmt.Sprintf("own%d/i%d", o.number, o.random.IntN(3)) }
func (o *torturer) shared() string { return fmt.Sprintf("shared/i%d", o.random.IntN(3)) }

// gone excuses what is done to an image that somebody else has removed.
var gone = []string{"has no such name", "no such image", "not found", "is not in the image store"}

func (o *torturer) act() {
	switch n := o.random.IntN(20); {
	case n < 8:
		o.build()
	case n < 10:
		o.run()
	case n < 11:
		o.push()
	case n < 12:
		o.pull()
	case n < 14:
		o.saveAndLoad()
	case n < 16:
		o.tag()
	case n < 18:
		o.remove()
	default:
		o.prune()
	}
}

func (o *torturer) build() {
	mark := fmt.Sprintf("mark%d", o.random.IntN(4))
	dockerfile := "FROM test/base AS first\nRUN head -c 30000 /dev/urandom > /random && echo " + mark + " > /mark\n" +
		"FROM test/base\nRUN echo common > /common\nCOPY --from=first /mark /random /\nRUN --mount=type=cache,target=/c cat /mark >> /c/all; cat /mark /common > /said\nCOPY file /\n"
	if err := errors.Join(os.WriteFile(filepath.Join(o.dir, "Dockerfile"), []byte(dockerfile), 0o644),
		os.WriteFile(filepath.Join(o.dir, "file"), []byte{byte('0' + o.random.IntN(3))}, 0o644)); err != nil {
		o.t.Error(err)
		return
	}
	name, shared := o.own(), o.shared()
	args := []string{"build", "-q", "-t", name, "-t", shared}
	cache := filepath.Join(o.cache, mark)
	ref := o.registry + "/cache:" + mark
	switch o.random.IntN(6) {
	case 0:
		args = append(args, "--cache-to", "type=local,mode=max,dest="+cache)
	case 1:
		args = append(args, "--cache-from", "type=local,src="+cache)
	case 2:
		args = append(args, "--cache-to", "type=registry,mode=max,ref="+ref)
	case 3:
		args = append(args, "--cache-from", ref)
	case 4:
		args = append(args, "--no-cache")
	}
	_, ok, killed := o.builder(nil, append(args, ".")...)
	o.set(name, mark, ok, killed)
}

// set notes what an image of an own name says. After a kill it may be the old
// one or the new one.
func (o *torturer) set(name, mark string, ok, killed bool) {
	switch {
	case ok:
		o.have[name] = mark
	case killed:
		delete(o.have, name)
	}
}

// pick chooses a key.
func pick(r *rand.Rand, m map[string]string) (string, bool) {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return "", false
	}
	slices.Sort(keys)
	return keys[r.IntN(len(keys))], true
}

func (o *torturer) run() {
	name, ok := pick(o.random, o.have)
	if !ok {
		return
	}
	if out, ok, _ := o.builder(nil, "run", "--rm", "--pull=never", name, "cat", "/said"); ok && out != o.have[name]+"\ncommon\n" {
		o.t.Errorf("%s says %q, want %s", name, out, o.have[name])
	}
}

func (o *torturer) push() {
	name, ok := pick(o.random, o.have)
	if !ok {
		return
	}
	to := o.registry + "/" + strings.TrimPrefix(name, o.registry+"/")
	if _, ok, killed := o.builder(nil, "tag", name, to); !ok {
		if killed {
			delete(o.have, to)
		}
		return
	}
	o.have[to] = o.have[name]
	if _, ok, killed := o.builder(nil, "push", "-q", to); ok {
		o.pushed[to] = o.have[to]
	} else if killed {
		delete(o.pushed, to)
	}
}

func (o *torturer) pull() {
	if name, ok := pick(o.random, o.pushed); ok {
		_, ok, killed := o.builder(nil, "pull", "-q", name)
		o.set(name, o.pushed[name], ok, killed)
	}
}

func (o *torturer) saveAndLoad() {
	name, ok := pick(o.random, o.have)
	if !ok {
		return
	}
	archive := filepath.Join(o.dir, "saved.tar")
	if _, ok, _ := o.builder(nil, "save", "-o", archive, name); !ok {
		return
	}
	_, ok, killed := o.builder(nil, "load", "-q", "-i", archive)
	o.set(name, o.have[name], ok, killed)
}

func (o *torturer) tag() {
	name, ok := pick(o.random, o.have)
	if !ok {
		return
	}
	to := o.own()
	mark := o.have[name]
	if o.random.IntN(3) == 0 {
		other := o.shared()
		o.builder(gone, "untag", other, other) // that name alone
	}
	_, ok, killed := o.builder(nil, "tag", name, to)
	o.set(to, mark, ok, killed)
}

func (o *torturer) remove() {
	o.builder(gone, "rmi", "-f", o.shared())
	if name, ok := pick(o.random, o.have); ok {
		o.builder(nil, "rmi", "-f", name)
		delete(o.have, name)
	}
}

func (o *torturer) prune() {
	args := []string{"prune", "--force"}
	switch o.random.IntN(4) {
	case 0:
		args = append(args, "--keep-storage", "2MB")
	case 1:
		args = append(args, "--filter", "until=1s")
	case 2:
		args = append(args, "--max-used-space", "5MB")
	}
	// It says so if others hold the store and something has to stay.
	o.builder([]string{"another", "in use"}, args...)
}

// check holds what is true afterwards.
func (o *torture) check(workers []*torturer) {
	o.t.Helper()
	images, blobs := 0, 0
	// What was killed is cleared away by the next build or prune.
	for range 20 {
		o.ok("prune", "--force", "--filter", "until=1000h")
		if left, err := os.ReadDir(filepath.Join(o.root, "tmp")); err == nil && len(left) == 0 {
			break
		}
	}
	if out, err := exec.Command("find", filepath.Join(o.root, "tmp"), "-mindepth", "1", "-maxdepth", "3", "-ls").Output(); err != nil || len(out) > 0 {
		o.t.Errorf("temporary things are left: %v\n%s", err, out)
		locks, _ := os.ReadFile("/proc/locks")
		o.t.Logf("locks:\n%s", locks)
	}
	for _, at := range workers {
		for name, mark := range at.have {
			images++
			if out := o.ok("run", "--rm", "--pull=never", name, "cat", "/said"); out != mark+"\ncommon\n" {
				o.t.Errorf("%s says %q, want %s", name, out, mark)
			}
		}
	}
	s, err := store.Open(o.root)
	if err != nil {
		o.t.Fatal(err)
	}
	defer s.Close()
	entries, err := s.Entries()
	if err != nil {
		o.t.Fatal(err)
	}
	named := map[digest.Digest]bool{}
	for _, e := range entries {
		named[e.Desc.Digest] = named[e.Desc.Digest] || e.Name != ""
	}
	checked := map[digest.Digest]bool{}
	for _, e := range entries {
		if e.Name == "" && named[e.Desc.Digest] {
			o.t.Errorf("image %s has names and is nameless as well", e.Desc.Digest)
		}
		img, err := s.Image(e.Desc, image.HostPlatform())
		if err != nil {
			o.t.Errorf("image %s: %v", e.Name, err)
			continue
		}
		for i, l := range img.Manifest.Layers {
			if checked[l.Digest] {
				continue
			}
			checked[l.Digest] = true
			blobs++
			f, err := s.OpenBlobFile(l)
			if err != nil {
				o.t.Errorf("image %s: %v", e.Name, err)
				continue
			}
			plain, _, err := layer.Decompress(f)
			if err != nil {
				o.t.Errorf("image %s: layer %s: %v", e.Name, l.Digest, err)
				continue
			}
			sum := digest.SHA256.Digester()
			if _, err := io.Copy(sum.Hash(), plain); err != nil || sum.Digest() != img.Config.RootFS.DiffIDs[i] {
				o.t.Errorf("image %s: layer %s has diffID %s, the config says %s: %v", e.Name, l.Digest, sum.Digest(), img.Config.RootFS.DiffIDs[i], err)
			}
			plain.Close()
			f.Close()
		}
	}
	o.checkWhole()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), o.root) {
		o.t.Errorf("mounts are left: %v\n%s", err, mounts)
	}
	o.checkNoProcess()
	names := make([]string, 0, len(o.counts))
	for what, n := range o.counts {
		names = append(names, fmt.Sprintf("%s %d", what, n))
	}
	slices.Sort(names)
	o.t.Logf("%d names and %d layers checked; %s", images, blobs, strings.Join(names, ", "))
}

// checkNoProcess holds that no process has the state directory in its
// environment or open.
func (o *torture) checkNoProcess() {
	o.t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		o.t.Fatal(err)
	}
	for _, name := range names {
		if env, err := os.ReadFile(name); err == nil && bytes.Contains(env, []byte("BUILDER_ROOT="+o.root)) {
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
			o.t.Errorf("a process is left: %s", bytes.ReplaceAll(cmdline, []byte{0}, []byte(" ")))
		}
	}
}
