// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"builder/container"
	"builder/internal/sys"
	"builder/layer"
	"builder/rootfs"
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
	fs.StringVar(&f.userns, "userns", "host", "user namespace: none of its own, one with ids that nobody else has, with this user's ids as they are, without them, with those of --uidmap, or another container's: `host|auto[:size=N,uidmapping=…,gidmapping=…]|keep-id[:uid=…,gid=…]|nomap|private|container:NAME`")
	wordsVar(fs, &f.uidMap, "uidmap", "users of a user namespace of its own, `INSIDE:OUTSIDE:SIZE`; also the groups, unless --gidmap is given")
	wordsVar(fs, &f.gidMap, "gidmap", "groups of a user namespace of its own, `INSIDE:OUTSIDE:SIZE`")
	fs.StringVar(&f.subUIDName, "subuidname", "", "take the users of a user namespace of its own from `NAME`'s in /etc/subuid")
	fs.StringVar(&f.subGIDName, "subgidname", "", "take the groups from `NAME`'s in /etc/subgid (default that of --subuidname)")
}

// usernsChoice is what the flags ask for.
type usernsChoice struct {
	mode   string // "" for the machine's
	ids    container.IDMap
	choose func(taken []container.IDMap) (container.IDMap, error) // in the place of ids
	join   string                                                 // a container's ID
	user   string                                                 // whose process it is, if nobody else says so
	who    *container.Account                                     // that user
}

// apply has a container be so.
func (u usernsChoice) apply(c *supervisor.Config) {
	c.Spec.IDs, c.ChooseIDs, c.Join.User, c.UserNSMode = u.ids, u.choose, u.join, u.mode
	c.Spec.Account = u.who
	if c.Spec.User == "" && u.user != "" {
		c.Spec.User, c.UserImplied = u.user, true
	}
}

// choice reads the flags; flag names the one that is wrong.
func (f *usernsFlags) choice(records supervisor.Records) (u usernsChoice, flag string, err error) {
	mapped, flag, err := f.maps()
	if err != nil {
		return u, flag, err
	}
	mode, options, _ := strings.Cut(cmp.Or(f.userns, "host"), ":")
	if options != "" && (mode == "host" || mode == "private" || mode == "nomap") {
		return u, "userns", fmt.Errorf("%q: %s has no options", f.userns, mode)
	}
	if !mapped.IsZero() && mode == "host" {
		mode = "private"
	}
	if mode == "host" {
		return u, "", nil
	}
	if u.mode = f.userns; mode == "private" {
		u.mode = mode
	}
	if !mapped.IsZero() && mode != "private" {
		return u, "userns", fmt.Errorf("%q goes with none of --uidmap, --gidmap, --subuidname and --subgidname", f.userns)
	}
	switch mode {
	case "auto":
		if sys.InUserNamespace() {
			return u, "userns", errors.New("auto needs the machine's root: without, there are keep-id, nomap and --uidmap")
		}
		auto, err := parseAuto(options)
		if err != nil {
			return u, "userns", fmt.Errorf("%q: %w", f.userns, err)
		}
		u.choose = auto.choose
	case "keep-id", "nomap":
		if u.ids, u.user, err = keepIDs(mode, options); err != nil {
			return u, "userns", fmt.Errorf("%q: %w", f.userns, err)
		}
		u.who = account(u.user)
	case "private":
		if mapped.IsZero() {
			return u, "userns", errors.New("private needs --uidmap or --subuidname; auto finds ids by itself")
		}
		if err := mapped.Check(); err != nil {
			return u, "uidmap", err
		}
		u.ids = mapped
	case "container":
		other, err := records.Find(options)
		if err != nil {
			return u, "userns", err
		}
		if other.Spec.IDs.IsZero() {
			return usernsChoice{}, "", nil // it has the machine's too
		}
		u.ids, u.join = other.Spec.IDs, other.ID
	default:
		return u, "userns", fmt.Errorf("%q is not supported: there are host, auto, keep-id, nomap, private and container:NAME", f.userns)
	}
	return u, "", nil
}

