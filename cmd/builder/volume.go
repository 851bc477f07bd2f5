// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"builder/internal/sys"
	"builder/supervisor"
	"builder/volume"
)

// runVolume calls the subcommands about volumes.
func runVolume(ctx context.Context, e *env, args []string) error {
	subs := map[string]func(context.Context, *env, []string) error{
		"ls": runVolumeLs, "list": runVolumeLs, "create": runVolumeCreate, "rm": runVolumeRm, "remove": runVolumeRm,
		"inspect": runVolumeInspect, "prune": runVolumePrune,
	}
	if len(args) == 0 || subs[args[0]] == nil {
		fs := flags("volume")
		if _, err := e.parse(fs, args, 1, -1); err != nil {
			return err
		}
		return &usageError{msg: fmt.Sprintf("volume: unknown command %q", args[0]), hint: "there are ls, create, rm, inspect and prune"}
	}
	return subs[args[0]](ctx, e, args[1:])
}

// volumeOptions reads the options of docker's local driver: a directory of this
// machine in the place of one of builder's.
func volumeOptions(v *volume.Volume) error {
	o := v.Options
	if len(o) == 0 {
		return nil
	}
	for k := range o {
		if k != "type" && k != "device" && k != "o" {
			return &usageError{msg: fmt.Sprintf("volume option %q is not known: there are type, device and o", k)}
		}
	}
	if (o["type"] != "none" && o["type"] != "") || !slices.Contains(strings.Split(o["o"], ","), "bind") {
		return &usageError{
			msg:  fmt.Sprintf("volumes of type=%s,o=%s are not supported: there is o=bind with a directory as device", o["type"], o["o"]),
			hint: "mount the file system on this machine and use --mount type=bind, or type=tmpfs for one in memory",
		}
	}
	if !filepath.IsAbs(o["device"]) {
		return &usageError{msg: fmt.Sprintf("volume option device=%s is no absolute path", o["device"])}
	}
	if st, err := os.Stat(o["device"]); err != nil || !st.IsDir() {
		return fmt.Errorf("volume option device=%s: no such directory", o["device"])
	}
	v.Device = o["device"]
	return nil
}

func runVolumeCreate(_ context.Context, e *env, args []string) error {
	fs := flags("volume")
	driver := fs.StringP("driver", "d", "local", "`local` is the only one")
	name := fs.String("name", "", "name of the volume")
	labels := fs.StringArrayP("label", "l", nil, "set a label, `NAME=VALUE`")
	options := fs.StringArrayP("opt", "o", nil, "`type=none`, o=bind and device=PATH for a directory of this machine")
	ignore := fs.Bool("ignore", false, "accepted: a volume that is there is no error")
	words, err := e.parse(fs, args, 0, 1)
	if err != nil {
		return err
	}
	_ = *ignore
	if *driver != "local" {
		return &usageError{msg: fmt.Sprintf("volume create: --driver %q is not supported: there is local", *driver)}
	}
	want := volume.Volume{Name: *name, Labels: map[string]string{}, Options: map[string]string{}}
	if len(words) == 1 {
		if *name != "" && *name != words[0] {
			return &usageError{msg: "volume create: the name is given twice"}
		}
		want.Name = words[0]
	}
	if err := addLabels(want.Labels, *labels); err != nil {
		return err
	}
	for _, w := range *options {
		k, v, _ := strings.Cut(w, "=")
		want.Options[k] = v
	}
	if want.Name != "" {
		if err := volume.CheckName(want.Name); err != nil {
			return &usageError{msg: "volume create: " + err.Error()}
		}
	}
	if err := volumeOptions(&want); err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	records := supervisor.NewRecords(s)
	vol, made, err := records.Volumes().Create(want)
	if err != nil {
		return err
	}
	if made {
		records.NoteVolume("create", vol.Name)
	}
	fmt.Fprintln(e.stdout, vol.Name)
	return nil
}

// volumeRow is what a --format of volume ls can show. The names are docker's.
type volumeRow struct {
	Availability string
	Driver       string
	Group        string
	Labels       string
	Links        string
	Mountpoint   string
	Name         string
	Scope        string
	Size         string
	Status       string

	labels map[string]string
}

