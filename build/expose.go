// SPDX-License-Identifier: Apache-2.0

package build

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// parsePorts reads EXPOSE's words, [[ip:]hostport:]port[-port][/proto], into
// port/proto strings. What stands before the container's port is checked and
// then means nothing.
func parsePorts(specs []string) ([]string, error) {
	out := []string{}
	for _, spec := range specs {
		ports, err := parsePort(spec)
		if err != nil {
			return nil, err
		}
		out = append(out, ports...)
	}
	return out, nil
}

func parsePort(spec string) ([]string, error) {
	rest, proto, _ := strings.Cut(spec, "/")
	if proto == "" {
		proto = "tcp"
	}
	switch proto = strings.ToLower(proto); proto {
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s", spec, proto)
	}
	if rest == "" {
		return nil, fmt.Errorf("invalid port: %q: no port specified", spec)
	}
	host, port := "", rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host, port = rest[:i], rest[i+1:]
	}
	first, last, err := portRange(port)
	if err != nil {
		return nil, fmt.Errorf("invalid containerPort: %s", port)
	}
	if host != "" {
		if err := checkHostPart(host, last-first); err != nil {
			return nil, err
		}
	}
	ports := make([]string, 0, last-first+1)
	for n := first; n <= last; n++ {
		ports = append(ports, strconv.Itoa(n)+"/"+proto)
	}
	return ports, nil
}

func checkHostPart(host string, span int) error {
	port := host
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		ip := strings.TrimSuffix(strings.TrimPrefix(host[:i], "["), "]")
		if _, err := netip.ParseAddr(ip); err != nil && ip != "" {
			return fmt.Errorf("invalid IP address: %s", ip)
		}
		port = host[i+1:]
	}
	if port == "" {
		return nil
	}
	first, last, err := portRange(port)
	if err != nil {
		return fmt.Errorf("invalid hostPort: %s", port)
	}
	if last-first != span && span != 0 {
		return fmt.Errorf("invalid ranges specified for container and host Ports: %s", host)
	}
	return nil
}

func portRange(s string) (first, last int, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if first, err = portNumber(a); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return first, first, nil
	}
	if last, err = portNumber(b); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("invalid port range: %s", s)
	}
	return first, last, nil
}

func portNumber(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err
}
