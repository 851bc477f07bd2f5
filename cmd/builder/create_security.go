// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"builder/container"
	"builder/supervisor"

	"github.com/spf13/pflag"
)

// securityFlags are the flags about how a container is confined.
type securityFlags struct {
	readOnly, init, privileged bool

	capAdd, capDrop, securityOpt, groupAdd []string

	ipc, pid, uts string

	usernsFlags
}

func (f *securityFlags) addFlags(fs *pflag.FlagSet) {
	wordsVar(fs, &f.groupAdd, "group-add", "further group of the process")
	fs.BoolVar(&f.readOnly, "read-only", false, "make the file system read-only")
	fs.BoolVar(&f.init, "init", false, "run a small init process that reaps others")
	fs.BoolVar(&f.privileged, "privileged", false, "drop nearly all confinement")
	wordsVar(fs, &f.capAdd, "cap-add", "give a capability, or ALL")
	wordsVar(fs, &f.capDrop, "cap-drop", "take a capability away, or ALL")
	wordsVar(fs, &f.securityOpt, "security-opt", "`OPTION`: no-new-privileges, seccomp=unconfined|FILE, apparmor=PROFILE, systempaths=unconfined, writable-cgroups, mask=PATHS, unmask=PATHS|ALL")
	fs.StringVar(&f.ipc, "ipc", "private", "shared memory and queues: its own, its own that others may share, only the latter, or shared: `private|shareable|none|host|container:NAME`")
	fs.StringVar(&f.pid, "pid", "private", "processes that it sees: `private|host|container:NAME`")
	fs.StringVar(&f.uts, "uts", "private", "host name: `private|host|container:NAME`")
	f.usernsFlags.addFlags(fs)
}

// fill sets what the flags say; flag names the one that is wrong.
func (f *securityFlags) fill(records supervisor.Records, c *supervisor.Config) (flag string, err error) {
	spec := &c.Spec
	for flag, names := range map[string][]string{"cap-add": f.capAdd, "cap-drop": f.capDrop} {
		if err := container.CheckCaps(names); err != nil {
			return flag, err
		}
	}
	spec.ReadOnly, spec.Init, spec.Privileged = f.readOnly, f.init, f.privileged
	spec.CapAdd, spec.CapDrop = f.capAdd, f.capDrop
	spec.GroupAdd = append(spec.GroupAdd, f.groupAdd...)
	for _, opt := range f.securityOpt {
		if err := f.option(opt, spec); err != nil {
			return "security-opt", err
		}
	}
	return f.share(records, c)
}

// share reads --ipc, --pid and --uts.
func (f *securityFlags) share(records supervisor.Records, c *supervisor.Config) (flag string, err error) {
	for _, s := range []struct {
		flag, value string
		sharing     *container.Sharing
		id          *string
	}{{"ipc", f.ipc, &c.Spec.IPC, &c.Join.IPC}, {"pid", f.pid, &c.Spec.PID, &c.Join.PID}, {"uts", f.uts, &c.Spec.UTS, &c.Join.UTS}} {
		name, other := strings.CutPrefix(s.value, "container:")
		switch {
		case s.value == "" || s.value == "private":
		case s.value == "shareable" && s.flag == "ipc":
			c.Join.Shareable = true
		case s.value == "none" && s.flag == "ipc":
			c.Spec.NoShm = true
		case s.value == "host":
			s.sharing.With = container.ShareHost
		case other:
			found, err := records.Find(name)
			if err != nil {
				return s.flag, err
			}
			if s.flag == "ipc" && !found.Join.Shareable && found.Join.IPC == "" && found.Spec.IPC.With != container.ShareHost {
				return s.flag, fmt.Errorf("container %s doesn't share its own: make it with --ipc shareable", found.Name)
			}
			s.sharing.With, *s.id = container.ShareOther, found.ID
		default:
			return s.flag, fmt.Errorf("%q: want private, host or container:NAME, and of --ipc shareable or none", s.value)
		}
	}
	if c.Spec.UTS.With != container.ShareNot && c.Spec.Hostname+c.Spec.Domainname != "" {
		return "uts", errors.New("with another's host name there is no --hostname and no --domainname")
	}
	return "", nil
}

// option reads a value of --security-opt.
func (f *securityFlags) option(opt string, spec *container.Spec) error {
	name, value, ok := strings.Cut(opt, "=")
	if !ok { // docker's older form
		name, value, _ = strings.Cut(opt, ":")
	}
	switch {
	case name == "apparmor" && value != "":
		spec.AppArmor = value
		return container.CheckAppArmor(value)
	case name == "systempaths" && value == "unconfined":
		spec.Unmask = append(spec.Unmask, "ALL")
	case name == "writable-cgroups":
		on, err := strconv.ParseBool(first(value, "true"))
		if err != nil {
			return fmt.Errorf("%q: want true or false", opt)
		}
		spec.WritableCgroups = on
	case (name == "mask" || name == "unmask") && value != "":
		return maskOption(name, value, spec)
	case name == "no-new-privileges" && value != "":
		return securityOption(name+"="+value, &spec.Seccomp, &spec.NoNewPrivileges)
	case name == "label" && value != "disable":
		return fmt.Errorf("%q is not supported: there are no SELinux labels here", opt)
	case name == "seccomp" || name == "no-new-privileges" || name == "label":
		return securityOption(strings.Replace(opt, ":", "=", 1), &spec.Seccomp, &spec.NoNewPrivileges)
	default:
		return fmt.Errorf("%q is not supported: there are no-new-privileges, seccomp=, apparmor=, label=disable, systempaths=unconfined, writable-cgroups, mask= and unmask=", opt)
	}
	return nil
}

// maskOption reads lists of absolute paths.
func maskOption(name, value string, spec *container.Spec) error {
	for p := range strings.SplitSeq(value, ":") {
		if name == "unmask" && strings.EqualFold(p, "all") {
			spec.Unmask = append(spec.Unmask, "ALL")
			continue
		}
		if !path.IsAbs(p) || path.Clean(p) == "/" {
			return fmt.Errorf("%s=%s: %q is not the absolute path of something below /", name, value, p)
		}
		if name == "mask" {
			spec.Mask = append(spec.Mask, p)
			continue
		}
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("%s=%s: %w", name, value, err)
		}
		spec.Unmask = append(spec.Unmask, path.Clean(p))
	}
	return nil
}