// keepIDs are the ids of keep-id and nomap. Of an ordinary user they are those of
// its namespace, of which 0 is the user itself: the container has it under its
// own number, or not at all. Of the machine's root they are all ids there are.
func keepIDs(mode, options string) (m container.IDMap, user string, err error) {
	uids, gids, err := ownIDs()
	if err != nil {
		return m, "", err
	}
	uid, gid := uids[0].Outside, gids[0].Outside // the user's outside
	for o := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(o, "=")
		to := map[string]*uint32{"uid": &uid, "gid": &gid}[key]
		if key == "" {
			continue
		}
		if to == nil {
			return m, "", fmt.Errorf("unknown option %q: there are uid and gid", key)
		}
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return m, "", fmt.Errorf("%s=%s is no id", key, value)
		}
		*to = uint32(n)
	}
	switch {
	case !sys.InUserNamespace() && (options != "" || mode == "nomap"):
		return m, "", errors.New("this is for ordinary users, whose ids containers have otherwise under other numbers; root has --uidmap")
	case !sys.InUserNamespace():
		return container.IDMap{UIDs: uids, GIDs: gids}, "", nil
	}
	count := func(ranges []container.IDRange) (n uint32) {
		for _, r := range ranges {
			n += r.Size
		}
		return n
	}
	if count(uids) == 1 || count(gids) == 1 {
		return m, "", errors.New("this needs subordinate ids: builder doctor tells how to have them")
	}
	if mode == "nomap" {
		return container.IDMap{
			UIDs: []container.IDRange{{Outside: 1, Size: count(uids) - 1}}, GIDs: []container.IDRange{{Outside: 1, Size: count(gids) - 1}},
		}, "", nil
	}
	return container.IDMap{UIDs: keepID(uid, count(uids)), GIDs: keepID(gid, count(gids))}, fmt.Sprintf("%d:%d", uid, gid), nil
}

// account is the user of this machine that runs builder, under the ids UID:GID that it
// has in a container, nil if it has no name.
func account(ids string) *container.Account {
	var a container.Account
	if n, err := fmt.Sscanf(ids, "%d:%d", &a.UID, &a.GID); n != 2 || err != nil {
		return nil
	}
	uids, _, err := ownIDs()
	if err != nil {
		return nil
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(uids[0].Outside), 10))
	if err != nil {
		return nil
	}
	a.Name = u.Username
	return &a
}

// keepID has 0 of count ids be id inside, and the others those around it, as
// podman does it.
func keepID(id, count uint32) (out []container.IDRange) {
	below := min(id, count-1)
	if below > 0 {
		out = append(out, container.IDRange{Inside: 0, Outside: 1, Size: below})
	}
	out = append(out, container.IDRange{Inside: id, Outside: 0, Size: 1})
	if above := count - 1 - below; above > 0 {
		out = append(out, container.IDRange{Inside: id + 1, Outside: below + 1, Size: above})
	}
	return out
}

// ownIDs are the ids of this process's user namespace.
func ownIDs() (uids, gids []container.IDRange, err error) {
	if uids, err = container.ReadIDRanges("/proc/self/uid_map"); err == nil {
		gids, err = container.ReadIDRanges("/proc/self/gid_map")
	}
	return uids, gids, err
}

// diskOwners are the owners that a container's files have on disk, nil if they
// are those that it sees: where owners can't be shown by its user namespace.
func diskOwners(ids container.IDMap) rootfs.Owners {
	if ids.IsZero() || supervisor.ShowsOwners() {
		return nil
	}
	return ids
}

// maps are the ids that are given one by one or by name.
func (f *usernsFlags) maps() (m container.IDMap, flag string, err error) {
	if f.subUIDName+f.subGIDName != "" && sys.InUserNamespace() {
		return m, "subuidname", errors.New("this needs the machine's root: an ordinary user's namespace has ids of its own, which --uidmap takes")
	}
	if m.UIDs, err = idRanges(f.uidMap, f.subUIDName, "/etc/subuid"); err != nil {
		return m, "uidmap", err
	}
	groupName := f.subGIDName
	if groupName == "" && len(f.gidMap) == 0 {
		groupName = f.subUIDName
	}
	if m.GIDs, err = idRanges(f.gidMap, groupName, "/etc/subgid"); err != nil {
		return m, "gidmap", err
	}
	switch {
	case len(m.UIDs) == 0:
		m.UIDs = m.GIDs
	case len(m.GIDs) == 0:
		m.GIDs = m.UIDs
	}
	return m, "", nil
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

// The ids that containers are given where nobody has said which. They are in the
// range that systemd leaves to containers, far from where its own begin ("Users,
// Groups, UIDs and GIDs on systemd Systems").
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

// shownOwners are the owners that a container sees of its files on disk, nil if
// they are those that they have there.
func shownOwners(ids container.IDMap) layer.Owners {
	if diskOwners(ids) == nil {
		return nil
	}
	return ids.Inside()
}
