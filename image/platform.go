// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Platform is the image-spec's platform.
type Platform = ocispec.Platform

// HostPlatform is what this machine runs: linux and GOARCH's architecture.
func HostPlatform() Platform {
	return normalise(Platform{OS: "linux", Architecture: runtime.GOARCH})
}

// architectures are those that Go has or has names for (runtime.GOARCH).
const architectures = " 386 amd64 arm arm64 armbe arm64be loong64 mips mipsle mips64 mips64le mips64p32 mips64p32le ppc ppc64 ppc64le riscv riscv64 s390 s390x sparc sparc64 wasm "

// ParsePlatform parses OS[/ARCH[/VARIANT]], or an architecture alone, with the
// usual aliases (x86_64, aarch64, armhf, …). What is left out is the host's.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(strings.ToLower(strings.TrimSpace(s)), "/")
	for _, p := range parts {
		if p == "" || strings.ContainsFunc(p, notPlatformRune) {
			return Platform{}, fmt.Errorf("invalid platform %q: want os/architecture[/variant], such as linux/amd64", s)
		}
	}
	host := HostPlatform()
	switch len(parts) {
	case 1:
		if s == "local" {
			return host, nil
		}
		if parts[0] == "linux" || parts[0] == "windows" || parts[0] == "darwin" || parts[0] == "freebsd" {
			return normalise(Platform{OS: parts[0], Architecture: host.Architecture, Variant: host.Variant}), nil
		}
		p := normalise(Platform{OS: "linux", Architecture: parts[0]})
		if !strings.Contains(architectures, " "+p.Architecture+" ") {
			return Platform{}, fmt.Errorf("invalid platform %q: no operating system or architecture is called so", s)
		}
		return p, nil
	case 2:
		return normalise(Platform{OS: parts[0], Architecture: parts[1]}), nil
	case 3:
		return normalise(Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}), nil
	}
	return Platform{}, fmt.Errorf("invalid platform %q: want os/architecture[/variant], such as linux/amd64", s)
}

func notPlatformRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("_-.()", r)
}

func normalise(p Platform) Platform {
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "i386", "i486", "i586", "i686":
		p.Architecture = "386"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	switch {
	case p.Architecture == "arm64" && (p.Variant == "v8" || p.Variant == "8"):
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	case p.Architecture == "arm" && !strings.HasPrefix(p.Variant, "v"):
		p.Variant = "v" + p.Variant
	case p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	}
	return p
}

// FormatPlatform is os/architecture[/variant].
func FormatPlatform(p Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// SamePlatform reports whether two platforms mean the same after aliases.
func SamePlatform(a, b Platform) bool {
	a, b = normalise(a), normalise(b)
	return a.OS == b.OS && a.Architecture == b.Architecture && a.Variant == b.Variant
}

// Match picks the manifest for a platform from an index, -1 if none fits: an
// exact match first, else the nearest variant below the one wanted, which runs
// the same programs; a later variant may need what the machine lacks. Among
// equals the earlier entry counts. Attestations never match.
func Match(manifests []ocispec.Descriptor, want Platform) int {
	want = normalise(want)
	best, found := -1, -1
	for i, m := range manifests {
		if m.Platform == nil || m.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
			continue
		}
		p := normalise(*m.Platform)
		if p.OS != want.OS || p.Architecture != want.Architecture {
			continue
		}
		level := variantLevel(p)
		switch {
		case p.Variant == want.Variant:
			level = math.MaxInt
		case level < 0 || level > variantLevel(want):
			continue
		}
		if level > best {
			best, found = level, i
		}
	}
	return found
}

// variantLevel orders the variants of an architecture: those of x86-64 from v1
// (written without a variant), of arm from v5, of arm64 from v8 (without a
// variant as well). An unknown variant has -1: it fits only itself.
func variantLevel(p Platform) int {
	if p.Variant == "" {
		return 0
	}
	number, ok := strings.CutPrefix(p.Variant, "v")
	major, minor, _ := strings.Cut(number, ".")
	level, err := strconv.Atoi(major)
	if !ok || err != nil || level < 0 || level > 1000 {
		return -1
	}
	below, _ := strconv.Atoi(minor)
	return level*100 + min(max(below, 0), 99)
}
