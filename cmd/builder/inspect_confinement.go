// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"builder/container"
	"builder/supervisor"
)

// inspectedConfinement is the part of docker's HostConfig about resources and
// namespaces.
type inspectedConfinement struct {
	MemoryReservation    int64
	MemorySwappiness     *int64
	OomKillDisable       bool
	OomScoreAdj          int
	PidsLimit            *int64
	BlkioWeight          int64
	BlkioWeightDevice    []inspectedWeight
	BlkioDeviceReadBps   []inspectedRate
	BlkioDeviceWriteBps  []inspectedRate
	BlkioDeviceReadIOps  []inspectedRate
	BlkioDeviceWriteIOps []inspectedRate
	Devices              []inspectedDevice
	DeviceCgroupRules    []string
	Sysctls              map[string]string
	CgroupnsMode         string
	IpcMode              string
	PidMode              string
	UTSMode              string
	UsernsMode           string
	IDMappings           *inspectedIDs `json:",omitempty"`
}

// inspectedIDs are podman's.
type inspectedIDs struct{ UidMap, GidMap []string } //nolint:revive // as podman spells them

type inspectedWeight struct {
	Path   string
	Weight int64
}

type inspectedRate struct {
	Path string
	Rate uint64
}

type inspectedDevice struct {
	PathOnHost, PathInContainer, CgroupPermissions string
}

func confinement(c supervisor.Config) inspectedConfinement {
	s := c.Spec
	r := s.Resources
	in := inspectedConfinement{
		MemoryReservation: r.MemoryReservation, MemorySwappiness: r.MemorySwappiness, OomKillDisable: r.OOMKillDisable, OomScoreAdj: s.OOMScoreAdj,
		BlkioWeight: r.BlkioWeight, Sysctls: s.Sysctls, CgroupnsMode: "private",
		IpcMode: first(sharingMode(s.IPC, c.Join.IPC), "private"), PidMode: sharingMode(s.PID, c.Join.PID), UTSMode: sharingMode(s.UTS, c.Join.UTS),
	}
	if in.UsernsMode = c.UserNSMode; c.Join.User != "" {
		in.UsernsMode = "container:" + c.Join.User
	}
	if !s.IDs.IsZero() {
		in.IDMappings = &inspectedIDs{idStrings(s.IDs.UIDs), idStrings(s.IDs.GIDs)}
	}
	if s.HostCgroupNS {
		in.CgroupnsMode = "host"
	}
	if c.Join.Shareable {
		in.IpcMode = "shareable"
	}
	if s.NoShm {
		in.IpcMode = "none"
	}
	if r.Pids != 0 {
		in.PidsLimit = &r.Pids
	}
	for _, d := range r.BlkioDevices {
		name := fmt.Sprintf("/dev/block/%d:%d", d.Major, d.Minor)
		if d.Weight != 0 {
			in.BlkioWeightDevice = append(in.BlkioWeightDevice, inspectedWeight{name, d.Weight})
		}
		for _, rate := range []struct {
			list  *[]inspectedRate
			value uint64
		}{{&in.BlkioDeviceReadBps, d.ReadBPS}, {&in.BlkioDeviceWriteBps, d.WriteBPS}, {&in.BlkioDeviceReadIOps, d.ReadIOPS}, {&in.BlkioDeviceWriteIOps, d.WriteIOPS}} {
			if rate.value != 0 {
				*rate.list = append(*rate.list, inspectedRate{name, rate.value})
			}
		}
	}
	for _, d := range s.Devices {
		kind := map[byte]string{'b': "block", 'c': "char"}[d.Type]
		in.Devices = append(in.Devices, inspectedDevice{fmt.Sprintf("/dev/%s/%d:%d", kind, d.Major, d.Minor), d.Path, first(d.Access, "rwm")})
	}
	for _, d := range s.DeviceRules {
		number := func(n int) string { return strings.Replace(fmt.Sprint(n), "-1", "*", 1) }
		in.DeviceCgroupRules = append(in.DeviceCgroupRules, fmt.Sprintf("%c %s:%s %s", d.Type, number(d.Major), number(d.Minor), d.Access))
	}
	return in
}

func idStrings(ranges []container.IDRange) (out []string) {
	for _, r := range ranges {
		out = append(out, r.String())
	}
	return out
}

// sharingMode is what --pid and the like were given.
func sharingMode(s container.Sharing, id string) string {
	if id != "" {
		return "container:" + id
	}
	return string(s.With)
}

// securityOptions are those of --security-opt that are not the default.
func securityOptions(s container.Spec) (out []string) {
	if s.Seccomp != "" {
		out = append(out, "seccomp="+s.Seccomp)
	}
	if s.NoNewPrivileges {
		out = append(out, "no-new-privileges")
	}
	if s.AppArmor != "" {
		out = append(out, "apparmor="+s.AppArmor)
	}
	if s.WritableCgroups {
		out = append(out, "writable-cgroups=true")
	}
	if len(s.Mask) > 0 {
		out = append(out, "mask="+strings.Join(s.Mask, ":"))
	}
	if slices.Contains(s.Unmask, "ALL") {
		out = append(out, "systempaths=unconfined")
	} else if len(s.Unmask) > 0 {
		out = append(out, "unmask="+strings.Join(s.Unmask, ":"))
	}
	return out
}
