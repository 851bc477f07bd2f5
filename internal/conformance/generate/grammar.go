// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
)

// generator makes one case.
type generator struct {
	*rand.Rand
	tree   []node // what the build context has
	lines  []string
	stage  stage
	stages []stage // those before
	n      int     // destinations are numbered
}

// stage is what the generator knows of the stage that it writes.
type stage struct {
	name  string
	base  bool     // it has test/base's files and its shell
	vars  []string // variables that may be set
	paths []string // what may be there, for COPY --from
}

// generate returns the files of the case with a seed.
func generate(seed uint64) map[string]string {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0))}
	files := map[string]string{}
	setup := g.makeTree()
	files["setup.sh"] = strings.Join(setup, "\n") + "\n"
	if strings.Contains(files["setup.sh"], "setfattr") {
		files["needs"] = "setfattr\n"
	}
	if g.chance(25) {
		files["Dockerfile.dockerignore"] = strings.Join(g.ignore(), "\n") + "\n"
	}
	if g.chance(30) {
		g.add("ARG G=%s", g.word(1))
	}
	for i := range 1 + g.IntN(3) {
		g.beginStage(i)
		for range 2 + g.IntN(5) {
			g.instruction()
		}
		g.stages = append(g.stages, g.stage)
	}
	files["Dockerfile"] = strings.Join(g.lines, "\n") + "\n"
	if g.chance(25) {
		files["args"] = "--build-arg=A=" + pick(g, values) + "\n--label=cli=" + pick(g, values) + "\n"
	}
	return files
}

func (g *generator) add(format string, args ...any) {
	g.lines = append(g.lines, fmt.Sprintf(format, args...))
}

// chance is true in percent of all cases.
func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func pick[T any](g *generator, from []T) T { return from[g.IntN(len(from))] }

// maybe is a text or "".
func (g *generator) maybe(percent int, text string) string {
	if g.chance(percent) {
		return text
	}
	return ""
}

func (g *generator) beginStage(i int) {
	from := pick(g, []string{"test/base", "test/base", "test/base", "scratch", "test/rich"})
	next := stage{name: fmt.Sprint("s", i), base: from != "scratch", vars: []string{"UNSET"}}
	if i > 0 && g.chance(40) {
		next = pick(g, g.stages)
		from, next.name = next.name, fmt.Sprint("s", i)
		next.vars, next.paths = slices.Clone(next.vars), slices.Clone(next.paths)
	}
	g.stage = next
	g.add("FROM %s AS %s", from, next.name)
	if from == "test/rich" {
		g.add("USER root")
		g.stage.vars = append(g.stage.vars, "FOO", "EMPTY", "SPACED")
	}
}

// instruction adds one instruction.
func (g *generator) instruction() {
	choices := []func(){g.copy, g.copy, g.copy, g.copy, g.copy, g.env, g.env, g.arg, g.label, g.config, g.workdir, g.heredoc, g.addTar}
	if g.stage.base {
		choices = append(choices, g.run, g.run, g.run, g.runMount)
	}
	if len(g.stages) > 0 {
		choices = append(choices, g.copyFrom, g.copyFrom, g.copyFrom)
	}
	pick(g, choices)()
}

func (g *generator) copy() {
	flags := g.copyFlags(true)
	word := "COPY"
	if g.chance(15) && !strings.Contains(flags, "--parents") {
		word = "ADD"
	}
	var sources []string
	for range 1 + g.IntN(3)*g.IntN(2) {
		sources = append(sources, g.source())
	}
	g.add("%s%s %s", word, flags, g.arguments(append(sources, g.destination(len(sources) > 1))))
}

func (g *generator) copyFrom() {
	from := pick(g, g.stages)
	sources := []string{"/opt/pair", "/srv", "/var/lib/tree", "/srv/rel/sub", "/etc/base-rel*", "/home/app", "/usr/local"}
	if !from.base {
		sources = []string{"/", "/no*", "/*"}
	}
	source := pick(g, append(sources, from.paths...))
	g.add("COPY --from=%s%s %s", from.name, g.copyFlags(false), g.arguments([]string{source, g.destination(false)}))
}

func (g *generator) addTar() {
	if !slices.ContainsFunc(g.tree, func(n node) bool { return n.path == "t.tar" }) {
		return
	}
	g.add("ADD%s%s%s %s %s", g.maybe(30, " --chown=5:6"), g.maybe(30, " --chmod=u=rwX,go=rX"), g.maybe(20, " --link"),
		"t.tar", g.destination(true))
}

