// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"builder/internal/owner"
	"builder/internal/sys"
	"builder/mount"
)

// plan is everything a container needs before its child process is made: what
// was prepared for it, and the program for the child.
type plan struct {
	spec     *Spec
	host     *host
	user     User
	env      []string
	dir      string // absolute, clean
	hostname string
	caps     capSet
	rlimits  []resolvedRlimit
	filter   *seccompFilter // nil for none
	pretend  bool           // changes of owners and users are answered by a filter of ours
	listener *os.File       // for the child to send the filter's listener on; nil for none
	sysctls  []sysctl

	oomScoreAdj int

	root, dev, pts, shm, etc *os.File       // detached mounts; shm and etc may be nil
	points                   []mountPoint   // of proc, dev, sys and the /etc files
	mounts                   []plannedMount // the Spec's
	coveredEtc               []coveredFile  // /etc files that come on top of the mounts

	devices []boundDevice

	stubs   *stubs // of its own, as it is kept when the plan is not
	io      *stdio
	cgroup  *cgroup
	v1procs []*os.File // for the child to join the groups of version 1
	report  *os.File   // the parent's end of the socket for errors
	errfd   *os.File   // the child's end
	opened  []*os.File

	prog      program
	proc, sys arg // the child's descriptors of /proc and /sys
}

// mountPoint is an opened place in root to mount something on.
type mountPoint struct {
	name string // "/proc"
	file *os.File
}

// coveredFile is a file of /etc that is mounted in one of the Spec's mounts.
type coveredFile struct {
	name string // "/etc/hosts"
	tree arg    // the child's descriptor
}

// plannedMount is one of the Spec's mounts, opened.
type plannedMount struct {
	target string
	tree   *os.File
	inside *os.File // of Mount.Inside; tree is then no mount yet
	attr   uint64   // MOUNT_ATTR_* flags for what is made of tree then
	dir    bool
	// foreign says that what is in it isn't the container's root's.
	foreign bool
}

// validID reports whether an ID is of the form [a-z0-9][a-z0-9_.-]{0,127}.
func validID(id string) bool {
	const first = "abcdefghijklmnopqrstuvwxyz0123456789"
	return id != "" && len(id) <= 128 && strings.Contains(first, id[:1]) && strings.Trim(id, first+"_.-") == ""
}

// emptyPlan is a plan of which nothing is prepared.
func emptyPlan(h *host, spec *Spec) plan {
	return plan{spec: spec, host: h, prog: newProgram(), stubs: new(stubs)}
}

// newPlan prepares a container. On failure nothing is left of it; else the
// caller ends with release.
func newPlan(h *host, spec *Spec) (*plan, error) {
	empty := emptyPlan(h, spec)
	p := &empty
	// What is made in the container's file systems is its root's.
	asRoot := func(run func() error) func() error {
		return func() error { return spec.UserNS.AsRoot(run) }
	}
	err := runPhases([]phase{
		{"", p.checkSpec},
		{"", p.resolveUser},
		{"add user", asRoot(p.addUser)},
		{"confine", p.resolveConfinement},
		{"prepare owners", p.openPretend},
		{"prepare root", asRoot(p.openPoints)},
		{"prepare file systems", asRoot(p.openFileSystems)},
		{"prepare mounts", asRoot(p.openMounts)},
		{"prepare working directory", asRoot(p.makeDir)},
		{"prepare streams", asRoot(p.openStreams)},
		{"make control group", p.makeCgroup},
	})
	if err != nil {
		return nil, &StartError{Err: errors.Join(err, p.abandon()), Code: codeSetup}
	}
	p.write()
	return p, nil
}

// phase is a part of preparing a process. Its name, if it has one, is put before
// its error.
type phase struct {
	name string
	run  func() error
}

// runPhases runs phases until one fails.
func runPhases(phases []phase) error {
	for _, ph := range phases {
		if err := ph.run(); err != nil {
			if ph.name != "" {
				err = fmt.Errorf("%s: %w", ph.name, err)
			}
			return err
		}
	}
	return nil
}

