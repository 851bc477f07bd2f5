// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"builder/image"
	"builder/internal/sys"
	"builder/mount"
	"builder/progress"
	"builder/rootfs"
	"builder/snapshot"
	"builder/store"
	"builder/supervisor"
	"builder/volume"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// mountFlags are the flags about what a container has in its file system
// besides the image.
type mountFlags struct {
	volumes, mounts, tmpfs, volumesFrom []string

	driver string
}

func (f *mountFlags) addFlags(fs *pflag.FlagSet) {
	wordsVarP(fs, &f.volumes, "volume", "v", "mount a directory or file of this machine, or a volume: `[PATH|NAME:]TARGET[:ro,…]`")
	wordsVar(fs, &f.mounts, "mount", "mount something: `type=bind|volume|tmpfs|image,src=…,dst=…[,readonly]`")
	wordsVar(fs, &f.tmpfs, "tmpfs", "mount an empty file system in memory: `TARGET[:size=…,mode=…]`")
	wordsVar(fs, &f.volumesFrom, "volumes-from", "have the volumes and bind mounts of another container: `NAME[:ro]`")
	fs.StringVar(&f.driver, "volume-driver", "local", "`local` is the only one")
}

// request is a mount with what is not kept of it.
type mountRequest struct {
	supervisor.Mount
	unnamed bool              // a volume of which nothing was said but where
	noCopy  bool              // a volume isn't filled from the image
	makeDir bool              // a missing directory of a bind mount is made
	options map[string]string // of a volume that is made, as its labels
	labels  map[string]string
}

// mountedOn tells whether one of the mounts is on a path.
func mountedOn(list []mountRequest, target string) bool {
	return slices.ContainsFunc(list, func(m mountRequest) bool { return m.Target == target })
}

