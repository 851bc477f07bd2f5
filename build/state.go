// SPDX-License-Identifier: Apache-2.0

package build

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"builder/dockerfile"
	"builder/image"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	defaultPath    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	historyComment = "buildkit.dockerfile.v0"
)

// state is what the instructions before one have made of a stage: the image's
// config, and the variables and directory that it sees.
type state struct {
	config  image.Config
	env     *image.Env // ENV and ARG
	args    []instructions.KeyValuePairOptional
	history []historyEntry
	at      []parser.Range // the instruction that is being dispatched
	cmdSet  bool           // this stage has a CMD, which ENTRYPOINT must not reset

	// For the build checks.
	site       dockerfile.Site            // the instruction at hand
	once       map[string]dockerfile.Site // where this stage has CMD, ENTRYPOINT and HEALTHCHECK
	workdirSet bool                       // by this stage or one that it stands on
}

// historyEntry is a line of the image's history and the step that made its
// layer; nil for a line that only changed the config, or came with the base.
type historyEntry struct {
	ocispec.History
	step     *step
	base     bool
	location []parser.Range
}

// scratchConfig is the config that FROM scratch starts from.
func scratchConfig(p image.Platform) image.Config {
	var c image.Config
	c.Platform = p
	c.RootFS.Type = "layers"
	c.Config.WorkingDir = "/"
	c.Config.Env = []string{"PATH=" + defaultPath}
	return c
}

// newState is where a stage starts: its base's config, without what does not
// carry over.
func newState(st *stage) *state {
	if st.base != nil {
		from := st.base.state
		s := &state{config: cloneConfig(from.config), args: slices.Clone(from.args), history: slices.Clone(from.history), env: from.env.Clone(), workdirSet: from.workdirSet}
		s.config.Config.OnBuild = nil
		return s
	}
	s := &state{config: cloneConfig(st.img.Config)}
	s.config.Created = nil
	s.config.Config.OnBuild = nil
	for _, h := range st.img.Config.History {
		s.history = append(s.history, historyEntry{History: h, base: true})
	}
	s.env = image.NewEnv(s.config.Config.Env...)
	if _, ok := s.env.Get("PATH"); !ok && s.config.OS != "windows" {
		s.setEnv("PATH", defaultPath)
	}
	if wd := s.config.Config.WorkingDir; wd != "" {
		s.config.Config.WorkingDir = ""
		s.setDir(wd)
	}
	return s
}

func cloneConfig(c image.Config) image.Config {
	c.Config.Env = slices.Clone(c.Config.Env)
	c.Config.Cmd = slices.Clone(c.Config.Cmd)
	c.Config.Entrypoint = slices.Clone(c.Config.Entrypoint)
	c.Config.OnBuild = slices.Clone(c.Config.OnBuild)
	c.Config.Shell = slices.Clone(c.Config.Shell)
	c.Config.ExposedPorts = maps.Clone(c.Config.ExposedPorts)
	c.Config.Volumes = maps.Clone(c.Config.Volumes)
	c.Config.Labels = maps.Clone(c.Config.Labels)
	if c.Config.Healthcheck != nil {
		h := *c.Config.Healthcheck
		c.Config.Healthcheck = &h
	}
	return c
}

// setEnv sets a variable of the image.
func (s *state) setEnv(name, value string) {
	s.env.Set(name, value)
	env := image.NewEnv(s.config.Config.Env...)
	env.Set(name, value)
	s.config.Config.Env = env.List()
}

// edit changes the image's config at the end of the build.
func (s *state) edit(e Edits) {
	s.config.Config.Env = slices.DeleteFunc(s.config.Config.Env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(e.UnsetEnv, name)
	})
	for _, name := range e.UnsetLabels {
		delete(s.config.Config.Labels, name)
	}
}

// setDir sets the working directory. As BuildKit does, the config has an
// absolute path as it is written, a relative one below the directory so far.
func (s *state) setDir(wd string) {
	if !path.IsAbs(wd) {
		wd = path.Join(s.dir(), wd)
	}
	s.config.Config.WorkingDir = wd
}

// dir is the working directory as a clean path, "/" by default.
func (s *state) dir() string {
	return path.Clean("/" + s.config.Config.WorkingDir)
}

// abs makes a destination absolute and clean, keeping the slash at its end
// that says it is a directory.
func (s *state) abs(p string) string {
	if p == "" || p == "." {
		p = "./"
	}
	slash := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")
	if !path.IsAbs(p) {
		p = path.Join(s.dir(), p)
	}
	p = path.Clean(p)
	if slash && p != "/" {
		p += "/"
	}
	return p
}

// shell is what runs commands in shell form.
func (s *state) shell() []string {
	if len(s.config.Config.Shell) > 0 {
		return slices.Clone(s.config.Config.Shell)
	}
	return []string{"/bin/sh", "-c"}
}

// note adds a line to the history; made is the step whose layer it describes,
// nil for a change of the config alone.
func (s *state) note(made *step, format string, args ...any) {
	h := ocispec.History{CreatedBy: fmt.Sprintf(format, args...), Comment: historyComment, EmptyLayer: made == nil}
	s.history = append(s.history, historyEntry{History: h, step: made, location: s.at})
}

// argLine is how the history shows a RUN: the ARGs that it could see before
// the command.
func (s *state) argLine() string {
	var order []string
	values := map[string]string{}
	for _, a := range s.args {
		if _, seen := values[a.Key]; !seen {
			order = append(order, a.Key)
		}
		v, ok := s.env.Get(a.Key)
		if !ok {
			v = a.ValueString()
		}
		values[a.Key] = v
	}
	if len(order) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "|%d ", len(order))
	for _, k := range order {
		fmt.Fprintf(&b, "%s=%s ", k, values[k])
	}
	return b.String()
}
