// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"builder/container"
)

// ids are what the user's namespace is given.
type ids struct {
	uid, gid         int
	name             string
	subUIDs, subGIDs []idRange
	// why there are no subordinate ids, "" if there are.
	missing, fix string
}

// idRange is a line of subuid(5).
type idRange struct{ first, count uint64 }

// lookUp finds the ids of this process's user.
func lookUp() (ids, error) {
	i := ids{uid: os.Geteuid(), gid: os.Getegid()}
	if u, err := user.LookupId(strconv.Itoa(i.uid)); err == nil {
		i.name = u.Username
	}
	var err error
	if i.subUIDs, err = subordinate("/etc/subuid", i.name, i.uid); err != nil {
		return i, err
	}
	if i.subGIDs, err = subordinate("/etc/subgid", i.name, i.uid); err != nil {
		return i, err
	}
	who := i.name
	if who == "" {
		who = strconv.Itoa(i.uid)
	}
	switch {
	case len(i.subUIDs) == 0 || len(i.subGIDs) == 0:
		i.missing = "no subordinate ids in /etc/subuid and /etc/subgid"
		i.fix = fmt.Sprintf("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s (other numbers if these are somebody's)", who)
	case !installed("newuidmap") || !installed("newgidmap"):
		i.missing = "no programs newuidmap and newgidmap"
		i.fix = "as root: install the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora)"
	}
	return i, nil
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// subordinate reads the ranges of a user in a file of subuid(5); its lines
// begin with the user's name or number.
func subordinate(file, name string, uid int) ([]idRange, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseSubordinate(string(data), name, uid), nil
}

func parseSubordinate(text, name string, uid int) (out []idRange) {
	for line := range strings.Lines(text) {
		parts := strings.Split(strings.TrimSpace(line), ":")
		if len(parts) != 3 || parts[0] == "" || parts[0] != name && parts[0] != strconv.Itoa(uid) {
			continue
		}
		first, err1 := strconv.ParseUint(parts[1], 10, 32)
		count, err2 := strconv.ParseUint(parts[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 && first > 0 && first+count <= 1<<32-1 {
			out = append(out, idRange{first, count})
		}
	}
	return out
}

// Ranges are the subordinate ids that a name has in a file of subuid(5), or that
// all have if it is "". A file that isn't there has none.
func Ranges(file, name string) (out []container.IDRange, err error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		who, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name != "" && who != name {
			continue
		}
		for _, r := range parseSubordinate(line, who, -1) {
			out = append(out, container.IDRange{Outside: uint32(r.first), Size: uint32(r.count)})
		}
	}
	return out, nil
}

// mapping is the argument list of newuidmap(1) behind the process: own becomes
// 0, and the others follow from 1.
func mapping(own int, ranges []idRange) []string {
	args := []string{"0", strconv.Itoa(own), "1"}
	next := uint64(1)
	for _, r := range ranges {
		args = append(args, strconv.FormatUint(next, 10), strconv.FormatUint(r.first, 10), strconv.FormatUint(r.count, 10))
		next += r.count
	}
	return args
}

// assign gives a process that waits in a new user namespace its ids.
func (i ids) assign(pid int, warn func(string)) error {
	if i.uid == 0 {
		return assignAll(pid)
	}
	if i.missing != "" {
		warn(fmt.Sprintf("%s: owners are kept beside the files, and containers know root alone; %s", i.missing, i.fix))
		return i.assignOwn(pid)
	}
	// Both at once: each is a program to be started.
	groups := make(chan error, 1)
	go func() { groups <- runMap("newgidmap", pid, mapping(i.gid, i.subGIDs)) }()
	return errors.Join(runMap("newuidmap", pid, mapping(i.uid, i.subUIDs)), <-groups)
}

func runMap(program string, pid int, args []string) error {
	var stderr bytes.Buffer
	cmd := exec.Command(program, append([]string{strconv.Itoa(pid)}, args...)...)
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return &Error{
			Err: fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(stderr.String())),
			Fix: program + " must belong to root with the set-user-ID bit or have the capability for it, and the ranges of /etc/subuid and /etc/subgid must be valid",
		}
	}
	return nil
}

// assignAll gives it all ids that this process's namespace has: it is root
// there, but in a container that lets it mount nothing.
func assignAll(pid int) error {
	for _, file := range []string{"uid_map", "gid_map"} {
		text, err := os.ReadFile("/proc/self/" + file)
		if err != nil {
			return err
		}
		var all strings.Builder
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 3 {
				fmt.Fprintf(&all, "%s %s %s\n", f[0], f[0], f[2])
			}
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, file), []byte(all.String()), 0); err != nil {
			return &Error{Err: fmt.Errorf("assign ids: %w", err), Fix: fixNamespace()}
		}
	}
	return nil
}

// assignOwn gives it the user's own ids alone. Whoever does that without
// privilege has to give up the right to change groups before.
func (i ids) assignOwn(pid int) error {
	proc := "/proc/" + strconv.Itoa(pid) + "/"
	for _, w := range []struct{ file, text string }{
		{"setgroups", "deny"},
		{"uid_map", fmt.Sprintf("0 %d 1", i.uid)},
		{"gid_map", fmt.Sprintf("0 %d 1", i.gid)},
	} {
		if err := os.WriteFile(proc+w.file, []byte(w.text), 0); err != nil {
			return &Error{Err: fmt.Errorf("assign the user's own ids: %w", err), Fix: fixNamespace()}
		}
	}
	return nil
}

// Subordinate describes the ids that this process's user has for namespaces.
// Without any it returns an error and what to do about it.
func Subordinate() (ranges, fix string, err error) {
	i, err := lookUp()
	if err != nil {
		return "", "", err
	}
	if i.missing != "" {
		return "", i.fix, errors.New(i.missing)
	}
	count := func(list []idRange) (n uint64) {
		for _, r := range list {
			n += r.count
		}
		return n
	}
	return fmt.Sprintf("%d users, %d groups", count(i.subUIDs), count(i.subGIDs)), "", nil
}