// copyFlags are flags of COPY, each with a blank before it.
func (g *generator) copyFlags(context bool) string {
	flags := g.maybe(20, " --link")
	if g.chance(25) {
		ids := []string{"5", "5:6", "0:7", "1000", "1000:100"}
		if g.stage.base && flags == "" {
			ids = append(ids, "app", "app:users", "other", "daemon:0", "nosuch", "app:nosuch")
		}
		flags += " --chown=" + pick(g, ids)
	}
	if g.chance(25) {
		flags += " --chmod=" + pick(g, []string{
			"600", "0755", "4711", "1777", "0", "u=rwX,go=rX", "a+x", "go-rwx", "+t", "u+s,g+s", "a=r", "g=u", "u-w,o+X", "ug=rwx,o=",
		})
	}
	if context && g.chance(20) || g.chance(8) {
		flags += " --parents"
	}
	for range g.IntN(3) * g.IntN(2) {
		if p := g.pattern(); plain(p) {
			flags += " --exclude=" + p
		}
	}
	return flags
}

// arguments are words of COPY, as an array where blanks or chance ask for it.
func (g *generator) arguments(words []string) string {
	if !slices.ContainsFunc(words, func(w string) bool { return !plain(w) }) && g.chance(85) {
		return strings.Join(words, " ")
	}
	data, err := json.Marshal(words)
	if err != nil {
		panic(err) // strings always encode
	}
	return strings.ReplaceAll(string(data), "$", "\\\\$")
}

// plain reports whether a word needs no quotes in a Dockerfile.
func plain(w string) bool {
	return !strings.ContainsAny(w, " \"'$\\") && !strings.HasPrefix(w, "#") && !strings.HasPrefix(w, "-")
}

// source is a path of the context, whole or with a wildcard in it.
func (g *generator) source() string {
	p := pick(g, g.tree).path
	switch g.IntN(10) {
	case 0:
		return "."
	case 1:
		return "./" + p
	case 2:
		return p + "/"
	case 3, 4:
		return g.pattern()
	case 5:
		return path.Dir(p) + "/./" + path.Base(p)
	}
	return p
}

// pattern is a path of the context with a wildcard in it.
func (g *generator) pattern() string {
	parts := strings.Split(pick(g, g.tree).path, "/")
	i := g.IntN(len(parts))
	part := []rune(parts[i])
	switch g.IntN(7) {
	case 0:
		parts[i] = "*"
	case 1:
		parts[i] = string(part[:1]) + "*"
	case 2:
		parts[i] = "*" + string(part[len(part)-1:])
	case 3:
		parts[i] = "[!z]*"
	case 4:
		parts = append([]string{"**"}, parts[len(parts)-1])
	case 5:
		parts = append(parts[:i:i], "**")
	case 6:
		parts = parts[i:]
	}
	return strings.Join(parts, "/")
}

// destination is where COPY copies to.
func (g *generator) destination(several bool) string {
	g.n++
	dest := pick(g, []string{
		"/N", "/N/", "/N/deep/er/", "/N/x", ".", "./", "rel/N", "rel/", "/same/", "/var/lib/tree", "/var/lib/tree/deep", "/srv/rel/N", "/srv/abs/",
		"/home/app", "/N/..", "/a/../N/", "/tmp/N", "//N//y", "../up/N",
	})
	dest = strings.ReplaceAll(dest, "N", fmt.Sprint(g.n))
	if several && !strings.HasSuffix(dest, "/") {
		dest += "/"
	}
	if strings.HasPrefix(dest, "/") {
		g.stage.paths = append(g.stage.paths, path.Clean(dest))
	}
	return dest
}

func (g *generator) workdir() {
	g.n++
	g.add("WORKDIR %s", pick(g, []string{
		"/w" + fmt.Sprint(g.n), "sub", "..", "/srv/rel", "/home/app/w", "/tmp/x" + g.word(0), "/", "./x/",
	}))
}

func (g *generator) config() {
	g.add("%s", pick(g, []string{
		"EXPOSE 80 81/udp", "EXPOSE ${P:-8080}-8082", "VOLUME /vol /vol2", `VOLUME ["/v a"]`, "STOPSIGNAL SIGINT", `CMD ["a", "b c"]`,
		"CMD echo $A \"x\"", `ENTRYPOINT ["e"]`, "ENTRYPOINT e f", "HEALTHCHECK --interval=3s CMD x", "HEALTHCHECK NONE",
		"ONBUILD RUN echo $A", `SHELL ["/bin/sh", "-ec"]`, "MAINTAINER me",
	}))
}

// ignore are the lines of a .dockerignore file.
func (g *generator) ignore() []string {
	var lines []string
	for range 1 + g.IntN(4) {
		p := g.pattern()
		if g.chance(30) {
			p = pick(g, g.tree).path
		}
		lines = append(lines, g.maybe(30, "!")+g.maybe(15, "/")+strings.ReplaceAll(p, "\n", "?")+g.maybe(15, "/"))
	}
	return lines
}
