// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"builder/mount"
)

// etcFile is a file of /etc that the container gets from us.
type etcFile struct {
	name    string
	content []byte
}

// etcFiles returns the contents of the files that are mounted over a
// container's /etc/hosts, /etc/resolv.conf and, except for a RunStep,
// /etc/hostname.
func etcFiles(spec *Spec, hostname string) ([]etcFile, error) {
	resolv, err := ResolvConf(spec)
	if err != nil {
		return nil, err
	}
	files := []etcFile{{"resolv.conf", resolv}}
	if !spec.NoHosts {
		hosts, err := hostsFile(spec, hostname)
		if err != nil {
			return nil, err
		}
		files = append(files, etcFile{"hosts", hosts})
	}
	if !spec.RunStep {
		files = append(files, etcFile{"hostname", []byte(hostname + "\n")})
	}
	return files, nil
}

// setReadOnly makes a mount read-only to which this process has just written.
// A child that another thread is making has a copy of the descriptor that was
// written to until it executes; so long the kernel says EBUSY, and it is tried
// again.
func setReadOnly(m *os.File) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.MountSetattr(int(m.Fd()), "", unix.AT_EMPTY_PATH, &attr)
		if !errors.Is(err, unix.EBUSY) || wait > 2*time.Second {
			return os.NewSyscallError("mount_setattr", err)
		}
		time.Sleep(wait)
	}
}

// ResolvConf is the /etc/resolv.conf that a container is to have.
func ResolvConf(spec *Spec) (text []byte, err error) {
	if text = spec.ResolvConf; text == nil {
		if text, err = resolvConf(spec.Network, os.ReadFile); err != nil {
			return nil, err
		}
	}
	return spec.DNS.apply(text), nil
}

// etcSource is the source that mount tables show of the files of a container, by which
// they are known again. A RUN step's are not.
func etcSource(spec *Spec) string {
	if spec.RunStep {
		return "tmpfs"
	}
	return "etc-" + spec.ID[:min(12, len(spec.ID))]
}

// openEtc makes a small file system that holds the files.
func openEtc(files []etcFile, source string, readOnly bool) (*os.File, error) {
	m, err := mount.FS{
		Type: "tmpfs", Source: source,
		Options: []mount.Option{{Key: "mode", Value: "0755"}, {Key: "size", Value: "16m"}},
		Attr:    unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
	}.Open()
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := createAt(m, f); err != nil {
			m.Close()
			return nil, err
		}
	}
	if readOnly {
		if err := setReadOnly(m); err != nil {
			m.Close()
			return nil, err
		}
	}
	return m, nil
}

func createAt(dir *os.File, f etcFile) error {
	fd, err := unix.Openat(int(dir.Fd()), f.name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &fs.PathError{Op: "create", Path: f.name, Err: err}
	}
	file := os.NewFile(uintptr(fd), f.name)
	_, err = file.Write(f.content)
	// The umask of this process has nothing to say here.
	return errors.Join(err, file.Chmod(0o644), file.Close())
}

// OwnHost is the line of a container's /etc/hosts for itself: its name in full and, if
// that has a domain, without it.
func OwnHost(hostname, domain string, ip netip.Addr) Host {
	full, short := hostname, hostname
	if domain != "" {
		full += "." + domain
	} else {
		short, _, _ = strings.Cut(hostname, ".")
	}
	h := Host{Name: full, IP: ip}
	if short != full {
		h.Aliases = []string{short}
	}
	return h
}

// names are those of a line.
func (h Host) names() string { return strings.Join(append([]string{h.Name}, h.Aliases...), " ") }

