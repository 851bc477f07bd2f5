// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"builder/build"
	"builder/cdi"
	"builder/container"
	"builder/network"
	"builder/supervisor"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// runFlags are the flags about RUN steps.
type runFlags struct {
	network, shmSize, cgroupParent, cdiDir string

	addHosts, ulimits, allow, env, devices, volumes []string

	dnsFlags

	capAdd, capDrop, securityOpt []string

	resourceFlags
}

func (f *runFlags) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&f.network, "network", "default", "network of RUN: `default|host|none` or the name of one")
	wordsVar(fs, &f.allow, "allow", "let the Dockerfile have `security.insecure|network.host|device[=NAME]|secret.leak|buildx.local.delete`")
	wordsVar(fs, &f.addHosts, "add-host", "further line of /etc/hosts, `NAME:IP`")
	f.dnsFlags.addFlags(fs)
	fs.StringVar(&f.shmSize, "shm-size", "", "size of /dev/shm, such as 64m")
	wordsVar(fs, &f.ulimits, "ulimit", "resource limit, `NAME=SOFT[:HARD]`")
	fs.StringVar(&f.cgroupParent, "cgroup-parent", "", "control group below which RUN steps run")
	wordsVar(fs, &f.env, "env", "set a variable of every stage, `NAME[=VALUE]`, without a value the environment's")
	wordsVar(fs, &f.devices, "device", "device for RUN, `PATH[:TARGET][:rwm]` or the name of a CDI device")
	fs.StringVar(&f.cdiDir, "cdi-config-dir", "", "`DIR`ectory of CDI specifications (default /etc/cdi and /var/run/cdi)")
	wordsVarP(fs, &f.volumes, "volume", "v", "mount a directory or file of this machine in RUN, `PATH:TARGET[:ro|rw|O]`")
	wordsVar(fs, &f.capAdd, "cap-add", "give RUN a `CAPABILITY`")
	wordsVar(fs, &f.capDrop, "cap-drop", "take a `CAPABILITY` away from RUN")
	wordsVar(fs, &f.securityOpt, "security-opt", "confinement of RUN: `no-new-privileges|seccomp=unconfined|seccomp=FILE`")
	f.resourceFlags.addFlags(fs)
}

// resolve reads the flags; flag names the one that is wrong.
func (f *runFlags) resolve(e *env, opts *build.Options) (flag string, err error) {
	run := &opts.Run
	run.Network, run.CgroupParent = f.network, f.cgroupParent
	if run.Network == "default" && e.getenv("BUILDER_NETWORK") == "none" {
		run.Network = "none" // the others are no part of a step's identity
	}
	if err := e.checkBuildNetwork(run.Network); err != nil {
		return "network", err
	}
	if opts.Allow, err = parseAllow(f.allow); err != nil {
		return "allow", err
	}
	if f.shmSize != "" {
		if run.ShmSize, err = units.RAMInBytes(f.shmSize); err != nil {
			return "shm-size", err
		}
		if run.ShmSize <= 0 {
			return "shm-size", fmt.Errorf("%q: want more than 0", f.shmSize)
		}
	}
	if run.Rlimits, err = parseUlimits(f.ulimits); err != nil {
		return "ulimit", err
	}
	if run.Hosts, err = parseHosts(f.addHosts); err != nil {
		return "add-host", err
	}
	if run.Resources, flag, err = f.resourceFlags.resolve(); err != nil {
		return flag, err
	}
	if opts.Env, err = parseStageEnv(e, f.env); err != nil {
		return "env", err
	}
	if flag, err = f.resolveDNS(&run.DNS); err != nil {
		return flag, err
	}
	opts.Devices = cdiRegistry(f.cdiDir)
	return f.confine(run)
}

// checkBuildNetwork reports an error unless RUN steps can be on a network.
func (e *env) checkBuildNetwork(name string) error {
	switch {
	case name == "default" || name == "host" || name == "none":
		return nil
	case name == network.Default:
		return fmt.Errorf("%q: it is the default, and not named", name)
	case name == "" || strings.HasPrefix(name, "container:"):
		return fmt.Errorf("%q: want default, host, none or the name of a network", name)
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	_, err = supervisor.NewRecords(s).Networks().Find(name)
	return err
}

// cdiRegistry is that of a directory or, for "", of the usual ones.
func cdiRegistry(dir string) *cdi.Registry {
	if dir == "" {
		return cdi.NewRegistry()
	}
	return cdi.NewRegistry(dir)
}

// parseStageEnv reads NAME=VALUE and NAME, which means the environment's value
// and nothing without one.
func parseStageEnv(e *env, words []string) ([]string, error) {
	var out []string
	for _, w := range words {
		name, _, ok := strings.Cut(w, "=")
		if name == "" {
			return nil, fmt.Errorf("%q: want NAME or NAME=VALUE", w)
		}
		if !ok {
			v, given := lookupEnv(e, name)
			if !given {
				continue
			}
			w += "=" + v
		}
		out = append(out, w)
	}
	return out, nil
}

// confine reads capabilities, security options, devices and volumes.
func (f *runFlags) confine(run *build.RunOptions) (flag string, err error) {
	for flag, names := range map[string][]string{"cap-add": f.capAdd, "cap-drop": f.capDrop} {
		if err := container.CheckCaps(names); err != nil {
			return flag, err
		}
	}
	run.CapAdd, run.CapDrop = f.capAdd, f.capDrop
	for _, opt := range f.securityOpt {
		if err := securityOption(opt, &run.Seccomp, &run.NoNewPrivileges); err != nil {
			return "security-opt", err
		}
	}
	for _, w := range f.devices {
		if strings.Contains(w, "=") {
			run.CDIDevices = append(run.CDIDevices, w)
			continue
		}
		d, err := parseDevice(w)
		if err != nil {
			return "device", err
		}
		run.Devices = append(run.Devices, d)
	}
	for _, w := range f.volumes {
		v, err := parseBuildVolume(w)
		if err != nil {
			return "volume", err
		}
		run.Volumes = append(run.Volumes, v)
	}
	return "", nil
}

// parseBuildVolume reads PATH:TARGET[:OPTION[,OPTION]].
func parseBuildVolume(word string) (build.Volume, error) {
	parts := strings.Split(word, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return build.Volume{}, fmt.Errorf("%q: want PATH:TARGET[:OPTIONS]", word)
	}
	v := build.Volume{Source: parts[0], Target: path.Clean(parts[1])}
	switch {
	case !filepath.IsAbs(v.Source):
		return v, fmt.Errorf("%q: %q is not an absolute path, and builds have no named volumes", word, v.Source)
	case !path.IsAbs(parts[1]) || v.Target == "/":
		return v, fmt.Errorf("%q: %q is no place to mount on: want an absolute path", word, parts[1])
	}
	if _, err := os.Stat(v.Source); err != nil {
		return v, err
	}
	if len(parts) < 3 {
		return v, nil
	}
	for opt := range strings.SplitSeq(parts[2], ",") {
		switch opt {
		case "ro":
			v.ReadOnly = true
		case "rw":
			v.ReadOnly = false
		case "O":
			v.Scratch = true
		case "z", "Z":
			if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
				return v, fmt.Errorf("%q: option %s: labels of SELinux, which this machine has, are not set", word, opt)
			}
		case "U":
			return v, fmt.Errorf("%q: option U is not supported: builder changes no owners on this machine, use chown(1)", word)
		default:
			return v, fmt.Errorf("%q: option %q is not supported: want ro, rw or O", word, opt)
		}
	}
	return v, nil
}