// Label is the value of one label, for templates.
func (r volumeRow) Label(name string) string { return r.labels[name] }

var volumeHeader = volumeRow{
	Availability: "AVAILABILITY", Driver: "DRIVER", Group: "GROUP", Labels: "LABELS", Links: "LINKS", Mountpoint: "MOUNTPOINT",
	Name: "VOLUME NAME", Scope: "SCOPE", Size: "SIZE", Status: "STATUS",
}

func runVolumeLs(_ context.Context, e *env, args []string) error {
	fs := flags("volume")
	quiet := fs.BoolP("quiet", "q", false, "show only names")
	format := fs.String("format", "", "a Go template, `json`, or \"table TEMPLATE\"")
	filters := fs.StringArrayP("filter", "f", nil, "show only volumes of a `NAME=VALUE`: dangling, driver, label, name")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	records := supervisor.NewRecords(s)
	match, err := parseVolumeFilters(records, *filters)
	if err != nil {
		return err
	}
	list, err := records.Volumes().List()
	if err != nil {
		return err
	}
	var rows []any
	for _, v := range list {
		ok, err := match(v)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if *quiet {
			fmt.Fprintln(e.stdout, v.Name)
			continue
		}
		rows = append(rows, volumeRow{
			Availability: "N/A", Driver: "local", Group: "N/A", Labels: labelText(v.Labels), Links: "N/A", Mountpoint: v.Dir,
			Name: v.Name, Scope: "local", Size: "N/A", Status: "N/A", labels: v.Labels,
		})
	}
	if *quiet {
		return nil
	}
	return table{format: first(*format, e.dockerConfig().VolumesFormat), columns: "{{.Driver}}\t{{.Name}}", header: volumeHeader}.print(e.stdout, rows)
}

func parseVolumeFilters(records supervisor.Records, words []string) (func(volume.Volume) (bool, error), error) {
	groups := map[string][]func(volume.Volume) (bool, error){}
	for i, w := range words {
		name, value, ok := strings.Cut(w, "=")
		var f func(volume.Volume) (bool, error)
		switch {
		case !ok:
			return nil, &usageError{msg: fmt.Sprintf("--filter %q: want NAME=VALUE", w)}
		case name == "name":
			re, err := regexp.Compile(value)
			if err != nil {
				return nil, &usageError{msg: fmt.Sprintf("--filter %s: %v", w, err)}
			}
			f = func(v volume.Volume) (bool, error) { return re.MatchString(v.Name), nil }
		case name == "driver":
			f = func(volume.Volume) (bool, error) { return value == "local", nil }
		case name == "label" || name == "label!":
			match := labelFilter(name, value)
			f = func(v volume.Volume) (bool, error) { return match(v.Labels), nil }
			name += strconv.Itoa(i)
		case name == "dangling":
			want, err := strconv.ParseBool(value)
			if err != nil {
				return nil, &usageError{msg: fmt.Sprintf("--filter %s: want true or false", w)}
			}
			f = func(v volume.Volume) (bool, error) {
				used, err := records.UsesVolume(v.Name)
				return used != want, err
			}
		case name == "all":
			continue // of prune
		default:
			return nil, &usageError{msg: fmt.Sprintf("--filter %s: there is no such filter; there are dangling, driver, label and name", w)}
		}
		groups[name] = append(groups[name], f)
	}
	return func(v volume.Volume) (bool, error) {
		for _, group := range groups {
			any := false
			for _, f := range group {
				ok, err := f(v)
				if err != nil {
					return false, err
				}
				any = any || ok
			}
			if !any {
				return false, nil
			}
		}
		return true, nil
	}, nil
}

