// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/container"
	"builder/image"
	"builder/internal/filelock"
	"builder/internal/owner"
	"builder/internal/quickjson"
	"builder/internal/sys"
	"builder/rootfs"
	"builder/snapshot"
	"builder/supervisor"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// createOptions are the flags that say what a container is to be.
type createOptions struct {
	lifeFlags

	interactive, tty, quiet bool
	atOnce                  bool // it is for run

	workdir, user, umask, entrypoint, hostname, domainname, timezone, shmSize, pull, platform string

	addHosts, ulimits []string

	noHosts, verify bool

	envFlags
	dnsFlags
	networkFlags
	mountFlags
	resourceSpecFlags
	securityFlags

	attach []string

	entrypointSet, attachStdin bool
	set                        map[string]any // flags given, for inspect
}

func (o *createOptions) addFlags(fs *pflag.FlagSet) {
	fs.SetInterspersed(false)
	o.lifeFlags.addFlags(fs)
	fs.BoolVarP(&o.interactive, "interactive", "i", false, "pass standard input to the process")
	fs.BoolVarP(&o.tty, "tty", "t", false, "give the process a terminal")
	wordsVarP(fs, &o.attach, "attach", "a", "attach to `stdin|stdout|stderr` (default the last two, and the first with -i)")
	o.envFlags.addFlags(fs)
	fs.StringVarP(&o.workdir, "workdir", "w", "", "working `DIR`ectory")
	fs.StringVarP(&o.user, "user", "u", "", "user and group, `NAME|UID[:GROUP|GID]`")
	fs.StringVar(&o.umask, "umask", "", "file mode creation mask, such as 0027 (default 0022)")
	o.mountFlags.addFlags(fs)
	fs.StringVar(&o.entrypoint, "entrypoint", "", "run this instead of the image's entry point")
	o.networkFlags.addFlags(fs)
	fs.StringVarP(&o.hostname, "hostname", "h", "", "host name in the container")
	fs.StringVar(&o.domainname, "domainname", "", "domain `NAME` of the container")
	fs.BoolVar(&o.noHosts, "no-hosts", false, "leave /etc/hosts as the image has it")
	fs.StringVar(&o.timezone, "tz", "", "time `ZONE`, such as Europe/Paris, or local for this machine's")
	wordsVar(fs, &o.addHosts, "add-host", "further line of /etc/hosts, `NAME:IP`")
	o.dnsFlags.addFlags(fs)
	o.resourceSpecFlags.addFlags(fs)
	o.securityFlags.addFlags(fs)
	fs.StringVar(&o.shmSize, "shm-size", "", "size of /dev/shm, such as 64m")
	wordsVar(fs, &o.ulimits, "ulimit", "resource limit, `NAME=SOFT[:HARD]`")
	fs.StringVar(&o.pull, "pull", "missing", "fetch the image: always, missing or never")
	fs.StringVar(&o.platform, "platform", "", "of an image for several platforms, the one for `OS/ARCH[/VARIANT]`")
	fs.BoolVar(&o.verify, "tls-verify", true, tlsUsage)
	addRefused(fs, refusedByRun)
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "don't show the fetching of the image")
	otherNames(fs, map[string]string{"net": "network", "net-alias": "network-alias", "dns-opt": "dns-option"})
}

// given notes which flags were given.
func (o *createOptions) given(fs *pflag.FlagSet) {
	o.entrypointSet = fs.Changed("entrypoint")
	o.set = map[string]any{}
	fs.Visit(func(f *pflag.Flag) {
		if slice, ok := f.Value.(pflag.SliceValue); ok {
			o.set[f.Name] = slice.GetSlice()
		} else {
			o.set[f.Name] = f.Value.String()
		}
	})
}

// runCreate makes a container that is started later.
func runCreate(ctx context.Context, e *env, args []string) error {
	fs := flags("create")
	var o createOptions
	o.addFlags(fs)
	rest, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	o.given(fs)
	o.attachStdin = o.interactive
	c, lock, err := e.createContainer(ctx, &o, rest[0], rest[1:])
	if err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, c.ID)
	return lock.Release()
}

