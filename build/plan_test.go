// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"builder/dockerfile"
	"builder/image"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// images is an image source of configs alone, which is what planning needs.
type images map[string]image.Config

func (m images) Image(_ context.Context, ref image.Ref, _ image.Platform, _ bool) (image.Image, error) {
	c, ok := m[ref.Familiar()]
	if !ok {
		return image.Image{}, errors.New("not found")
	}
	img := image.Image{Config: c}
	img.Manifest.Config.Digest = digest.FromString(ref.String())
	return img, nil
}

func base() image.Config {
	var c image.Config
	c.OS, c.Architecture = "linux", "amd64"
	c.Config.Env = []string{"PATH=/bin"}
	return c
}

func planOf(t *testing.T, source string, opts Options) (*plan, error) {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	opts.Dockerfile = f
	trigger := base()
	trigger.Config.OnBuild = []string{"RUN first", "COPY --from=base:latest /a /b"}
	return newPlan(t.Context(), Env{Images: images{"base:latest": base(), "trigger:latest": trigger}}, opts, image.HostPlatform())
}

func TestStepsSayWhatTheyCrossTo(t *testing.T) {
	source := `FROM --platform=linux/amd64 base AS plain
RUN a
FROM --platform=linux/amd64 base AS all
RUN b
ARG TARGETPLATFORM
RUN c
FROM --platform=linux/amd64 base AS arch
ARG TARGETARCH
ARG TARGETVARIANT
RUN d
FROM base
COPY --from=plain / /
COPY --from=all / /
COPY --from=arch / /
`
	f, err := dockerfile.Parse("Dockerfile", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	amd64, arm := image.Platform{OS: "linux", Architecture: "amd64"}, image.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	opts := Options{Dockerfile: f, Platforms: []image.Platform{amd64, arm}}
	for _, tc := range []struct {
		platform image.Platform
		want     []string
	}{
		{amd64, []string{
			"[linux/amd64 plain 2/2] RUN a", "[linux/amd64 all 2/3] RUN b", "[linux/amd64 all 3/3] RUN c", "[linux/amd64 arch 2/2] RUN d",
			"[linux/amd64 stage-3 2/4] COPY --from=plain / /", "[linux/amd64 stage-3 3/4] COPY --from=all / /", "[linux/amd64 stage-3 4/4] COPY --from=arch / /",
		}},
		{arm, []string{
			"[linux/amd64 plain 2/2] RUN a", "[linux/amd64 all 2/3] RUN b", "[linux/amd64->arm/v7 all 3/3] RUN c", "[linux/amd64->arm/v7 arch 2/2] RUN d",
			"[linux/arm/v7 stage-3 2/4] COPY --from=plain / /", "[linux/arm/v7 stage-3 3/4] COPY --from=all / /", "[linux/arm/v7 stage-3 4/4] COPY --from=arch / /",
		}},
	} {
		p, err := newPlan(t.Context(), Env{Images: images{"base:latest": base()}}, opts, tc.platform)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, steps(p)); diff != "" {
			t.Errorf("for %s (-want +got):\n%s", image.FormatPlatform(tc.platform), diff)
		}
	}
}

// steps shows the steps of every stage that the target needs.
func steps(p *plan) []string {
	var out []string
	for _, st := range p.reachable() {
		for _, s := range st.steps {
			out = append(out, s.name)
		}
	}
	return out
}

