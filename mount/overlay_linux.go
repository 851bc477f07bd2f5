// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// Overlay describes an overlayfs mount (Documentation/filesystems/overlayfs.rst).
type Overlay struct {
	Lower []string // read-only directories, topmost first; at least one
	Upper string   // "" for a read-only mount, which needs two or more Lower
	Work  string
	// Volatile skips every sync of Upper: right where an interrupted mount
	// is thrown away anyway.
	Volatile bool
	// UserXattr keeps overlay's own marks in user.* rather than trusted.*
	// attributes, the only ones a user namespace may write.
	UserXattr bool
	// UserNS shows the owners of all directories; nil shows them as they are.
	UserNS *UserNS
}

// Open makes the mount and returns it detached. Closing the file unmounts it.
func (o Overlay) Open() (*os.File, error) {
	dirs := &directories{ns: o.UserNS}
	defer dirs.close()
	if o.UserNS == nil {
		return o.open(dirs)
	}
	var m *os.File
	err := sys.OnNewThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return os.NewSyscallError("mount private", err)
		}
		// One mount is enough for most of them.
		if err := dirs.share(commonDir(o.Lower)); err != nil {
			return err
		}
		if o.Upper != "" {
			// These two are to be on one mount.
			if err := dirs.share(commonDir([]string{o.Upper, o.Work})); err != nil {
				return err
			}
		}
		// It is made by who owns what overlayfs makes itself.
		return o.UserNS.AsRoot(func() error { m, err = o.open(dirs); return err })
	})
	return m, err
}

// commonDir is the directory in which all the directories are, or that they
// are.
func commonDir(dirs []string) string {
	common := dirs[0]
	for _, dir := range dirs[1:] {
		for dir != common && !strings.HasPrefix(dir, strings.TrimSuffix(common, "/")+"/") {
			common = filepath.Dir(common)
		}
	}
	return common
}

func (o Overlay) open(dirs *directories) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen overlay", err)
	}
	defer unix.Close(fs)
	set := func(key, value string) error {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return fmt.Errorf("overlay option %s=%s: %w%s", key, value, err, fsLog(fs))
		}
		return nil
	}
	setPath := func(key, dir string) error {
		// Paths go by descriptor: no length limit and no escaping. Linux
		// before 6.13 takes overlay's paths only as strings.
		fd, err := dirs.open(dir)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.FsconfigSetFd(fs, key, fd); err == nil {
			return nil
		}
		if o.UserNS != nil {
			dir = "/proc/self/fd/" + strconv.Itoa(fd)
		}
		if key == "lowerdir+" {
			dir = strings.ReplaceAll(dir, `\`, `\\`)
		}
		return set(key, dir)
	}
	for _, dir := range o.Lower {
		if err := setPath("lowerdir+", dir); err != nil {
			return nil, err
		}
	}
	if o.Upper != "" {
		if err := setPath("upperdir", o.Upper); err != nil {
			return nil, err
		}
		if err := setPath("workdir", o.Work); err != nil {
			return nil, err
		}
	}
	opts := []string{"redirect_dir=off", "metacopy=off", "index=off"}
	if o.UserXattr {
		opts = []string{"userxattr", "index=off"} // implies the others
	}
	if o.Volatile && o.Upper != "" {
		opts = append(opts, "volatile")
	}
	for _, opt := range opts {
		key, value, ok := strings.Cut(opt, "=")
		if ok {
			err = set(key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return nil, fmt.Errorf("overlay option %s: %w%s", opt, err, fsLog(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("mount overlay of %d layers: %w%s", len(o.Lower), err, fsLog(fs))
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fsmount overlay", err)
	}
	return os.NewFile(uintptr(m), "overlay"), nil
}

// fsLog reads the messages that the kernel kept in a file system context, as
// "; message", or "" if there are none.
func fsLog(fs int) string {
	var out strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fs, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return out.String()
		}
		out.WriteString("; " + strings.TrimSpace(string(buf[:n])))
	}
}