// createContainer makes a container of an image, with its lock held.
func (e *env) createContainer(ctx context.Context, o *createOptions, name string, args []string) (c supervisor.Config, lock *filelock.Lock, err error) {
	s, rfs, err := e.rootFS()
	if err != nil {
		return c, nil, err
	}
	if err := cmp.Or(o.check(), o.beyondReach()); err != nil {
		return c, nil, err
	}
	records := e.records(s)
	ns, flag, err := o.usernsFlags.choice(records)
	if err != nil {
		return c, nil, &usageError{msg: fmt.Sprintf("run: --%s: %v", flag, err), hint: "builder run --help"}
	}
	owners := diskOwners(ns.ids)
	img, below, err := e.unpackForRun(ctx, s, rfs, o, name, owners)
	if err != nil {
		return c, nil, err
	}
	c = supervisor.Config{
		ID: supervisor.NewID(), Name: o.name, Image: name, ImageID: img.ID().String(), Snapshot: string(below), Created: time.Now(),
		OpenStdin: o.interactive, StdinOnce: o.attachStdin, AutoRemove: o.rm, ToRun: o.atOnce,
	}
	if err := o.fill(e, img, args, &c); err != nil {
		return c, nil, err
	}
	ns.apply(&c)
	if flag, err := o.securityFlags.fill(records, &c); err != nil {
		return c, nil, &usageError{msg: fmt.Sprintf("run: --%s: %v", flag, err), hint: "builder run --help"}
	}
	if err := o.connect(e, records, &c); err != nil {
		return c, nil, err
	}
	if c.Options, err = quickjson.Marshal(o.set); err != nil {
		return c, nil, err
	}
	if o.timezone != "" {
		zone, err := zoneFile(o.timezone)
		if err != nil {
			return c, nil, &usageError{msg: fmt.Sprintf("run: --tz: %v", err)}
		}
		o.mounts = append(o.mounts, "type=bind,readonly,dst=/etc/localtime,src="+zone)
	}
	if c.Mounts, err = o.resolve(ctx, s, rfs, img, below, owners); err != nil {
		return c, nil, errors.Join(err, records.RemoveVolumes(c))
	}
	if o.replace {
		if err := e.removeNamed(ctx, o.name); err != nil {
			return c, nil, errors.Join(err, records.RemoveVolumes(c))
		}
	}
	lock, err = records.Create(&c, func(dir string) error {
		active, err := rfs.Snapshots().Prepare(ctx, below, dir)
		if err == nil && below == "" && owners != nil { // there is nothing that says whose "/" is
			uid, gid := rootOwner(owners)
			err = os.Chown(active.Upper(), uid, gid)
		}
		if err == nil && o.workdir != "" && !o.atOnce {
			if err = makeWorkdir(active, c, owners); o.replace {
				err = nil // its start tells: the one that it replaces is gone
			}
		}
		return err
	})
	if err != nil {
		return c, nil, errors.Join(err, records.RemoveVolumes(c))
	}
	if err := o.writeCidfile(c.ID); err != nil {
		return c, nil, errors.Join(err, records.RemoveHeld(c), lock.Release())
	}
	records.Event(c, "create", nil)
	// What the container stands on is kept by its record from now on: others
	// need not wait for its end to collect the rest.
	if err := s.Leave(); err != nil {
		return c, nil, errors.Join(err, lock.Release())
	}
	return c, lock, nil
}

// rootOwner is what root of a container is on disk.
func rootOwner(owners rootfs.Owners) (uid, gid int) {
	u, _ := owners.UID(0)
	g, _ := owners.GID(0)
	return int(u), int(g)
}

// makeWorkdir makes the working directory of a container that is to start later, as
// docker does, so that things can be copied there before. What is inside of a mount is
// made by the start.
func makeWorkdir(active snapshot.Active, c supervisor.Config, owners rootfs.Owners) error {
	for _, m := range c.Mounts {
		if m.Target == c.Spec.Dir || strings.HasPrefix(c.Spec.Dir, m.Target+"/") {
			return nil
		}
	}
	root, err := active.MountWith(snapshot.Properties{Durable: true})
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := sys.MkdirAllInRoot(root, c.Spec.Dir, 0o755, func(made *os.File, _ string) error {
		if owners == nil {
			return nil
		}
		uid, gid := rootOwner(owners)
		return owner.Chown(made, uid, gid)
	})
	if err != nil {
		return fmt.Errorf("--workdir %s: %w", c.Spec.Dir, err)
	}
	return dir.Close()
}