// checkSpec rejects what can't be meant.
func (p *plan) checkSpec() error {
	s := p.spec
	switch {
	case !validID(s.ID):
		return fmt.Errorf("container ID %q is not of the form [a-z0-9][a-z0-9_.-]*", s.ID)
	case s.Root == nil:
		return errors.New("container has no root")
	case len(s.Args) == 0 || s.Args[0] == "":
		return errors.New("no command specified")
	case s.Network != "" && s.Network != NetworkHost && s.Network != NetworkNone && s.Network != NetworkPrivate:
		return fmt.Errorf("unknown network %q", s.Network)
	case (s.Network == NetworkPrivate || s.Network == NetworkNone && s.UserNS != nil) != (s.NetNS != nil):
		return errors.New("a private network has a network namespace, and no other has one")
	case len(s.Hostname) > 64:
		return fmt.Errorf("host name %q is longer than 64 bytes", s.Hostname)
	case len(s.Domainname) > 64:
		return fmt.Errorf("domain name %q is longer than 64 bytes", s.Domainname)
	case s.Umask != nil && *s.Umask > 0o777:
		return fmt.Errorf("umask %#o is not from 0 to 0777", *s.Umask)
	}
	for _, sharing := range []Sharing{s.IPC, s.PID, s.UTS} {
		if (sharing.With == ShareOther) != (sharing.NS != nil) {
			return errors.New("a shared namespace is not there")
		}
	}
	if s.UTS.With != ShareNot && s.Hostname+s.Domainname != "" {
		return errors.New("a container with another's host name can't have one of its own")
	}
	if err := s.checkUserNS(); err != nil {
		return err
	}
	for _, text := range append(append([]string{s.Dir, s.Hostname, s.Domainname}, s.Args...), s.Env...) {
		if strings.ContainsRune(text, 0) {
			return fmt.Errorf("a zero byte in %q", text)
		}
	}
	for _, m := range s.Mounts {
		target := path.Clean("/" + m.Target)
		if target == "/" || within(target, "/proc") {
			return fmt.Errorf("can't mount on %q in a container", m.Target)
		}
	}
	p.root = s.Root
	p.dir = path.Clean("/" + s.Dir)
	p.hostname = s.Hostname
	if s.UTS.With == ShareHost || p.hostname == "" && s.Network != NetworkNone && s.Network != NetworkPrivate {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		p.hostname = name
	}
	if p.hostname == "" {
		p.hostname = s.ID[:min(len(s.ID), 12)]
	}
	return nil
}

// within says whether the clean path name is dir or below it.
func within(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, dir+"/")
}

func (p *plan) resolveUser() error {
	user, err := LookupUser(p.root, p.spec.User, p.spec.GroupAdd)
	if err != nil {
		return err
	}
	p.user = user
	p.env = environment(p.spec.Env, user.Home)
	return p.checkUser()
}

// defaultPath is what docker gives to a process that has no PATH.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment drops all but the last of equal names and adds HOME and PATH. An
// empty HOME counts as none, as with runc.
func environment(env []string, home string) []string {
	last := map[string]int{}
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		last[name] = i
	}
	out := make([]string, 0, len(env)+2)
	hasHome, hasPath := false, false
	for i, e := range env {
		name, value, ok := strings.Cut(e, "=")
		if last[name] != i || !ok || name == "HOME" && value == "" {
			continue
		}
		hasHome = hasHome || name == "HOME"
		hasPath = hasPath || name == "PATH"
		out = append(out, e)
	}
	if !hasPath {
		out = append(out, defaultPath)
	}
	if !hasHome {
		out = append(out, "HOME="+home)
	}
	return out
}

func (p *plan) warn(format string, args ...any) { p.spec.warn(fmt.Sprintf(format, args...)) }

func (p *plan) resolveConfinement() error {
	wanted, err := wantedCaps(p.spec)
	if err != nil {
		return err
	}
	p.caps = wanted & p.host.caps
	if missing := wanted & (1<<(p.host.lastCap+1) - 1) &^ p.caps; missing != 0 {
		p.warn("capabilities that this process lacks itself are not given: %s", strings.Join(missing.names(), " "))
	}
	if p.rlimits, err = resolveRlimits(p.spec.Rlimits, p.host.machineCaps(), func(m string) { p.warn("%s", m) }); err != nil {
		return err
	}
	if err := CheckAppArmor(p.spec.AppArmor); err != nil {
		return err
	}
	if p.sysctls, err = resolveSysctls(p.spec); err != nil {
		return err
	}
	if err := p.resolveOOM(); err != nil {
		return err
	}
	p.filter, err = p.host.filter(p.spec, p.caps)
	return err
}

