// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// User is a user as the processes of a container see it.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary groups
	Home     string   // "/" if /etc/passwd has no entry
	Name     string   // "" if /etc/passwd has no entry
}

const (
	// maxUserFile bounds what is read of an image's /etc/passwd and group.
	maxUserFile = 10 << 20
	// maxID is the highest user or group id: one more is (uid_t)-1, which
	// setresuid(2) takes as "leave it as it is", that is, as root.
	maxID = math.MaxUint32 - 1
)

// LookupUser finds the user that spec names in the /etc/passwd and /etc/group
// of root: "" (user 0), name, uid, and either followed by :group or :gid. A
// number is always an id, whether or not there is such an entry; a name must
// be there. Supplementary groups are those of the user's name, unless spec
// has a group, and groupAdd.
//
// The files belong to the image and are not trusted: anything but a regular
// file of at most 10 MiB counts as missing, links are followed within root
// only, and a matching line with a malformed id is an error rather than id 0.
func LookupUser(root *os.File, spec string, groupAdd []string) (User, error) {
	db := userDB{root: root}
	u, err := db.lookup(spec)
	if err != nil {
		return User{}, fmt.Errorf("look up user %q: %w", spec, err)
	}
	for _, name := range groupAdd {
		gid, err := db.group(name)
		if err != nil {
			return User{}, fmt.Errorf("look up group %q: %w", name, err)
		}
		if !slices.Contains(u.Groups, gid) {
			u.Groups = append(u.Groups, gid)
		}
	}
	return u, nil
}

// userDB reads the account files of one root.
type userDB struct{ root *os.File }

func (db userDB) lookup(spec string) (User, error) {
	name, group, hasGroup := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	u, err := db.user(name)
	if err != nil {
		return User{}, err
	}
	if hasGroup && group != "" {
		u.GID, err = db.group(group)
		return u, err
	}
	if u.Name != "" {
		u.Groups, err = db.groupsOf(u.Name)
	}
	return u, err
}

// user finds the entry of a user given by name or id. An id needs no entry.
func (db userDB) user(name string) (User, error) {
	id, isID, err := parseID(name)
	if err != nil {
		return User{}, err
	}
	fields, missing, err := db.find("/etc/passwd", func(f []string) bool {
		if !isID {
			return f[0] == name
		}
		if len(f) < 3 {
			return false
		}
		got, ok, err := parseID(f[2])
		return ok && err == nil && got == id
	})
	switch {
	case err != nil && isID && missing:
		return User{UID: id, Home: "/"}, nil
	case err != nil:
		return User{}, err
	case fields == nil && isID:
		return User{UID: id, Home: "/"}, nil
	case fields == nil:
		return User{}, errors.New("no such name in the image's /etc/passwd")
	}
	return userEntry(fields)
}

// userEntry reads a line of passwd(5).
func userEntry(fields []string) (User, error) {
	for len(fields) < 6 {
		fields = append(fields, "")
	}
	uid, ok1, err1 := parseID(fields[2])
	gid, ok2, err2 := parseID(fields[3])
	if err := errors.Join(err1, err2); err != nil {
		return User{}, fmt.Errorf("/etc/passwd: %w", err)
	}
	if !ok1 || !ok2 {
		return User{}, fmt.Errorf("/etc/passwd: entry %q has no numeric user and group id", fields[0])
	}
	u := User{UID: uid, GID: gid, Name: fields[0], Home: fields[5]}
	if u.Home == "" {
		u.Home = "/"
	}
	return u, nil
}

// group finds the id of a group given by name or id.
func (db userDB) group(name string) (uint32, error) {
	if id, isID, err := parseID(name); isID || err != nil {
		return id, err
	}
	fields, _, err := db.find("/etc/group", func(f []string) bool { return f[0] == name })
	if err != nil {
		return 0, err
	}
	if fields == nil {
		return 0, fmt.Errorf("no group %q in the image's /etc/group", name)
	}
	return groupID(fields)
}