// zoneFile is the file of this machine that describes a time zone (tzfile(5)).
func zoneFile(zone string) (string, error) {
	name := "/etc/localtime"
	if zone != "local" {
		name = filepath.Join("/usr/share/zoneinfo", zone)
		if !filepath.IsLocal(zone) || strings.ContainsAny(zone, ",\"") {
			return "", fmt.Errorf("%q is no time zone", zone)
		}
	}
	data, err := os.ReadFile(name)
	if err == nil && !bytes.HasPrefix(data, []byte("TZif")) {
		err = errors.New("it describes no time zone")
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", zone, err)
	}
	return filepath.EvalSymlinks(name)
}

// removeNamed removes the container of a name, running or not, if there is one.
func (e *env) removeNamed(ctx context.Context, name string) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	other, err := client.Records.Find(name)
	if errors.Is(err, supervisor.ErrNotFound) || err == nil && other.Name != name {
		return nil
	}
	if err == nil {
		err = e.removeContainer(ctx, client, other, true, 0)
	}
	if err != nil {
		return fmt.Errorf("--replace %s: %w", name, err)
	}
	return nil
}

// fill is the container that flags and image ask for.
func (o *createOptions) fill(e *env, img image.Image, args []string, c *supervisor.Config) error {
	config := img.Config.Config
	c.Entrypoint, c.Cmd = config.Entrypoint, config.Cmd
	if o.entrypointSet {
		c.Entrypoint, c.Cmd = nil, nil
		if o.entrypoint != "" {
			c.Entrypoint = []string{o.entrypoint}
		}
	}
	if len(args) > 0 {
		c.Cmd = args
	}
	for port := range config.ExposedPorts {
		c.Exposed = append(c.Exposed, port)
	}
	slices.Sort(c.Exposed)
	c.Spec = container.Spec{
		Args: append(slices.Clone(c.Entrypoint), c.Cmd...), Dir: first(o.workdir, config.WorkingDir), User: first(o.user, config.User),
		Hostname: o.hostname, Domainname: o.domainname, NoHosts: o.noHosts, Terminal: o.tty,
	}
	if len(c.Spec.Args) == 0 {
		return errors.New("no command given, and the image names none")
	}
	if c.Spec.Dir != "" && !filepath.IsAbs(c.Spec.Dir) {
		return &usageError{msg: fmt.Sprintf("run: --workdir %q is not an absolute path", c.Spec.Dir)}
	}
	var err error
	if c.Spec.Env, err = o.envFlags.list(e, config.Env); err != nil {
		return err
	}
	if err := o.life(img, c); err != nil {
		return err
	}
	if flag, err := o.resourceSpecFlags.fill(&c.Spec, e.warn); err != nil {
		return &usageError{msg: fmt.Sprintf("run: --%s: %v", flag, err), hint: "builder run --help"}
	}
	return o.confine(&c.Spec)
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// confine sets hosts, limits and mounts.
func (o *createOptions) confine(spec *container.Spec) error {
	bad := func(flag string, err error) error {
		return &usageError{msg: fmt.Sprintf("run: --%s: %v", flag, err), hint: "builder run --help"}
	}
	var err error
	if spec.Hosts, err = parseHosts(o.addHosts); err != nil {
		return bad("add-host", err)
	}
	if o.noHosts && len(o.addHosts)+len(o.links) > 0 {
		return bad("no-hosts", errors.New("--add-host and --link would have nowhere to be written to"))
	}
	if o.umask != "" {
		mask, err := strconv.ParseUint(o.umask, 8, 32)
		if err != nil || mask > 0o777 {
			return bad("umask", fmt.Errorf("%q is no octal number from 0 to 0777", o.umask))
		}
		spec.Umask = new(uint32(mask))
	}
	if flag, err := o.resolveDNS(&spec.DNS); err != nil {
		return bad(flag, err)
	}
	if spec.Rlimits, err = parseUlimits(o.ulimits); err != nil {
		return bad("ulimit", err)
	}
	if o.shmSize != "" {
		if spec.ShmSize, err = units.RAMInBytes(o.shmSize); err != nil {
			return bad("shm-size", err)
		}
	}
	return nil
}

// tlsUsage is podman's flag.
const tlsUsage = "check the registry's certificate, and don't speak http"