// resolveOOM bounds how much the container may be protected: a process without
// CAP_SYS_RESOURCE can't give more than it has.
func (p *plan) resolveOOM() error {
	p.oomScoreAdj = p.spec.OOMScoreAdj
	if p.oomScoreAdj < -1000 || p.oomScoreAdj > 1000 {
		return fmt.Errorf("oom_score_adj %d is not between -1000 and 1000", p.oomScoreAdj)
	}
	if own := p.host.oomScoreAdj; p.oomScoreAdj < own && p.oomScoreAdj != 0 && !p.host.machineCaps().has(unix.CAP_SYS_RESOURCE) {
		p.warn("oom_score_adj %d is less than this process may set, using %d", p.oomScoreAdj, own)
		p.oomScoreAdj = own
	}
	return nil
}

// mounted says whether one of the Spec's mounts takes the place of a default
// one at target.
func (p *plan) mounted(target string) bool {
	for _, m := range p.spec.Mounts {
		if path.Clean("/"+m.Target) == target {
			return true
		}
	}
	return false
}

// openPoints opens what the default mounts are mounted on.
func (p *plan) openPoints() error {
	for _, name := range []string{"/proc", "/dev", "/sys"} {
		if p.mounted(name) {
			continue
		}
		f, err := openDirectory(p.root, name)
		if errors.Is(err, fs.ErrNotExist) {
			// These stay when the container is gone, as they do in
			// BuildKit's layers.
			if f, err = p.stubs.ensure(p.root, name, true, true); err == nil {
				f.Close()
				f, err = openDirectory(p.root, name)
			}
		}
		if err != nil {
			return err
		}
		p.addPoint(name, f)
	}
	return nil
}

// openDirectory opens an ordinary directory of the root: what an image links
// the likes of /proc to is nothing to mount on.
func openDirectory(root *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), name[1:], &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link in the image", name)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (p *plan) addPoint(name string, f *os.File) {
	p.points = append(p.points, mountPoint{name, p.keep(f)})
}

// point returns the opened mount point of that name, or nil.
func (p *plan) point(name string) *os.File {
	for _, m := range p.points {
		if m.name == name {
			return m.file
		}
	}
	return nil
}

// keep notes a file to be closed when the child runs.
func (p *plan) keep(f *os.File) *os.File {
	p.opened = append(p.opened, f)
	return f
}

// openFileSystems makes the default mounts that need no namespace of the
// child.
func (p *plan) openFileSystems() error {
	var err error
	if p.dev, err = openDev(p.spec, p.host.rootless); err != nil {
		return err
	}
	p.keep(p.dev)
	if p.host.rootless {
		if err := p.bindDevices(); err != nil {
			return err
		}
	}
	if p.pts, err = openPts(p.spec.IDs); err != nil {
		return err
	}
	p.keep(p.pts)
	if err := p.openShm(); err != nil {
		return err
	}
	return p.openEtc()
}

func (p *plan) openShm() (err error) {
	switch {
	case p.mounted("/dev/shm"), p.spec.NoShm:
		return nil
	case p.spec.Shm != nil:
		p.shm = p.spec.Shm
		return nil
	case p.spec.IPC.With == ShareHost:
		m := mount.Mount{Type: mount.Bind, Source: "/dev/shm", NoSuid: true, NoDev: true, NoExec: true}
		p.shm, err = m.Open()
	default:
		size := p.spec.ShmSize
		if size <= 0 {
			size = shmSize
		}
		p.shm, err = mount.FS{
			Type: "tmpfs", Source: "shm",
			Options: []mount.Option{{Key: "mode", Value: "1777"}, {Key: "size", Value: fmt.Sprint(size)}},
			Attr:    unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		}.Open()
	}
	if err == nil {
		p.keep(p.shm)
	}
	return err
}

// openPts makes a container's /dev/pts, whose terminals are of group 5 if there
// is one.
func openPts(ids IDMap) (*os.File, error) {
	pts := mount.FS{
		Type:    "devpts",
		Options: []mount.Option{{Key: "newinstance"}, {Key: "ptmxmode", Value: "0666"}, {Key: "mode", Value: "0620"}},
		Attr:    unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC,
	}
	gid, ok := ids.GID(5)
	if !ok {
		return pts.Open()
	}
	pts.Options = append(pts.Options, mount.Option{Key: "gid", Value: strconv.FormatUint(uint64(gid), 10)})
	m, err := pts.Open()
	if errors.Is(err, unix.EINVAL) && !sys.MayMapGroups() {
		// A user namespace of one id has no group 5.
		pts.Options = pts.Options[:len(pts.Options)-1]
		m, err = pts.Open()
	}
	return m, err
}