func runVolumeRm(_ context.Context, e *env, args []string) error {
	fs := flags("volume")
	force := fs.BoolP("force", "f", false, "don't mind volumes that are not there")
	words, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	records := supervisor.NewRecords(s)
	var errs []error
	for _, w := range words {
		err := records.Volumes().Remove(w, records.UsesVolume)
		if *force && errors.Is(err, volume.ErrNotFound) {
			continue
		}
		if errors.Is(err, volume.ErrInUse) {
			err = fmt.Errorf("%w by %s", err, strings.Join(usersOf(records, w), ", "))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		records.NoteVolume("destroy", w)
		fmt.Fprintln(e.stdout, w)
	}
	return errors.Join(errs...)
}

// inspectedVolume is what volume inspect shows. The names are docker's.
type inspectedVolume struct {
	CreatedAt  stamp
	Driver     string
	Labels     map[string]string
	Mountpoint string
	Name       string
	Options    map[string]string
	Scope      string
}

func runVolumeInspect(_ context.Context, e *env, args []string) error {
	fs := flags("volume")
	format := fs.StringP("format", "f", "", "a Go template, or `json`")
	words, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	found := []any{}
	var errs []error
	for _, w := range words {
		v, err := inspectVolume(supervisor.NewRecords(s), w)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, v)
	}
	return errors.Join(append([]error{printObjects(e.stdout, *format, found)}, errs...)...)
}

func inspectVolume(records supervisor.Records, name string) (inspectedVolume, error) {
	v, err := records.Volumes().Get(name)
	return inspectedVolume{
		CreatedAt: stamp{v.Created}, Driver: "local", Labels: v.Labels, Mountpoint: v.Dir, Name: v.Name, Options: v.Options, Scope: "local",
	}, err
}

// usersOf are the containers that have a volume, as far as that can be told.
func usersOf(records supervisor.Records, name string) (out []string) {
	all, _ := records.List()
	for _, c := range all {
		if c.UsesVolume(name) {
			out = append(out, "container "+c.Name)
		}
	}
	return out
}

func runVolumePrune(_ context.Context, e *env, args []string) error {
	fs := flags("volume")
	all := fs.BoolP("all", "a", false, "named volumes too, not only anonymous ones")
	force := fs.BoolP("force", "f", false, "don't ask")
	filters := fs.StringArray("filter", nil, "only volumes of a `NAME=VALUE`: label, …")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	if slices.Contains(*filters, "all=1") || slices.Contains(*filters, "all=true") {
		*all = true
	}
	if !*force {
		what := "anonymous volumes that no container uses"
		if *all {
			what = "all volumes that no container uses"
		}
		if err := e.confirmed("volume prune", what); err != nil {
			return err
		}
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	gone, freed, err := pruneVolumes(supervisor.NewRecords(s), *all, e.pruneFilters(*filters))
	for _, name := range gone {
		fmt.Fprintln(e.stdout, name)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "\nTotal reclaimed space: %s\n", humanSize(freed))
	return nil
}

// pruneVolumes removes volumes that no container uses, the anonymous ones or all, and
// what killed commands have left of volumes.
func pruneVolumes(records supervisor.Records, all bool, filters []string) (gone []string, freed int64, err error) {
	match, err := parseVolumeFilters(records, filters)
	if err != nil {
		return nil, 0, err
	}
	list, err := records.Volumes().List()
	if err != nil {
		return nil, 0, err
	}
	for _, v := range list {
		ok, err := match(v)
		if err != nil {
			return gone, freed, err
		}
		if !ok || !v.Anonymous && !all {
			continue
		}
		var m sys.Meter
		size, err := m.Take(v.Dir)
		if err != nil {
			return gone, freed, err
		}
		if v.Device != "" {
			size = 0 // it stays
		}
		err = records.Volumes().Remove(v.Name, records.UsesVolume)
		if errors.Is(err, volume.ErrInUse) || errors.Is(err, volume.ErrNotFound) {
			continue
		}
		if err != nil {
			return gone, freed, err
		}
		freed += size
		records.NoteVolume("destroy", v.Name)
		gone = append(gone, v.Name)
	}
	left, err := sweepRemains(records)
	return gone, freed + left, err
}

// sweepRemains removes what killed commands have left of volumes.
func sweepRemains(records supervisor.Records) (freed int64, err error) {
	paths, err := records.Volumes().Remains()
	if err != nil {
		return 0, err
	}
	size := func() (sum int64, err error) {
		var m sys.Meter
		for _, path := range paths {
			n, err := m.Take(path)
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	}
	before, err := size()
	if err != nil {
		return 0, err
	}
	if err := records.Volumes().Sweep(records.UsesVolume); err != nil {
		return 0, err
	}
	after, err := size()
	return before - after, err
}
