// SPDX-License-Identifier: Apache-2.0

// Package container runs a process in new namespaces over a root file system,
// confined as docker confines by default. RUN steps and `builder run` use the
// same code.
//
// A container's set-up is data. [Start] resolves everything that the image can
// influence against the detached root mount, makes the other mounts detached
// too, and writes down the remaining system calls as a list of named steps,
// the program. A carrier makes the child process and applies the program in
// it; the last step executes a tiny program in a sealed memory file, the
// trampoline, which executes the command. Carriers differ only in how the
// child is made. A step that fails is reported by its name.
//
// Nothing is ever mounted in the caller's mount namespace, so nothing is left
// behind however a process ends: the container's mounts live in its own
// namespace and go with its last process.
//
// The package has no idea of images, layers or names of containers.
package container

import (
	"io"
	"net/netip"
	"os"

	"builder/mount"
)

// Spec says what runs, where and how confined. The zero value of each optional
// field is docker's default. It is kept as JSON, less what exists only in one
// process: files, streams and functions.
type Spec struct {
	// ID names the control group and nothing else. It matches
	// [a-z0-9][a-z0-9_.-]*, is at most 128 bytes long, and no two running
	// containers of a CgroupParent share one.
	ID string

	// Root is a detached mount (see mount.Overlay.Open) that becomes "/". It
	// serves one Start, as a mount that has been in a namespace can't be
	// attached again; Start does not close it. Missing mount points and Dir
	// are made in it.
	Root     *os.File      `json:"-"`
	ReadOnly bool          // "/" can't be written to
	Mounts   []mount.Mount // applied in order, after the default ones

	// RunStep makes the small differences that BuildKit makes for RUN:
	// /etc/hosts and /etc/resolv.conf are read-only, /etc/hostname is left to
	// the image, and a missing Dir is made owned by the user.
	RunStep bool

	// Hostname is the name in the container's own UTS namespace. "" is the
	// host's name with the Host network, else the ID's first 12 bytes.
	Hostname string
	// Domainname is the NIS domain name (domainname(1)), and what /etc/hosts has
	// after the host name in the container's full name; "" for none.
	Domainname string
	Hosts      []Host // lines added to /etc/hosts
	// NoHosts leaves /etc/hosts to the image.
	NoHosts bool
	// ResolvConf is the content of /etc/resolv.conf. nil is the host's, less
	// the name servers that can't be reached over Network.
	ResolvConf []byte
	// DNS changes parts of it.
	DNS DNS

	// Args is the command. If Args[0] has no slash it is looked up in the
	// PATH of Env, inside the container and with the user's rights.
	Args []string
	// Env is the environment. HOME is added from the user's entry in
	// /etc/passwd unless it is set, and PATH as docker's default. Of a name
	// that occurs twice the last value holds.
	Env []string
	// Dir is the working directory, "" for "/". A missing one is made with
	// mode 0755 and owner root.
	Dir string
	// User is "", name, uid, name:group, uid:gid, …; see [LookupUser].
	User     string
	GroupAdd []string // further groups, by name or id
	// Account, if the process is of that user and the root has no entry for it and none
	// of that name, is added to the root's /etc/passwd, and its group to /etc/group, so
	// far as there are such files and they can be written to.
	Account *Account
	// Umask is the file mode creation mask, nil for 022.
	Umask *uint32

	Network Network
	// NetNS is the network namespace of [NetworkPrivate], which the caller has
	// made and keeps.
	NetNS *os.File `json:"-"`
	// Gateway is the address of this machine on a private network; zero if it
	// is not to be reached. On the machine's own network it is 127.0.0.1.
	Gateway netip.Addr `json:"-"`

	// Terminal gives the process a pseudo terminal of Width by Height as
	// controlling terminal and standard streams; Stdin and Stdout are its
	// other side and Stderr is not used.
	Terminal      bool
	Width, Height uint16

	// Stdin, Stdout and Stderr are the process's streams; nil is /dev/null.
	// An *os.File is handed through, unless it is a terminal: that is never
	// given to a container. Anything else is copied, and so is a terminal.
	// If Stdout and Stderr are the same value they share one pipe.
	Stdin  io.Reader `json:"-"`
	Stdout io.Writer `json:"-"`
	Stderr io.Writer `json:"-"`

	Resources Resources
	ShmSize   int64 // size of /dev/shm in bytes, 0 for 64 MiB
	Rlimits   []Rlimit

	CapAdd, CapDrop []string // names with or without CAP_, any case, or ALL
	// Seccomp is "" for docker's default profile, "unconfined", or the path of
	// a profile in docker's JSON format.
	Seccomp         string
	NoNewPrivileges bool
	// AppArmor is a profile that is loaded in the kernel, or "" or "unconfined"
	// for none.
	AppArmor string
	// Mask are further paths that the container doesn't see. Unmask are, of the
	// paths that are masked or read-only by default, those that are not to be:
	// patterns as of path.Match, or ALL.
	Mask, Unmask []string
	// Privileged drops all confinement but the namespaces: every capability
	// that the caller has, no seccomp, no masked paths, all devices of the
	// host, writable /sys.
	Privileged bool

	// AmbientCaps gives the capabilities to the process whatever its user, and
	// to what it executes: docker gives them to root alone.
	AmbientCaps bool
	// Devices are further nodes of /dev, which the container may use, and
	// DeviceRules devices that it may use if it makes their nodes.
	Devices     []Device
	DeviceRules []DeviceRule
	// Sysctls are kernel parameters by name, of those that the container has
	// of its own.
	Sysctls map[string]string
	// SysctlDefaults are others, which are set unless Sysctls has them, as far as they
	// can be.
	SysctlDefaults map[string]string `json:"-"`
	// OOMScoreAdj makes the kernel kill its processes sooner or later than
	// others when memory runs out, -1000 to 1000.
	OOMScoreAdj int

	// Init runs a small reaper as process 1, which starts the command,
	// forwards signals to it, and ends with its exit code.
	Init bool
	// KillWithParent kills the container when the calling process ends,
	// however it ends.
	KillWithParent bool
	// BeforeExec, if there is one, is called with the id of process 1 when that
	// is set up, before it executes the command, and with the other side of its
	// terminal, nil without one: the callee may hand that to another process, to
	// keep it open. If it fails, or the calling
	// process ends before it has returned, the command is not executed: whatever
	// runs has been noted by it. Its error is Start's.
	BeforeExec func(pid int, terminal *os.File) error `json:"-"`
	// CgroupParent is the control group below which the container's is made,
	// a path from the top of the hierarchy; "" is one for builder's.
	CgroupParent string
	// HostCgroupNS shows it the control groups of the machine, not its own as
	// the top.
	HostCgroupNS bool
	// WritableCgroups lets it make control groups below its own, as Privileged does,
	// in /sys/fs/cgroup. It may change its own limits then unless cgroup2 is mounted
	// with nsdelegate (cgroups(7)).
	WritableCgroups bool
	// IDs, if there are any, are what the container's users and groups are
	// outside of it: it is in a user namespace, and its root is root of nothing
	// else. UserNS is the namespace ([NewUserNamespace]), which the caller keeps
	// open during Start, and of which Root shows its owners. A network
	// namespace should belong to it; of NetworkNone it is NetNS too then.
	IDs    IDMap
	UserNS *mount.UserNS `json:"-"`
	// IPC, PID and UTS are namespaces that it may share. With the machine's IPC
	// it has the machine's /dev/shm too; with another container's, Shm is that
	// one's (see [SharedMemory]).
	IPC, PID, UTS Sharing
	Shm           *os.File `json:"-"`
	// NoShm leaves /dev/shm out.
	NoShm bool

	// Warn is told what had to be given less than asked, as a resource limit
	// beyond the caller's own. nil drops it.
	Warn func(message string) `json:"-"`
}