// groupsOf lists the groups that have user as a member.
func (db userDB) groupsOf(user string) ([]uint32, error) {
	var gids []uint32
	var bad error
	_, missing, err := db.find("/etc/group", func(f []string) bool {
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), user) {
			return false
		}
		gid, err := groupID(f)
		if err != nil {
			bad = err
			return true // ends the search
		}
		if !slices.Contains(gids, gid) {
			gids = append(gids, gid)
		}
		return false
	})
	if missing {
		return nil, nil
	}
	return gids, errors.Join(err, bad)
}

func groupID(fields []string) (uint32, error) {
	for len(fields) < 3 {
		fields = append(fields, "")
	}
	gid, ok, err := parseID(fields[2])
	if err != nil {
		return 0, fmt.Errorf("/etc/group: %w", err)
	}
	if !ok {
		return 0, fmt.Errorf("/etc/group: entry %q has no numeric group id", fields[0])
	}
	return gid, nil
}

// parseID reads a numeric id. isID is false for what isn't a number; a number
// out of range is an error.
func parseID(s string) (id uint32, isID bool, err error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0, false, nil
	}
	if err != nil || n > maxID {
		return 0, true, fmt.Errorf("id %s is out of range", s)
	}
	return uint32(n), true, nil
}

// find returns the fields of the first line of an account file that match
// accepts, or nil if there is none. missing says that there is no usable file;
// err then says why.
func (db userDB) find(name string, match func(fields []string) bool) (fields []string, missing bool, err error) {
	f, err := db.open(name)
	if err != nil {
		return nil, true, fmt.Errorf("image's %s: %w", name, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxUserFile))
	lines.Buffer(nil, maxUserFile) // a group may have many members
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if f := strings.Split(string(line), ":"); match(f) {
			return f, false, nil
		}
	}
	return nil, false, lines.Err()
}

// open opens an account file. It is opened with O_PATH first, as opening a
// FIFO blocks and opening a device may do anything.
func (db userDB) open(name string) (*os.File, error) {
	p, err := sys.OpenInRoot(db.root, name, unix.O_PATH, 0)
	if err != nil {
		if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, err
	}
	defer p.Close()
	st, err := p.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	if st.Size() > maxUserFile {
		return nil, fmt.Errorf("is larger than %d bytes", maxUserFile)
	}
	// What the kernel makes up on reading is no account file, and may be the
	// machine's: /proc/kmsg.
	var fsys unix.Statfs_t
	if err := unix.Fstatfs(int(p.Fd()), &fsys); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	if fsys.Type == unix.PROC_SUPER_MAGIC || fsys.Type == unix.SYSFS_MAGIC {
		return nil, errors.New("is a file of the kernel's")
	}
	return os.OpenFile(sys.FDPath(p), os.O_RDONLY, 0)
}

// addUser gives the user of the process an entry in the account files, where it has
// none: programs that ask for its name or home find them.
func (p *plan) addUser() error {
	a := p.spec.Account
	if a == nil || p.spec.ReadOnly || p.user.Name != "" || p.user.UID != a.UID || strings.ContainsAny(a.Name, ":\n") {
		return nil
	}
	db := userDB{root: p.root}
	if _, err := db.user(a.Name); err == nil {
		return nil // the name is another one's
	}
	home := strings.ReplaceAll(p.spec.Dir, ":", "")
	if home == "" {
		home = "/"
	}
	if !db.append("/etc/passwd", fmt.Sprintf("%s:*:%d:%d:container user:%s:/bin/sh", a.Name, a.UID, p.user.GID, home)) {
		return nil
	}
	if id := strconv.FormatUint(uint64(a.GID), 10); p.user.GID == a.GID {
		known, missing, err := db.find("/etc/group", func(f []string) bool { return f[0] == a.Name || len(f) > 2 && f[2] == id })
		if known == nil && !missing && err == nil {
			db.append("/etc/group", a.Name+":x:"+id+":")
		}
	}
	return p.resolveUser()
}

// append adds a line to an account file, and says whether it did: there may be none.
func (db userDB) append(name, line string) bool {
	f, err := db.open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxUserFile))
	if err != nil {
		return false
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		line = "\n" + line
	}
	// The very file that was looked at, whatever is in its place by now.
	w, err := os.OpenFile(sys.FDPath(f), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return false
	}
	_, err = w.WriteString(line + "\n")
	return errors.Join(err, w.Close()) == nil
}