// markerFile is the empty file of docker's containers by which programs tell that they
// are in one. As there, /etc/mtab is made too where it is missing.
const markerFile = "/.dockerenv"

func (p *plan) openEtc() error {
	files, err := etcFiles(p.spec, p.hostname)
	if err != nil {
		return err
	}
	for _, f := range files {
		name := "/etc/" + f.name
		if p.mounted(name) {
			continue
		}
		if !p.spec.RunStep && p.mounted("/etc") {
			p.coveredEtc = append(p.coveredEtc, coveredFile{name: name})
			continue
		}
		at, err := p.stubs.ensure(p.root, name, false, false)
		if err != nil {
			return err
		}
		p.addPoint(name, at)
	}
	if !p.spec.RunStep {
		// What the image has in the way of these stays.
		if marker, err := p.stubs.ensure(p.root, markerFile, false, false); err == nil {
			marker.Close()
		}
		_ = p.stubs.ensureLink(p.root, "/etc", "mtab", "/proc/mounts")
	}
	if p.etc, err = openEtc(files, etcSource(p.spec), p.spec.RunStep); err != nil {
		return err
	}
	p.keep(p.etc)
	return nil
}

// openMounts opens the Spec's mounts and makes their mount points.
func (p *plan) openMounts() error {
	for _, m := range p.spec.Mounts {
		if m.Type == mount.Tmpfs && m.Mode == 0 {
			m.Mode = p.coveredMode(m.Target)
		}
		if err := p.mapOwners(&m); err != nil {
			return fmt.Errorf("mount on %q: %w", m.Target, err)
		}
		pm := plannedMount{target: path.Clean("/" + m.Target), tree: m.Tree, inside: m.Inside, attr: m.Attributes()}
		if pm.inside == nil {
			tree, err := m.Open()
			if err != nil {
				return fmt.Errorf("mount on %q: %w", m.Target, err)
			}
			pm.tree = p.keep(tree)
		}
		st, err := pm.tree.Stat()
		if err != nil {
			return err
		}
		pm.dir, pm.foreign = st.IsDir(), m.Type == mount.Bind && m.UserNS == nil
		if err := p.makePoint(pm); err != nil {
			return fmt.Errorf("mount on %q: %w", m.Target, err)
		}
		p.mounts = append(p.mounts, pm)
	}
	for _, f := range p.coveredEtc {
		if err := p.makeEtcPoint(f.name); err != nil {
			return fmt.Errorf("mount on %q: %w", f.name, err)
		}
	}
	return nil
}

// makeEtcPoint makes the mount point of one of the /etc files in the mount on /etc, which
// may be a directory of the machine. Nothing is made there but a file of that name. Of a
// link it is what it leads to, outside of all mounts.
func (p *plan) makeEtcPoint(name string) error {
	var etc *os.File
	for _, m := range p.mounts {
		if m.target == "/etc" {
			etc = m.tree
		}
	}
	if etc == nil {
		return nil
	}
	at, err := sys.OpenBeneath(etc, path.Base(name), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return p.makePoint(plannedMount{target: name})
	}
	if err != nil {
		return err
	}
	defer at.Close()
	if to, err := sys.ReadLinkOf(at); err == nil {
		if !path.IsAbs(to) {
			to = path.Join("/etc", to)
		}
		inMount := slices.ContainsFunc(p.mounts, func(m plannedMount) bool { return within(path.Clean(to), m.target) })
		if !inMount && !within(to, "/proc") && !within(to, "/dev") && !within(to, "/sys") {
			if stub, err := p.stubs.ensure(p.root, path.Clean(to), false, false); err == nil {
				stub.Close()
			}
		}
	}
	return nil
}

