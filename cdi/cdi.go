// SPDX-License-Identifier: Apache-2.0

// Package cdi finds the devices that the machine's specifications of the
// Container Device Interface describe, and says what a container needs to have
// one. The specifications are files in /etc/cdi and /var/run/cdi.
package cdi

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"builder/container"
	"builder/mount"

	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
	specs "tags.cncf.io/container-device-interface/specs-go"
)

// Annotations of a device or a specification that BuildKit reads.
const (
	classAnnotation     = "org.mobyproject.buildkit.device.class"
	autoAllowAnnotation = "org.mobyproject.buildkit.device.autoallow"
)

// Registry is what is described in some directories. They are read when the
// first device is looked for. A nil Registry has no devices.
type Registry struct {
	load func() (*cdi.Cache, error)
}

// NewRegistry returns the registry of directories, of which the last has the
// last word; none means the usual ones.
func NewRegistry(dirs ...string) *Registry {
	if len(dirs) == 0 {
		dirs = cdi.DefaultSpecDirs
	}
	return &Registry{sync.OnceValues(func() (*cdi.Cache, error) {
		return cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(dirs...))
	})}
}

// Find returns the full names of the devices that name means: VENDOR/CLASS=NAME,
// VENDOR/CLASS=* for all of a kind, VENDOR/CLASS for its first, or a class that
// devices are annotated with. It returns none if there are none; a file that
// can't be read is an error then, as it may be the one that has it.
func (r *Registry) Find(name string) ([]string, error) {
	if r == nil {
		return nil, nil
	}
	c, err := r.load()
	if err != nil {
		return nil, fmt.Errorf("read CDI specifications: %w", err)
	}
	kind, device, _ := strings.Cut(name, "=")
	vendor, _ := parser.ParseQualifier(kind)
	var out []string
	for _, d := range c.ListDevices() { // sorted
		if vendor == "" {
			break
		}
		ofKind := strings.HasPrefix(d, kind+"=")
		if (device == "" && ofKind && len(out) == 0) || (device == "*" && ofKind) || d == name {
			out = append(out, d)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	for _, d := range c.ListDevices() {
		if class := annotation(c.GetDevice(d), classAnnotation); class != "" && class == name {
			out = append(out, d)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	bad := c.GetErrors()
	for _, file := range slices.Sorted(maps.Keys(bad)) {
		if ext := filepath.Ext(file); ext == ".json" || ext == ".yaml" {
			return nil, fmt.Errorf("device %q is not registered, and the CDI specification %s can't be used: %w", name, file, errors.Join(bad[file]...))
		}
	}
	return nil, nil
}

// annotation is that of a device or, if it has none, of its specification.
func annotation(d *cdi.Device, key string) string {
	if v, ok := d.Annotations[key]; ok {
		return v
	}
	return d.GetSpec().Annotations[key]
}

// AutoAllowed reports whether the machine's administrator lets every build
// have a device, which is named in full.
func (r *Registry) AutoAllowed(device string) bool {
	if r == nil {
		return false
	}
	c, err := r.load()
	if err != nil || c.GetDevice(device) == nil {
		return false
	}
	ok, err := strconv.ParseBool(annotation(c.GetDevice(device), autoAllowAnnotation))
	return err == nil && ok
}

// Edits are what a container gets so that it has devices.
type Edits struct {
	Env     []string
	Devices []container.Device
	Mounts  []mount.Mount
	Groups  []string
}

// Edits returns what is needed for devices, which are named in full. What only
// a container runtime could do, as running hooks, is an error.
func (r *Registry) Edits(devices []string) (Edits, error) {
	var e Edits
	if r == nil {
		return e, fmt.Errorf("device %s is not registered", strings.Join(devices, ", "))
	}
	c, err := r.load()
	if err != nil {
		return e, fmt.Errorf("read CDI specifications: %w", err)
	}
	seen := map[*cdi.Spec]bool{}
	for _, name := range devices {
		d := c.GetDevice(name)
		if d == nil {
			return e, fmt.Errorf("device %s is not registered", name)
		}
		edits := []*specs.ContainerEdits{&d.ContainerEdits}
		if s := d.GetSpec(); !seen[s] {
			seen[s] = true
			edits = []*specs.ContainerEdits{&s.ContainerEdits, &d.ContainerEdits}
		}
		for _, edit := range edits {
			if err := e.add(edit); err != nil {
				return e, fmt.Errorf("device %s of %s: %w", name, d.GetSpec().GetPath(), err)
			}
		}
	}
	return e, nil
}

func (e *Edits) add(edit *specs.ContainerEdits) error {
	switch {
	case len(edit.Hooks) > 0:
		h := edit.Hooks[0]
		return fmt.Errorf("it wants a %s hook to be run (%s): builder runs no hooks on the machine", h.HookName, h.Path)
	case edit.IntelRdt != nil:
		return errors.New("it wants Intel RDT, which is not supported")
	case len(edit.NetDevices) > 0:
		return errors.New("it wants network devices, which are not supported")
	}
	e.Env = append(e.Env, edit.Env...)
	for _, gid := range edit.AdditionalGIDs {
		e.Groups = append(e.Groups, strconv.FormatUint(uint64(gid), 10))
	}
	for _, n := range edit.DeviceNodes {
		d, err := device(n)
		if err != nil {
			return err
		}
		e.Devices = append(e.Devices, d)
	}
	for _, m := range edit.Mounts {
		made, err := bind(m)
		if err != nil {
			return err
		}
		e.Mounts = append(e.Mounts, made)
	}
	return nil
}

// device fills in what a specification leaves to the machine's node.
func device(n *specs.DeviceNode) (container.Device, error) {
	from := n.HostPath
	if from == "" {
		from = n.Path
	}
	d := container.Device{Path: n.Path, Major: uint32(n.Major), Minor: uint32(n.Minor), Access: n.Permissions}
	switch n.Type {
	case "b":
		d.Type = 'b'
	case "c", "u":
		d.Type = 'c'
	case "":
		host, err := container.HostDevice(from)
		if err != nil {
			return d, err
		}
		host.Path, host.Access = d.Path, d.Access
		d = host
	default:
		return d, fmt.Errorf("device node %s has type %q, which is not supported", n.Path, n.Type)
	}
	if n.FileMode != nil {
		d.Mode = uint32(n.FileMode.Perm())
	}
	if n.UID != nil {
		d.UID = *n.UID
	}
	if n.GID != nil {
		d.GID = *n.GID
	}
	return d, nil
}

func bind(m *specs.Mount) (mount.Mount, error) {
	made := mount.Mount{Type: mount.Bind, Source: m.HostPath, Target: m.ContainerPath}
	if m.Type != "" && m.Type != "bind" && m.Type != "none" {
		return made, fmt.Errorf("mount on %s has type %q, which is not supported", m.ContainerPath, m.Type)
	}
	for _, opt := range m.Options {
		switch opt {
		case "ro":
			made.ReadOnly = true
		case "rbind":
			made.Recursive = true
		case "nosuid":
			made.NoSuid = true
		case "nodev":
			made.NoDev = true
		case "noexec":
			made.NoExec = true
		case "private", "rprivate", "slave", "rslave", "shared", "rshared":
			made.Propagation = opt
		case "bind", "rw", "suid", "dev", "exec":
		default:
			return made, fmt.Errorf("mount on %s has the option %q, which is not supported", m.ContainerPath, opt)
		}
	}
	return made, nil
}
