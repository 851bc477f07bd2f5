// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"builder/image"
	"builder/internal/sys"
	"builder/supervisor"
)

// infoRow is what a --format of info can show. The names are docker's where it
// has them.
type infoRow struct {
	ServerVersion     string
	DockerRootDir     string // the state directory
	Driver            string
	BackingFilesystem string
	Images            int
	Containers        int
	ContainersRunning int
	ContainersPaused  int
	ContainersStopped int
	Name              string // of the machine
	OSType            string
	KernelVersion     string
	OperatingSystem   string
	Architecture      string
	NCPU              int
	MemTotal          int64 // bytes
	CgroupVersion     string
	CgroupDriver      string
	LoggingDriver     string
	SecurityOptions   []string
	Swarm             infoSwarm
	Labels            []string
	Warnings          []string
	Rootless          bool
	Emulators         string // architectures whose programs can run beside the machine's
}

// infoSwarm tells scripts that there are no swarms.
type infoSwarm struct{ LocalNodeState string }

// serverRow is the same of one of the servers that are asked for a name.
type serverRow struct {
	Server     string
	Repository string
	Role       string // mirror or registry
	For        string
	Options    string
	From       string
}

func runInfo(_ context.Context, e *env, args []string) error {
	fs := flags("info")
	format := fs.StringP("format", "f", "", "`table`, json, or a Go template")
	words, err := e.parse(fs, args, 0, 1)
	if err != nil {
		return err
	}
	if len(words) == 1 {
		return e.servers(words[0], *format)
	}
	row, err := e.info()
	if err != nil {
		return err
	}
	if *format != "" {
		return table{format: *format}.print(e.stdout, []any{row})
	}
	fmt.Fprintf(e.stdout, "Version:           %s\nState directory:   %s (%s on %s)\nImages:            %d\nContainers:        %d (%d running)\n",
		row.ServerVersion, row.DockerRootDir, row.Driver, row.BackingFilesystem, row.Images, row.Containers, row.ContainersRunning)
	fmt.Fprintf(e.stdout, "Kernel:            %s\nOperating system:  %s\nArchitecture:      %s\nCPUs:              %d\nMemory:            %s\nControl groups:    version %s\nRootless:          %t\nEmulators:         %s\n",
		row.KernelVersion, row.OperatingSystem, row.Architecture, row.NCPU, humanSize(row.MemTotal), row.CgroupVersion, row.Rootless, row.Emulators)
	return nil
}

func (e *env) info() (row infoRow, err error) {
	s, err := e.store()
	if err != nil {
		return row, err
	}
	row = infoRow{
		ServerVersion: version().Version, DockerRootDir: s.Path(), Driver: "overlayfs", BackingFilesystem: fileSystem(s.Path()),
		Architecture: sys.Machine(), NCPU: runtime.NumCPU(), CgroupVersion: cgroupVersion(), Rootless: rootless(),
		OSType: runtime.GOOS, CgroupDriver: "cgroupfs", LoggingDriver: "local", SecurityOptions: []string{"name=seccomp,profile=builtin", "name=cgroupns"},
		Swarm: infoSwarm{"inactive"}, Labels: []string{}, Warnings: []string{},
		KernelVersion: strings.TrimSpace(fileText("/proc/sys/kernel/osrelease")), OperatingSystem: operatingSystem(), Emulators: emulators(),
	}
	if row.Rootless {
		row.SecurityOptions = append(row.SecurityOptions, "name=rootless")
	}
	if row.Name, err = os.Hostname(); err != nil {
		return row, err
	}
	images, err := listImages(s)
	if err != nil {
		return row, err
	}
	row.Images = len(images)
	all, err := supervisor.NewRecords(s).List()
	if err != nil {
		return row, err
	}
	for _, c := range all {
		row.Containers++
		switch c.State.Status {
		case supervisor.Running:
			row.ContainersRunning++
		case supervisor.Paused:
			row.ContainersPaused++
		default:
			row.ContainersStopped++
		}
	}
	var si syscall.Sysinfo_t
	if err := syscall.Sysinfo(&si); err == nil {
		row.MemTotal = int64(si.Totalram) * int64(si.Unit)
	}
	return row, nil
}

func fileText(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(data)
}

// operatingSystem is PRETTY_NAME of os-release(5).
func operatingSystem() string {
	for line := range strings.Lines(fileText("/etc/os-release")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return runtime.GOOS
}

// cgroupVersion is that of the hierarchy that is mounted: "1", "2" or, where
// both are, "1 and 2".
func cgroupVersion() string {
	var one, two bool
	for line := range strings.Lines(fileText("/proc/self/mountinfo")) {
		_, after, _ := strings.Cut(line, " - ")
		one = one || strings.HasPrefix(after, "cgroup ")
		two = two || strings.HasPrefix(after, "cgroup2 ")
	}
	switch {
	case one && two:
		return "1 and 2"
	case two:
		return "2"
	case one:
		return "1"
	}
	return "none"
}

// fileSystem names the file system of a directory.
func fileSystem(dir string) string {
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) != nil {
		return "unknown"
	}
	// Numbers of statfs(2).
	switch st.Type {
	case 0xef53:
		return "ext4"
	case 0x58465342:
		return "xfs"
	case 0x9123683e:
		return "btrfs"
	case 0x01021994:
		return "tmpfs"
	case 0x794c7630:
		return "overlayfs"
	case 0x2fc12fc1:
		return "zfs"
	case 0x6969:
		return "nfs"
	}
	return fmt.Sprintf("file system %#x", st.Type)
}

// emulators lists what binfmt_misc runs by qemu.
func emulators() string {
	entries, err := os.ReadDir("/proc/sys/fs/binfmt_misc")
	var names []string
	if err == nil {
		for _, entry := range entries {
			if arch, ok := strings.CutPrefix(entry.Name(), "qemu-"); ok {
				names = append(names, arch)
			}
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// servers shows which servers are asked for a name, in their order. Nothing is
// asked.
func (e *env) servers(name, format string) error {
	ref, err := image.ParseRef(name)
	if err != nil {
		return err
	}
	client, err := e.registry()
	if err != nil {
		return err
	}
	list, err := client.Servers(ref)
	if err != nil {
		return fmt.Errorf("%s: %w", ref.Familiar(), err)
	}
	var rows []any
	for _, s := range list {
		row := serverRow{Server: s.URL, Repository: s.Repository, Role: "registry", For: "all", From: s.From}
		if s.Mirror {
			row.Role = "mirror"
		}
		if s.For != "" {
			row.For = s.For
		}
		var options []string
		if s.Insecure {
			options = append(options, "insecure")
		}
		for _, ca := range s.CAs {
			options = append(options, "ca="+ca)
		}
		for _, h := range s.Headers {
			options = append(options, "header="+h)
		}
		row.Options = strings.Join(options, ",")
		rows = append(rows, row)
	}
	t := table{format: format, header: serverRow{"SERVER", "REPOSITORY", "ROLE", "FOR", "OPTIONS", "FROM"}, columns: "{{.Server}}\t{{.Repository}}\t{{.Role}}\t{{.For}}\t{{.Options}}\t{{.From}}"}
	return t.print(e.stdout, rows)
}