func (s *Spec) warn(message string) {
	if s.Warn != nil {
		s.Warn(message)
	}
}

// Device is a device node in a container's /dev.
type Device struct {
	Path         string // below /dev
	Type         byte   // 'b' or 'c'
	Major, Minor uint32
	Mode         uint32 // permissions, 0 for 0666
	UID, GID     uint32
	// Access is what the container may do: some of r, w and m (to make such
	// nodes); "" is all.
	Access string
}

// Sharing says whose namespace of a kind a container is in.
type Sharing struct {
	With Share
	// NS is that of ShareOther. The caller keeps it open during Start.
	NS *os.File `json:"-"`
}

// Share is one of the ways to share a namespace.
type Share string

// The ways to share a namespace.
const (
	ShareNot   Share = "" // the container has one of its own
	ShareHost  Share = "host"
	ShareOther Share = "other" // one that is there
)

// DeviceRule allows the use of devices by their numbers, -1 being any. Type is
// 'b', 'c', or 'a' for both; Access is as of [Device].
type DeviceRule struct {
	Type         byte
	Major, Minor int
	Access       string
}

// Account is an entry of passwd(5).
type Account struct {
	Name     string
	UID, GID uint32
}

// DNS says what is different in a container's /etc/resolv.conf from the
// machine's. Search, as "." alone, is no search.
type DNS struct {
	Servers []netip.Addr
	Search  []string
	Options []string
}

// Given tells whether there is anything.
func (d DNS) Given() bool { return len(d.Servers)+len(d.Search)+len(d.Options) > 0 }

// Host is a line of /etc/hosts (hosts(5)).
type Host struct {
	Name    string
	Aliases []string `json:",omitempty"`
	IP      netip.Addr
	// Gateway has the name mean this machine, in the place of IP: its address
	// is [Spec.Gateway]. Where the network does not reach this machine
	// there is no such line.
	Gateway bool `json:",omitempty"`
}

// Network says which network a container sees.
type Network string

// The networks.
const (
	NetworkHost Network = "host" // the caller's; also what "" means
	NetworkNone Network = "none" // a network namespace with nothing but lo
	// NetworkPrivate is the namespace NetNS. Its /etc/hosts has the names that
	// Hosts gives, and its name servers are those that it can reach.
	NetworkPrivate Network = "private"
)

// Rlimit is a resource limit (getrlimit(2)). Name is as in docker's --ulimit:
// "nofile", "nproc", "core", …; -1 is no limit.
type Rlimit struct {
	Name       string
	Soft, Hard int64
}