// resolve makes the list of a container's mounts, and the volumes that are not
// there yet. After an error it returns those for which something was made.
func (f *mountFlags) resolve(ctx context.Context, s *store.Store, rfs *rootfs.RootFS, img image.Image, below snapshot.ID, owners rootfs.Owners) ([]supervisor.Mount, error) {
	if f.driver != "local" {
		return nil, &usageError{msg: fmt.Sprintf("--volume-driver %q is not supported: there is local", f.driver)}
	}
	requests, err := f.parse()
	if err != nil {
		return nil, err
	}
	records := supervisor.NewRecords(s)
	inherited, err := f.inherited(records)
	if err != nil {
		return nil, err
	}
	has := func(target string) bool {
		return mountedOn(requests, target) || mountedOn(inherited, target)
	}
	for target := range img.Config.Config.Volumes {
		if target = path.Clean("/" + target); !has(target) && target != "/" {
			requests = append(requests, mountRequest{Mount: supervisor.Mount{Type: supervisor.MountVolume, Target: target}})
		}
	}
	requests = slices.DeleteFunc(requests, func(m mountRequest) bool { // so docker has it
		return m.unnamed && mountedOn(inherited, m.Target)
	})
	for _, m := range inherited {
		if !mountedOn(requests, m.Target) {
			requests = append(requests, m)
		}
	}
	// What is inside of another mount is mounted after it.
	sort.SliceStable(requests, func(i, j int) bool {
		return strings.Count(requests[i].Target, "/") < strings.Count(requests[j].Target, "/")
	})
	b := mountBuilder{s: s, rfs: rfs, records: records, below: below, owners: owners}
	defer b.close()
	var out []supervisor.Mount
	for _, r := range requests {
		m, err := b.prepare(ctx, r)
		out = append(out, m)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// parse reads the flags and refuses two mounts on one path.
func (f *mountFlags) parse() ([]mountRequest, error) {
	var out []mountRequest
	add := func(flag, text string, parse func(string) (mountRequest, error)) error {
		m, err := parse(text)
		if err != nil {
			return &usageError{msg: fmt.Sprintf("--%s %s: %v", flag, text, err), hint: "builder run --help"}
		}
		if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" {
			return &usageError{msg: fmt.Sprintf("--%s %s: %q must be an absolute path other than /", flag, text, m.Target)}
		}
		m.Target = path.Clean(m.Target)
		if i := slices.IndexFunc(out, func(have mountRequest) bool { return have.Target == m.Target }); i >= 0 {
			switch {
			case m.unnamed: // what is asked for by more words has its place
				return nil
			case !out[i].unnamed:
				return &usageError{msg: fmt.Sprintf("--%s %s: two mounts on %s", flag, text, m.Target)}
			}
			out = slices.Delete(out, i, i+1)
		}
		out = append(out, m)
		return nil
	}
	for _, group := range []struct {
		flag  string
		words []string
		parse func(string) (mountRequest, error)
	}{{"volume", f.volumes, parseVolume}, {"mount", f.mounts, parseMount}, {"tmpfs", f.tmpfs, parseTmpfs}} {
		for i, w := range group.words {
			if group.flag != "mount" && slices.Contains(group.words[:i], w) {
				continue // said twice
			}
			if err := add(group.flag, w, group.parse); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// inherited are the mounts of --volumes-from: the last of a place counts, as with docker.
func (f *mountFlags) inherited(records supervisor.Records) ([]mountRequest, error) {
	var out []mountRequest
	for _, w := range f.volumesFrom {
		name, mode, _ := strings.Cut(w, ":")
		c, err := records.Find(name)
		if err != nil {
			return nil, fmt.Errorf("--volumes-from: %w", err)
		}
		for _, m := range c.Mounts {
			if m.Type != supervisor.MountBind && m.Type != supervisor.MountVolume {
				continue
			}
			switch mode {
			case "", "rw", "z", "Z":
			case "ro":
				m.ReadOnly = true
			default:
				return nil, &usageError{msg: fmt.Sprintf("--volumes-from %s: unknown mode %q: there are ro and rw", w, mode)}
			}
			m.Anonymous = false // it goes with its first container
			out = slices.DeleteFunc(out, func(have mountRequest) bool { return have.Target == m.Target })
			out = append(out, mountRequest{Mount: m, noCopy: true})
		}
	}
	return out, nil
}

// parseVolume reads docker's -v.
func parseVolume(text string) (mountRequest, error) {
	parts := strings.Split(text, ":")
	m := mountRequest{Mount: supervisor.Mount{Type: supervisor.MountVolume}}
	switch len(parts) {
	case 1:
		m.Target, m.unnamed = parts[0], true
		return m, nil
	case 2:
		m.Source, m.Target = parts[0], parts[1]
	case 3:
		m.Source, m.Target = parts[0], parts[1]
	default:
		return m, errors.New("want [PATH|NAME:]TARGET[:OPTIONS]")
	}
	if m.Source == "" {
		return m, errors.New("nothing before the colon")
	}
	if strings.HasPrefix(m.Source, "/") || strings.HasPrefix(m.Source, ".") || strings.HasPrefix(m.Source, "~") {
		abs, err := filepath.Abs(m.Source)
		if err != nil {
			return m, err
		}
		m.Type, m.Source, m.makeDir = supervisor.MountBind, abs, true
	} else if err := volume.CheckName(m.Source); err != nil {
		return m, err
	}
	if len(parts) < 3 {
		return m, nil
	}
	for _, opt := range strings.Split(parts[2], ",") {
		switch opt {
		case "ro", "readonly":
			m.ReadOnly = true
		case "rw", "z", "Z", "cached", "delegated", "consistent": // the last five change nothing here
		case "nocopy":
			if m.noCopy = true; m.Type == supervisor.MountBind {
				return m, errors.New("nocopy is for volumes")
			}
		case "idmap":
			m.MapOwners = true // volumes that are no directory of the machine are always mounted so
		case "rbind":
		case "bind":
			m.NonRecursive = true
		default:
			if !mount.IsPropagation(opt) {
				return m, fmt.Errorf("option %q is not supported", opt)
			}
			if m.Propagation = opt; m.Type != supervisor.MountBind {
				return m, fmt.Errorf("%s is for paths of this machine", opt)
			}
		}
	}
	return m, nil
}

// parseMount reads docker's --mount, a line of CSV.
func parseMount(text string) (mountRequest, error) {
	m := mountRequest{Mount: supervisor.Mount{Type: supervisor.MountVolume}, options: map[string]string{}, labels: map[string]string{}}
	words, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return m, err
	}
	only := map[string]string{} // key: the type that it is for
	recursive := ""
	for _, w := range words {
		key, value, given := strings.Cut(w, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		flag := func() (bool, error) {
			if !given {
				return true, nil
			}
			on, err := strconv.ParseBool(value)
			if err != nil {
				return false, fmt.Errorf("invalid value for %s: %q", key, value)
			}
			return on, nil
		}
		var err error
		switch key {
		case "type":
			m.Type = strings.ToLower(value)
		case "source", "src":
			m.Source = value
		case "target", "dst", "destination":
			m.Target = value
		case "readonly", "ro":
			m.ReadOnly, err = flag()
		case "bind-propagation":
			m.Propagation, only[key] = value, supervisor.MountBind
		case "bind-nonrecursive":
			m.NonRecursive, err = flag()
			only[key] = supervisor.MountBind
		case "idmap":
			m.MapOwners, err = flag()
		case "bind-recursive":
			recursive = value
			switch value {
			case "enabled", "readonly":
			case "writable":
				m.TopReadOnly = true
			case "disabled":
				m.NonRecursive = true
			default:
				err = fmt.Errorf("invalid value for %s: %q", key, value)
			}
			only[key] = supervisor.MountBind
		case "bind-create-src", "bind-create-source":
			m.makeDir, err = flag()
			only[key] = supervisor.MountBind
		case "volume-nocopy":
			m.noCopy, err = flag()
			only[key] = supervisor.MountVolume
		case "volume-subpath":
			m.Subpath, only[key] = value, supervisor.MountVolume
		case "volume-driver":
			if value != "local" && value != "" {
				err = fmt.Errorf("volume-driver %q is not supported: there is local", value)
			}
			only[key] = supervisor.MountVolume
		case "volume-opt":
			k, v, _ := strings.Cut(value, "=")
			m.options[k], only[key] = v, supervisor.MountVolume
		case "volume-label":
			k, v, _ := strings.Cut(value, "=")
			m.labels[k], only[key] = v, supervisor.MountVolume
		case "image-subpath":
			m.Subpath, only[key] = value, supervisor.MountImage
		case "tmpfs-size":
			m.Size, err = units.RAMInBytes(value)
			only[key] = supervisor.MountTmpfs
		case "tmpfs-mode":
			var mode uint64
			mode, err = strconv.ParseUint(value, 8, 12)
			m.Mode, only[key] = uint32(mode), supervisor.MountTmpfs
		case "consistency":
		default:
			return m, fmt.Errorf("unexpected key %q", key)
		}
		if err != nil {
			return m, err
		}
	}
	if (recursive == "writable" || recursive == "readonly") && !m.ReadOnly {
		return m, fmt.Errorf("bind-recursive=%s says how far readonly goes, which is not there", recursive)
	}
	return m, checkMount(&m, only)
}

func checkMount(m *mountRequest, only map[string]string) error {
	for key, kind := range only {
		if kind != m.Type {
			return fmt.Errorf("%s is for type=%s, not for type=%s", key, kind, m.Type)
		}
	}
	if m.Target == "" {
		return errors.New("target is required")
	}
	if m.Subpath != "" && !filepath.IsLocal(m.Subpath) {
		return fmt.Errorf("the subpath %q must be a path within the %s", m.Subpath, m.Type)
	}
	switch m.Type {
	case supervisor.MountBind:
		if m.Source == "" {
			return errors.New("type=bind needs a source")
		}
		abs, err := filepath.Abs(m.Source)
		if err != nil {
			return err
		}
		m.Source = abs
		if m.Propagation != "" && !mount.IsPropagation(m.Propagation) {
			return fmt.Errorf("unknown bind-propagation %q", m.Propagation)
		}
	case supervisor.MountVolume:
		if m.Source != "" {
			return volume.CheckName(m.Source)
		}
	case supervisor.MountTmpfs:
		if m.Source != "" {
			return errors.New("type=tmpfs has no source")
		}
	case supervisor.MountImage:
		if m.Source == "" {
			return errors.New("type=image needs a source")
		}
		m.ReadOnly = true
	default:
		return fmt.Errorf("unknown type %q: there are bind, volume, tmpfs and image", m.Type)
	}
	return nil
}

// parseTmpfs reads docker's --tmpfs.
func parseTmpfs(text string) (mountRequest, error) {
	target, options, _ := strings.Cut(text, ":")
	m := mountRequest{Mount: supervisor.Mount{Type: supervisor.MountTmpfs, Target: target}}
	for _, o := range strings.Split(options, ",") {
		key, value, _ := strings.Cut(o, "=")
		var err error
		var n uint64
		switch key {
		case "":
		case "noatime", "relatime", "atime":
			m.NoAtime = key == "noatime"
		case "nr_inodes":
			m.Inodes = value
			digits := strings.TrimRight(value, "kKmMgG")
			if _, numErr := strconv.ParseUint(digits, 10, 63); numErr != nil || len(value)-len(digits) > 1 {
				err = fmt.Errorf("nr_inodes=%s: want a number, perhaps with k, m or g", value)
			}
		case "ro", "rw":
			m.ReadOnly = key == "ro"
		case "exec", "noexec":
			m.Exec = key == "exec"
		case "suid", "nosuid":
			m.Suid = key == "suid"
		case "dev", "nodev":
			m.Device = key == "dev"
		case "size":
			m.Size, err = units.RAMInBytes(value)
		case "mode":
			n, err = strconv.ParseUint(value, 8, 12)
			m.Mode = uint32(n)
		case "uid":
			m.UID, err = strconv.Atoi(value)
		case "gid":
			m.GID, err = strconv.Atoi(value)
		default:
			if m.Propagation = key; !mount.IsPropagation(key) {
				err = fmt.Errorf("option %q is not supported", o)
			}
		}
		if err != nil {
			return m, err
		}
	}
	return m, nil
}

// mountBuilder makes what mounts need.
type mountBuilder struct {
	s       *store.Store
	rfs     *rootfs.RootFS
	records supervisor.Records
	below   snapshot.ID
	owners  rootfs.Owners
	view    *os.File // of the image, once it is needed
}

func (b *mountBuilder) close() {
	if b.view != nil {
		b.view.Close()
	}
}

func (b *mountBuilder) prepare(ctx context.Context, r mountRequest) (supervisor.Mount, error) {
	m := r.Mount
	switch m.Type {
	case supervisor.MountBind:
		_, err := os.Stat(m.Source)
		if errors.Is(err, fs.ErrNotExist) && r.makeDir {
			err = os.MkdirAll(m.Source, 0o755)
		}
		if err != nil {
			return m, fmt.Errorf("mount on %s: %w", m.Target, err)
		}
	case supervisor.MountImage:
		img, err := b.image(ctx, m.Source)
		if err != nil {
			return m, fmt.Errorf("mount on %s: %w", m.Target, err)
		}
		m.Snapshot = string(img)
	case supervisor.MountVolume:
		want := volume.Volume{Name: m.Source, Options: r.options, Labels: r.labels}
		if err := volumeOptions(&want); err != nil {
			return m, fmt.Errorf("mount on %s: %w", m.Target, err)
		}
		vol, made, err := b.records.Volumes().Create(want)
		if err != nil {
			return m, err
		}
		if made {
			b.records.NoteVolume("create", vol.Name)
		}
		m.Anonymous = m.Anonymous || m.Source == ""
		m.Source = vol.Name
		if !r.noCopy && m.Subpath == "" {
			return m, b.fill(ctx, vol, m.Target)
		}
	}
	return m, nil
}

// fill fills an empty volume with what the image has at its place.
func (b *mountBuilder) fill(ctx context.Context, vol volume.Volume, target string) error {
	if b.below == "" {
		return nil
	}
	if b.view == nil {
		view, err := b.rfs.Snapshots().View(ctx, b.below)
		if err != nil {
			return err
		}
		b.view = view
	}
	from, err := sys.OpenInRoot(b.view, target, sys.PathOnly, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("fill volume %s: %w", vol.Name, err)
	}
	defer from.Close()
	if st, err := from.Stat(); err != nil || !st.IsDir() {
		return err
	}
	return b.records.Volumes().Fill(ctx, vol, from)
}

func (b *mountBuilder) image(ctx context.Context, name string) (snapshot.ID, error) {
	entry, err := b.s.Resolve(name)
	if err != nil {
		return "", err
	}
	img, err := b.s.Image(entry.Desc, image.HostPlatform())
	if err != nil {
		return "", err
	}
	return b.rfs.UnpackAs(ctx, img, b.owners, progress.Discard{}, "unpack "+name)
}