// coveredMode is the mode of the directory that a mount will hide, 0 if there
// is none: a tmpfs looks like the directory it covers.
func (p *plan) coveredMode(target string) uint32 {
	f, err := sys.OpenInRoot(p.root, target, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	return st.Mode & 0o7777
}

// makePoint makes the mount point of a mount where it is missing. The child
// finds it by its path with everything else mounted; here it is made in what
// will be mounted there. Only what is made in the root itself is removed
// again, as with other container engines.
func (p *plan) makePoint(m plannedMount) error {
	base, rest, foreign := p.root, m.target, false
	below := func(tree *os.File, target string, its bool) {
		if tree != nil && within(m.target, target) && m.target != target {
			base, rest, foreign = tree, strings.TrimPrefix(m.target, target), its
		}
	}
	if p.point("/dev") != nil {
		below(p.dev, "/dev", false)
		below(p.shm, "/dev/shm", false)
	}
	if p.point("/sys") != nil && within(m.target, "/sys") {
		return nil // nothing can be made there
	}
	for _, earlier := range p.mounts {
		below(earlier.tree, earlier.target, earlier.foreign)
	}
	if foreign && p.spec.UserNS != nil {
		// In a directory of the machine it is made as without a namespace: the
		// container gets no right to what is there.
		return sys.AsFileUser(0, 0, func() error { return ensureIn(base, rest, m.dir) })
	}
	if base != p.root {
		return ensureIn(base, rest, m.dir)
	}
	f, err := p.stubs.ensure(base, rest, m.dir, false)
	if err != nil {
		return err
	}
	defer f.Close()
	// By links of the image it may be another place than it looks.
	at, err := os.Readlink(sys.FDPath(f))
	if err == nil && within(at, "/proc") {
		err = fmt.Errorf("the image makes it %s: nothing can be mounted there", at)
	}
	return err
}

// ensureIn makes a mount point inside another mount. One that can't be made,
// because the mount is read-only, is missed when it is mounted on.
func ensureIn(base *os.File, name string, dir bool) error {
	var s stubs
	defer s.close()
	f, err := s.ensure(base, name, dir, true)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// makeDir makes the working directory in the root if it is missing.
func (p *plan) makeDir() error {
	made := func(dir *os.File, _ string) error {
		if !p.spec.RunStep {
			return nil
		}
		gid, _ := p.spec.IDs.GID(p.user.GID) // it was checked that there is this one
		return owner.Chown(dir, int(p.userOutside()), int(gid))
	}
	f, err := sys.MkdirAllInRoot(p.root, p.dir, 0o755, made)
	if err == nil {
		return f.Close()
	}
	// It may be inside a mount; if not, the child fails to go there.
	if len(p.mounts) > 0 || within(p.dir, "/proc") || within(p.dir, "/dev") || within(p.dir, "/sys") {
		return nil
	}
	return err
}

func (p *plan) openStreams() error {
	null := func() (*os.File, error) {
		if p.host.rootless {
			return machineNull()
		}
		fd, err := unix.Openat(int(p.dev.Fd()), "null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: "/dev/null", Err: err}
		}
		return os.NewFile(uintptr(fd), "/dev/null"), nil
	}
	return p.makeStreams(null)
}

// makeStreams makes the socket that errors come by, and the process's streams. null
// opens what it has for those that nobody wants.
func (p *plan) makeStreams(null func() (*os.File, error)) (err error) {
	if p.report, p.errfd, err = sys.SocketPair(); err != nil {
		return err
	}
	p.keep(p.errfd)
	if p.io, err = newStdio(p.spec, p.userOutside(), p.pts, null); err != nil {
		return err
	}
	return p.io.give()
}

// machineNull opens the machine's /dev/null.
func machineNull() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }

// userOutside is the process's user outside of the container.
func (p *plan) userOutside() uint32 {
	uid, _ := p.spec.IDs.UID(p.user.UID) // it was checked that there is this one
	return uid
}

func (p *plan) makeCgroup() (err error) {
	if p.cgroup, err = p.host.makeCgroup(p.spec); err != nil {
		return err
	}
	for _, twin := range p.cgroup.v1 {
		procs, err := sys.OpenInRoot(twin.dir, "cgroup.procs", unix.O_WRONLY, 0)
		if err != nil {
			return err
		}
		p.v1procs = append(p.v1procs, p.keep(procs))
	}
	return nil
}

// release closes what only the child's set-up needed.
func (p *plan) release() {
	for _, f := range p.opened {
		f.Close()
	}
	p.opened = nil
}

// abandon undoes everything for a container that won't run.
func (p *plan) abandon() error {
	p.give()
	var err error
	if p.cgroup != nil {
		err = p.cgroup.remove()
	}
	return errors.Join(err, p.stubs.clean())
}