// hostsFile makes /etc/hosts.
func hostsFile(spec *Spec, hostname string) ([]byte, error) {
	var b bytes.Buffer
	switch {
	case spec.RunStep:
		fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", hostname)
	case spec.Network == NetworkNone, spec.Network == NetworkPrivate:
		own := " " + OwnHost(hostname, spec.Domainname, netip.Addr{}).names()
		if spec.Network == NetworkPrivate {
			own = "" // it has an address of its own
		}
		fmt.Fprintf(&b, "127.0.0.1\tlocalhost%s\n::1\tlocalhost ip6-localhost ip6-loopback\n"+
			"fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n", own)
	default:
		text, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		b.Write(text)
		if len(text) > 0 && text[len(text)-1] != '\n' {
			b.WriteByte('\n')
		}
	}
	for _, h := range spec.Hosts {
		if h.Gateway {
			h.IP = spec.Gateway
			if spec.Network == NetworkHost || spec.Network == "" {
				h.IP = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
			if !h.IP.IsValid() {
				continue
			}
		}
		for _, name := range append([]string{h.Name}, h.Aliases...) {
			if name == "" || strings.ContainsAny(name, " \t\n#") || !h.IP.IsValid() {
				return nil, fmt.Errorf("host %q with address %q", name, h.IP)
			}
		}
		fmt.Fprintf(&b, "%s\t%s\n", h.IP, h.names())
	}
	return b.Bytes(), nil
}

// Name servers for a container where the machine has none that it can reach;
// docker uses the same.
const publicNameServers = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n" +
	"nameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n"

// resolvConf makes /etc/resolv.conf from the machine's, which readFile reads.
func resolvConf(network Network, readFile func(string) ([]byte, error)) ([]byte, error) {
	const name, behindResolved = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"
	text, err := readFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	servers := nameServers(text)
	if network != NetworkNone && network != NetworkPrivate && len(servers) > 0 {
		return text, nil
	}
	if len(servers) == 1 && servers[0] == netip.AddrFrom4([4]byte{127, 0, 0, 53}) {
		// systemd-resolved listens on loopback, and writes down the servers
		// that it asks.
		if behind, err := readFile(behindResolved); err == nil {
			text = behind
		}
	}
	return withoutLoopback(text), nil
}

// withoutLoopback drops name servers on loopback, which is the container's own
// in a network namespace, and adds public ones if none is left.
func withoutLoopback(text []byte) []byte {
	var out bytes.Buffer
	left := 0
	for line := range strings.Lines(string(text)) {
		if addr, is := nameServer(line); is {
			if !addr.IsValid() || addr.IsLoopback() {
				continue
			}
			left++
		}
		out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	if left == 0 {
		out.WriteString(publicNameServers)
	}
	return out.Bytes()
}

// apply replaces the lines of resolv.conf(5) that the DNS names.
func (d DNS) apply(text []byte) []byte {
	replaced := map[string]bool{
		"nameserver": len(d.Servers) > 0,
		"search":     len(d.Search) > 0, "domain": len(d.Search) > 0,
		"options": len(d.Options) > 0,
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 0 && replaced[f[0]] {
			continue
		}
		out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	if len(d.Search) > 0 && !(len(d.Search) == 1 && d.Search[0] == ".") {
		fmt.Fprintf(&out, "search %s\n", strings.Join(d.Search, " "))
	}
	for _, addr := range d.Servers {
		fmt.Fprintf(&out, "nameserver %s\n", addr)
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&out, "options %s\n", strings.Join(d.Options, " "))
	}
	return out.Bytes()
}

func nameServers(text []byte) (out []netip.Addr) {
	for line := range strings.Lines(string(text)) {
		if addr, is := nameServer(line); is && addr.IsValid() {
			out = append(out, addr)
		}
	}
	return out
}

// nameServer reads a nameserver line of resolv.conf(5). The address of a bad
// one is not valid.
func nameServer(line string) (addr netip.Addr, is bool) {
	fields := strings.Fields(line)
	if len(fields) < 2 || fields[0] != "nameserver" {
		return netip.Addr{}, false
	}
	addr, _ = netip.ParseAddr(fields[1])
	return addr, true
}
