// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"builder/container"
	"builder/internal/sys"
	"builder/supervisor"
	"builder/userns"

	"github.com/spf13/pflag"
)

// usernsFlags are the flags about a container's user namespace, podman's.
type usernsFlags struct {
	userns, subUIDName, subGIDName string

	uidMap, gidMap []string
}

func (f *usernsFlags) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&f.userns, "userns", "host", "user namespace: the machine's, one with ids that nobody else has, with all of the machine's ids, that of --uidmap, or another container's: `host|auto[:size=N,uidmapping=…,gidmapping=…]|keep-id|private|container:NAME`")
	fs.StringArrayVar(&f.uidMap, "uidmap", nil, "users of a user namespace of its own, `INSIDE:OUTSIDE:SIZE`; also the groups, unless --gidmap is given")
	fs.StringArrayVar(&f.gidMap, "gidmap", nil, "groups of a user namespace of its own, `INSIDE:OUTSIDE:SIZE`")
	fs.StringVar(&f.subUIDName, "subuidname", "", "take the users of a user namespace of its own from `NAME`'s in /etc/subuid")
	fs.StringVar(&f.subGIDName, "subgidname", "", "take the groups from `NAME`'s in /etc/subgid (default that of --subuidname)")
}

// fill sets what the flags say; flag names the one that is wrong.
func (f *usernsFlags) fill(records supervisor.Records, c *supervisor.Config) (flag string, err error) {
	mapped, err := f.maps()
	if err != nil {
		return "uidmap", err
	}
	mode, options, _ := strings.Cut(f.userns, ":")
	if !mapped.IsZero() && mode == "host" {
		mode = "private"
	}
	if mode == "" || mode == "host" {
		return "", nil
	}
	if options != "" && mode != "auto" && mode != "container" {
		return "userns", fmt.Errorf("%q: %s has no options", f.userns, mode)
	}
	if !mapped.IsZero() && mode != "private" {
		return "userns", fmt.Errorf("%q goes with none of --uidmap, --gidmap, --subuidname and --subgidname", f.userns)
	}
	if sys.InUserNamespace() {
		return "userns", fmt.Errorf("%q: only the machine's root can give containers user namespaces; an ordinary user's are in one already", f.userns)
	}
	switch mode {
	case "auto":
		auto, err := parseAuto(options)
		if err != nil {
			return "userns", fmt.Errorf("%q: %w", f.userns, err)
		}
		c.ChooseIDs = auto.choose
	case "keep-id":
		const all = 1<<32 - 1
		ids := []container.IDRange{{Size: all}}
		c.Spec.IDs = container.IDMap{UIDs: ids, GIDs: ids}
	case "private":
		if mapped.IsZero() {
			return "userns", errors.New("private needs --uidmap or --subuidname; auto finds ids by itself")
		}
		if err := mapped.Check(); err != nil {
			return "uidmap", err
		}
		c.Spec.IDs = mapped
	case "container":
		other, err := records.Find(options)
		if err != nil {
			return "userns", err
		}
		if other.Spec.IDs.IsZero() {
			return "", nil // it has the machine's too
		}
		c.Spec.IDs, c.Join.User = other.Spec.IDs, cmp.Or(other.Join.User, other.ID)
	default:
		return "userns", fmt.Errorf("%q is not supported: there are host, auto, keep-id, private and container:NAME", f.userns)
	}
	c.UserNSMode = f.userns
	if mode == "private" {
		c.UserNSMode = mode
	}
	return "", nil
}

// maps are the ids that are given one by one or by name.
func (f *usernsFlags) maps() (m container.IDMap, err error) {
	if m.UIDs, err = idRanges(f.uidMap, f.subUIDName, "/etc/subuid"); err != nil {
		return m, err
	}
	groupName := f.subGIDName
	if groupName == "" && len(f.gidMap) == 0 {
		groupName = f.subUIDName
	}
	if m.GIDs, err = idRanges(f.gidMap, groupName, "/etc/subgid"); err != nil {
		return m, err
	}
	switch {
	case len(m.UIDs) == 0:
		m.UIDs = m.GIDs
	case len(m.GIDs) == 0:
		m.GIDs = m.UIDs
	}
	return m, nil
}

// idRanges reads ranges, or finds those of a name in a file of subuid(5).
func idRanges(words []string, name, file string) (out []container.IDRange, err error) {
	if len(words) > 0 && name != "" {
		return nil, fmt.Errorf("ids are given one by one and as %s's of %s: only one of the two", name, file)
	}
	for _, w := range words {
		r, err := parseIDRange(w)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	if name == "" {
		return out, nil
	}
	found, err := userns.Ranges(file, name)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s has no ids of %s", file, name)
	}
	next := uint32(0)
	for _, r := range found {
		out = append(out, container.IDRange{Inside: next, Outside: r.Outside, Size: r.Size})
		next += r.Size
	}
	return out, nil
}

