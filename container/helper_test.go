// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"builder/container/internal/startlimit"
)

// helper is what runs in the tests' containers. args is a list of commands,
// separated by ";".
func helper(args []string) {
	for len(args) > 0 {
		command := args
		if i := slices.Index(args, ";"); i >= 0 {
			command, args = args[:i], args[i+1:]
		} else {
			args = nil
		}
		helperCommand(command[0], command[1:])
	}
}

func helperCommand(name string, args []string) {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	num := func(i int) int {
		n, err := strconv.Atoi(arg(i))
		check(err)
		return n
	}
	switch name {
	case "exit":
		os.Exit(num(0))
	case "echo":
		fmt.Println(strings.Join(args, " "))
	case "err":
		fmt.Fprintln(os.Stderr, strings.Join(args, " "))
	case "cat":
		if len(args) == 0 {
			_, err := io.Copy(os.Stdout, os.Stdin)
			check(err)
			return
		}
		text, err := os.ReadFile(arg(0))
		check(err)
		os.Stdout.Write(text)
	case "env":
		for _, e := range os.Environ() {
			fmt.Println(e)
		}
	case "id":
		groups, err := os.Getgroups()
		check(err)
		slices.Sort(groups)
		fmt.Println(os.Getuid(), os.Getgid(), groups)
	case "pwd":
		dir, err := unix.Getwd()
		check(err)
		fmt.Println(dir)
	case "fds":
		entries, err := os.ReadDir("/proc/self/fd")
		check(err)
		for _, e := range entries {
			to, err := os.Readlink("/proc/self/fd/" + e.Name())
			if err == nil && !strings.HasPrefix(to, "anon_inode:") && !strings.HasPrefix(to, "/proc/") {
				fmt.Println(e.Name(), to)
			}
		}
	case "ls":
		entries, err := os.ReadDir(arg(0))
		check(err)
		for _, e := range entries {
			fmt.Println(e.Name())
		}
	case "stat":
		var st unix.Stat_t
		check(unix.Lstat(arg(0), &st))
		fmt.Printf("%o %d %d %d\n", st.Mode, st.Uid, st.Gid, st.Rdev)
	case "try": // each: one line with the errno of opening a path
		for _, name := range args[1:] {
			flags := map[string]int{"r": unix.O_RDONLY, "w": unix.O_WRONLY, "rw": unix.O_RDWR, "c": unix.O_WRONLY | unix.O_CREAT}[args[0]]
			fd, err := unix.Open(name, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o666)
			fmt.Println(name, errnoName(err))
			unix.Close(fd)
		}
	case "touch":
		f, err := os.OpenFile(arg(0), os.O_CREATE|os.O_WRONLY, 0o666)
		check(err)
		f.Close()
	case "write":
		check(os.WriteFile(arg(0), []byte(arg(1)), 0o666))
	case "rm":
		check(os.Remove(arg(0)))
	case "mkdir":
		check(os.MkdirAll(arg(0), 0o777))
	case "symlink":
		check(os.Symlink(arg(0), arg(1)))
	case "rename":
		check(os.Rename(arg(0), arg(1)))
	case "mknod": // type major minor: makes the node and opens it
		mode := map[string]uint32{"c": unix.S_IFCHR, "b": unix.S_IFBLK}[arg(0)]
		name := "/tmp/node"
		os.Remove(name)
		err := unix.Mknod(name, mode|0o600, int(unix.Mkdev(uint32(num(1)), uint32(num(2)))))
		fmt.Print("mknod ", errnoName(err))
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		fmt.Println(" open", errnoName(err))
		unix.Close(fd)
	case "statfs":
		for _, name := range args {
			var st unix.Statfs_t
			check(unix.Statfs(name, &st))
			fmt.Printf("%s %x %d\n", name, st.Type, st.Blocks*uint64(st.Bsize))
		}
	case "signal-self":
		signal.Reset()
		check(unix.Kill(os.Getpid(), syscall.Signal(num(0))))
		time.Sleep(time.Hour)
	case "child-signal": // a child is killed by a signal, and we follow it
		cmd := exec.Command("/proc/self/exe", "signal-self", arg(0))
		cmd.Args[0] = "helper"
		cmd.Run()
		os.Exit(128 + int(cmd.ProcessState.Sys().(syscall.WaitStatus).Signal()))
	case "trap": // prints the signal and exits
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGINT)
		fmt.Println("ready")
		fmt.Println((<-c).String())
	case "winch":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGWINCH)
		printSize()
		fmt.Println("ready")
		<-c
		printSize()
	case "tty":
		_, err := unix.IoctlGetTermios(0, unix.TCGETS)
		fmt.Println("terminal", errnoName(err))
		printSize()
		_, err = os.OpenFile("/dev/tty", os.O_RDWR, 0)
		fmt.Println("controlling", errnoName(err))
		name, err := os.Readlink("/proc/self/fd/0")
		fmt.Println("name", name, errnoName(err))
		_, err = os.OpenFile(name, os.O_RDWR, 0)
		fmt.Println("reopen", errnoName(err))
		_, err = os.OpenFile("/dev/console", os.O_RDWR, 0)
		fmt.Println("console", errnoName(err))
	case "sleep":
		fmt.Println("ready")
		time.Sleep(time.Duration(num(0)) * time.Second)
	case "freeze": // stops every process that it sees but process 1 and itself
		fmt.Println("ready")
		for {
			entries, _ := os.ReadDir("/proc")
			for _, e := range entries {
				if pid, err := strconv.Atoi(e.Name()); err == nil && pid != 1 && pid != os.Getpid() {
					_ = syscall.Kill(pid, syscall.SIGSTOP)
				}
			}
		}
	case "orphans": // leaves n sleeping grandchildren and exits
		for range num(0) {
			cmd := exec.Command("/proc/self/exe", "sleep", "1000")
			cmd.Args[0] = "helper"
			cmd.Stdout = os.Stdout
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			check(cmd.Start())
		}
	case "zombies": // leaves n children to process 1 and counts zombies
		for range num(0) {
			cmd := exec.Command("/proc/self/exe", "fork-and-leave")
			cmd.Args[0] = "helper"
			check(cmd.Run())
		}
		time.Sleep(50 * time.Millisecond)
		fmt.Println("zombies", countZombies())
	case "fork-and-leave":
		cmd := exec.Command("/proc/self/exe", "echo")
		cmd.Args[0] = "helper"
		check(cmd.Start())
	case "fill": // writes to so many MiB of memory
		b := make([]byte, num(0)<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("filled")
	case "masked": // says whether all masks are empty directories or files
		fine := true
		for _, m := range append(maskedPaths, thermalPaths()...) {
			name := m.in + "/" + m.path
			st, err := os.Stat(name)
			if os.IsNotExist(err) {
				continue
			}
			check(err)
			if st.IsDir() {
				entries, err := os.ReadDir(name)
				check(err)
				fine = fine && len(entries) == 0
				continue
			}
			text, err := os.ReadFile(name)
			check(err)
			if len(text) > 0 {
				fmt.Printf("%s shows %.40q\n", name, text)
				fine = false
			}
		}
		if fine {
			fmt.Println("all are masked")
		}
	case "mount": // type target
		fmt.Println(errnoName(unix.Mount("none", arg(1), arg(0), 0, "")))
	case "umount":
		fmt.Println(errnoName(unix.Unmount(arg(0), 0)))
	case "remount": // read-write
		fmt.Println(errnoName(unix.Mount("", arg(0), "", unix.MS_REMOUNT|unix.MS_BIND, "")))
	case "mounted": // those of the paths that something is mounted on
		table, err := os.ReadFile("/proc/self/mountinfo")
		check(err)
		found := "none"
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); slices.Contains(args, f[4]) {
				found = line
			}
		}
		fmt.Println(found)
	case "spin": // uses a processor for so many milliseconds of its time
		for {
			var ts unix.Timespec
			check(unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts))
			if ts.Nano() > int64(num(0))*int64(time.Millisecond) {
				break
			}
		}
	case "hold": // holds so many MiB of memory until it is killed
		b := make([]byte, num(0)<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("held")
		time.Sleep(time.Hour)
		runtime.KeepAlive(b)
	case "forks": // has so many children at once, and says which one failed
		var pids []int
		failed := unix.Errno(0)
		for range num(0) {
			pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
			if failed = errno; errno != 0 {
				break
			}
			if pid == 0 {
				for {
					unix.RawSyscall(unix.SYS_PAUSE, 0, 0, 0)
				}
			}
			pids = append(pids, int(pid))
		}
		for _, pid := range pids {
			check(unix.Kill(pid, unix.SIGKILL))
			_, err := unix.Wait4(pid, nil, 0, nil)
			check(err)
		}
		if failed != 0 {
			fmt.Println(len(pids), unix.ErrnoName(failed))
			return
		}
		fmt.Println(len(pids), "ok")
	case "ppid":
		fmt.Println(os.Getpid(), os.Getppid())
	case "umask":
		old := unix.Umask(0)
		fmt.Printf("%04o\n", old)
	case "rlimit":
		var r unix.Rlimit
		check(unix.Prlimit(0, rlimitNumbers[arg(0)], nil, &r))
		if arg(0) == "nofile" {
			r = unix.Rlimit(startlimit.Nofile) // the Go runtime has changed it
		}
		fmt.Println(rlimitText(r.Cur), rlimitText(r.Max))
	case "syscall": // number and arguments: the errno
		var a [7]uintptr
		for i := range args {
			v, err := strconv.ParseUint(arg(i), 0, 64)
			check(err)
			a[i] = uintptr(v)
		}
		_, _, errno := unix.RawSyscall6(a[0], a[1], a[2], a[3], a[4], a[5], a[6])
		if errno == 0 {
			fmt.Println("ok")
			return
		}
		fmt.Println(unix.ErrnoName(errno))
	case "socket":
		fd, err := unix.Socket(num(0), num(1), 0)
		fmt.Println(errnoName(err))
		unix.Close(fd)
	case "lo":
		text, err := os.ReadFile("/proc/net/dev")
		check(err)
		for _, line := range strings.Split(string(text), "\n")[2:] {
			if name, _, ok := strings.Cut(line, ":"); ok {
				flags, err := os.ReadFile("/sys/class/net/" + strings.TrimSpace(name) + "/flags")
				check(err)
				fmt.Println(strings.TrimSpace(name), strings.TrimSpace(string(flags)))
			}
		}
	case "hostname":
		name, err := os.Hostname()
		check(err)
		fmt.Println(name)
	case "exec":
		check(syscall.Exec(arg(0), args, os.Environ()))
	case "escape": // the classic way out of a chroot
		check(os.MkdirAll("/tmp/jail", 0o755))
		check(unix.Chroot("/tmp/jail"))
		for range 64 {
			check(unix.Chdir(".."))
		}
		check(unix.Chroot("."))
		helperCommand("ls", []string{"/"})
	case "session":
		pgid, err := unix.Getsid(0)
		fmt.Println("session", pgid, errnoName(err))
	case "keyring":
		id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
		fmt.Println(id, errnoName(err))
	case "lines": // n lines of output
		w := bufio.NewWriter(os.Stdout)
		for i := range num(0) {
			fmt.Fprintln(w, i)
		}
		w.Flush()
	case "append-proc-exe":
		_, err := os.OpenFile("/proc/1/exe", os.O_RDWR, 0)
		fmt.Println(errnoName(err))
	case "watch": // what other processes than 1 and this are executed from, until told to end
		fmt.Println("ready")
		seen := map[string]bool{}
		for {
			if _, err := os.Stat("/tmp/end"); err == nil {
				break
			}
			exes, _ := filepath.Glob("/proc/[0-9]*/exe")
			for _, exe := range exes {
				to, err := os.Readlink(exe)
				if err != nil || to == "/bin/helper" || seen[to] {
					continue
				}
				seen[to] = true
				_, err = os.OpenFile(exe, os.O_RDWR, 0)
				fmt.Println(to, errnoName(err))
			}
		}
	case "namespaces":
		for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts", "user"} {
			to, err := os.Readlink("/proc/self/ns/" + ns)
			check(err)
			fmt.Println(to)
		}
	case "find": // every path below a directory, on its file system
		check(filepath.WalkDir(arg(0), func(p string, _ os.DirEntry, err error) error {
			fmt.Println(p)
			return err
		}))
	default:
		fmt.Fprintln(os.Stderr, "helper: unknown command", name)
		os.Exit(99)
	}
}

func printSize() {
	ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err == nil {
		fmt.Println("size", ws.Col, ws.Row)
	}
}

func countZombies() int {
	found := 0
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, _ := os.ReadFile(name)
		if _, rest, ok := strings.Cut(string(text), ") "); ok && strings.HasPrefix(rest, "Z") {
			found++
		}
	}
	return found
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(98)
	}
}