func TestPlanSteps(t *testing.T) {
	tests := []struct {
		name, source string
		opts         Options
		want         []string
	}{
		{"one stage has no name", "FROM base\nRUN a\nENV X=1\nRUN b", Options{}, []string{"[2/3] RUN a", "[3/3] RUN b"}},
		{"scratch is no step", "FROM scratch\nCOPY a /\n", Options{}, []string{"[1/1] COPY a /"}},
		{"unneeded stages are left out", "FROM base AS no\nRUN no\nFROM base AS dep\nRUN dep\nFROM scratch\nCOPY --from=dep /x /y", Options{},
			[]string{"[dep 2/2] RUN dep", "[stage-2 1/1] COPY --from=dep /x /y"}},
		{"target by name", "FROM base AS Build\nRUN a\nFROM base\nRUN b", Options{Target: "build"}, []string{"[build 2/2] RUN a"}},
		{"target by number", "FROM base\nRUN a\nFROM base\nRUN b", Options{Target: "0"}, []string{"[stage-0 2/2] RUN a"}},
		{"stage on stage", "FROM base AS a\nRUN a\nFROM a\nRUN b", Options{}, []string{"[a 2/2] RUN a", "[stage-1 1/1] RUN b"}},
		{"triggers come first", "FROM trigger\nRUN mine", Options{}, []string{"[2/4] ONBUILD RUN first", "[3/4] ONBUILD COPY --from=base:latest /a /b", "[4/4] RUN mine"}},
		{"variables are shown", "FROM base\nARG V=1.2\nRUN get $V ${UNSET}", Options{}, []string{"[2/2] RUN get 1.2 ${UNSET}"}},
		{"a working directory is a step", "FROM base\nWORKDIR /a\nWORKDIR /", Options{}, []string{"[2/2] WORKDIR /a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := planOf(t, tt.source, tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, steps(p)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestPlanConfig(t *testing.T) {
	p, err := planOf(t, `ARG G=global
FROM base
ARG G
ARG L=${G}-local
ENV A=1 B=$A C=$L
ENV A=2
LABEL x=$A y="a b"
WORKDIR /w
WORKDIR sub
EXPOSE 80 90-92/udp
VOLUME /v
USER u
CMD echo $A
ENTRYPOINT ["run", "$A"]
STOPSIGNAL SIGTERM
SHELL ["/bin/bash", "-c"]
HEALTHCHECK CMD true
`, Options{Args: map[string]string{"G": "given"}, Labels: map[string]string{"z": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	c := p.target.state.config.Config
	got := []string{
		fmt.Sprint(c.Env), fmt.Sprint(c.Labels), c.WorkingDir, fmt.Sprint(c.ExposedPorts), fmt.Sprint(c.Volumes), c.User,
		fmt.Sprintf("%q %q", c.Entrypoint, c.Cmd), c.StopSignal, fmt.Sprintf("%q", c.Shell), fmt.Sprintf("%q", c.Healthcheck.Test),
	}
	want := []string{
		"[PATH=/bin A=2 B= C=given-local]", "map[x:2 y:a b z:1]", "/w/sub", "map[80/tcp:{} 90/udp:{} 91/udp:{} 92/udp:{}]", "map[/v:{}]", "u",
		`["run" "$A"] ["/bin/sh" "-c" "echo $A"]`, "SIGTERM", `["/bin/bash" "-c"]`, `["CMD-SHELL" "true"]`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestPlanErrors(t *testing.T) {
	tests := []struct {
		name, source, want string
		opts               Options
	}{
		{"cycle through triggers", "FROM base AS a\nCOPY --from=b /x /\nFROM base AS b\nCOPY --from=a /x /\n", "circular dependency", Options{}},
		{"self", "FROM base AS a\nCOPY --from=a /x /\n", "circular dependency", Options{}},
		{"copy from later", "FROM base AS a\nCOPY --from=b /x /\nFROM base AS b\nFROM a\n", "needs to be defined before", Options{}},
		{"base not found", "FROM nosuch\n", "Dockerfile:1: base image nosuch:latest: not found", Options{}},
		{"copy from variable", "FROM base\nARG X=y\nCOPY --from=$X /a /b\n", "Dockerfile:3: variable expansion is not supported for --from", Options{}},
		{"empty platform", "FROM --platform=$NOPE base\n", "Dockerfile:1: empty platform value from expression $NOPE", Options{}},
		{"bad platform", "FROM --platform=a/b/c/d base\n", "Dockerfile:1: invalid platform", Options{}},
		{"COPY of a URL", "FROM base\nCOPY https://x.invalid/y /\n", "Dockerfile:2: source", Options{}},
		{"linked copy by name", "FROM base\nCOPY --link --chown=me a /\n", "Dockerfile:2: --chown=me", Options{}},
		{"mount over root", "FROM base\nRUN --mount=type=tmpfs,target=/ true\n", "Dockerfile:2: invalid mount target", Options{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := planOf(t, tt.source, tt.opts)
			var placed *dockerfile.Error
			if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.As(err, &placed) {
				t.Errorf("error is %v, want %q with a place", err, tt.want)
			}
		})
	}
}

func TestParsePorts(t *testing.T) {
	tests := []struct{ in, want string }{
		{"80", "80/tcp"}, {"80/UDP", "80/udp"}, {"1-3/sctp", "1/sctp 2/sctp 3/sctp"}, {"127.0.0.1:8080:80", "80/tcp"}, {"[::1]:8080:80", "80/tcp"},
		{"8080:80", "80/tcp"}, {"7-7", "7/tcp"},
		{"x", ""}, {"", ""}, {"80/icmp", ""}, {"70000", ""}, {"3-1", ""}, {"1.2.3:1:2", ""}, {"1-2:5-9", ""},
	}
	for _, tt := range tests {
		got, err := parsePorts([]string{tt.in})
		if (err != nil) != (tt.want == "") || strings.Join(got, " ") != tt.want {
			t.Errorf("%q: %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
}