// parseIDRange reads INSIDE:OUTSIDE[:SIZE].
func parseIDRange(text string) (r container.IDRange, err error) {
	parts := strings.Split(text, ":")
	if len(parts) == 2 {
		parts = append(parts, "1")
	}
	if len(parts) != 3 {
		return r, fmt.Errorf("%q: want INSIDE:OUTSIDE:SIZE", text)
	}
	for i, to := range []*uint32{&r.Inside, &r.Outside, &r.Size} {
		n, err := strconv.ParseUint(parts[i], 10, 32)
		if err != nil {
			return r, fmt.Errorf("%q: %q is no number from 0 to 4294967295", text, parts[i])
		}
		*to = uint32(n)
	}
	return r, nil
}

// autoIDs are the options of --userns auto.
type autoIDs struct {
	size  uint32
	fixed container.IDMap
}

// defaultIDs is how many ids a container has by default: all that an image of
// Debian, say, can have.
const defaultIDs = 1 << 16

func parseAuto(options string) (a autoIDs, err error) {
	a.size = defaultIDs
	for o := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(o, "=")
		var r container.IDRange
		switch key {
		case "":
		case "size":
			n, errNumber := strconv.ParseUint(value, 10, 31)
			if errNumber != nil || n == 0 {
				return a, fmt.Errorf("size=%s is no number of ids", value)
			}
			a.size = uint32(n)
		case "uidmapping":
			r, err = parseIDRange(value)
			a.fixed.UIDs = append(a.fixed.UIDs, r)
		case "gidmapping":
			r, err = parseIDRange(value)
			a.fixed.GIDs = append(a.fixed.GIDs, r)
		default:
			err = fmt.Errorf("unknown option %q: there are size, uidmapping and gidmapping", key)
		}
		if err != nil {
			return a, err
		}
	}
	return a, nil
}

// choose finds ids that no other container has.
func (a autoIDs) choose(taken []container.IDMap) (m container.IDMap, err error) {
	var all []container.IDRange
	for _, t := range taken {
		all = append(append(all, t.UIDs...), t.GIDs...)
	}
	all = append(append(all, a.fixed.UIDs...), a.fixed.GIDs...)
	users, groups, err := idPool()
	if err != nil {
		return m, err
	}
	if m.UIDs, err = a.fill(a.fixed.UIDs, users, all); err != nil {
		return m, fmt.Errorf("users: %w", err)
	}
	if m.GIDs, err = a.fill(a.fixed.GIDs, groups, all); err != nil {
		return m, fmt.Errorf("groups: %w", err)
	}
	return m, m.Check()
}

// The ids that containers are given where nobody has said which: nobody's, by
// the habits of distributions and of systemd ("Users, Groups, UIDs and GIDs on
// systemd Systems").
const (
	firstFreeID = 1 << 30
	freeIDs     = 1879048192 - firstFreeID
)

// idPool are the ids for containers: those that /etc/subuid and /etc/subgid have
// for the name containers, as with podman, else those that they have for nobody.
func idPool() (users, groups []container.IDRange, err error) {
	const owner = "containers"
	if users, err = userns.Ranges("/etc/subuid", owner); err != nil {
		return nil, nil, err
	}
	if groups, err = userns.Ranges("/etc/subgid", owner); err != nil {
		return nil, nil, err
	}
	if len(users) > 0 && len(groups) > 0 {
		return users, groups, nil
	}
	free := []container.IDRange{{Outside: firstFreeID, Size: freeIDs}}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		given, err := userns.Ranges(file, "")
		if err != nil {
			return nil, nil, err
		}
		for _, g := range given {
			free = without(free, g)
		}
	}
	return free, free, nil
}

// without takes the outside ids of a range from others.
func without(ranges []container.IDRange, taken container.IDRange) (out []container.IDRange) {
	from, to := uint64(taken.Outside), uint64(taken.Outside)+uint64(taken.Size)
	for _, r := range ranges {
		first, end := uint64(r.Outside), uint64(r.Outside)+uint64(r.Size)
		if before := min(end, from); before > first {
			out = append(out, container.IDRange{Outside: uint32(first), Size: uint32(before - first)})
		}
		if after := max(first, to); after < end {
			out = append(out, container.IDRange{Outside: uint32(after), Size: uint32(end - after)})
		}
	}
	return out
}

// fill are the ranges of one kind of ids: those that are fixed and, for the other
// ids below the size, the first of the pool that are free.
func (a autoIDs) fill(fixed, pool, taken []container.IDRange) (out []container.IDRange, err error) {
	pool = slices.Clone(pool)
	for _, t := range taken {
		pool = without(pool, t)
	}
	out, fixed = slices.Clone(fixed), slices.Clone(fixed)
	slices.SortFunc(fixed, func(x, y container.IDRange) int { return cmp.Compare(x.Inside, y.Inside) })
	next := uint32(0)
	gap := func(end uint32) {
		for next < end && len(pool) > 0 {
			n := min(end-next, pool[0].Size)
			out = append(out, container.IDRange{Inside: next, Outside: pool[0].Outside, Size: n})
			next += n
			if pool[0].Outside, pool[0].Size = pool[0].Outside+n, pool[0].Size-n; pool[0].Size == 0 {
				pool = pool[1:]
			}
		}
	}
	for _, f := range fixed {
		gap(min(f.Inside, a.size))
		next = max(next, f.Inside+f.Size)
	}
	if gap(a.size); next < a.size {
		return nil, fmt.Errorf("there are not %d ids left that no container has: remove containers, or have fewer ids each (auto:size=N)", a.size)
	}
	return out, nil
}
