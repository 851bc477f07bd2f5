// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// values are of variables: without what ends a word of ENV.
var values = []string{
	"v", "one-two", "/usr/lib/x.tar.gz", "a=b", "ü€", "0", "a.b.c", "aXbXc", "UPPER", "x*y", "[z]", "back/slash", "100%", "#hash", "~",
}

// variable is a name that may be set.
func (g *generator) variable() string { return pick(g, append(g.stage.vars, "A", "P")) }

// word is a word with variables, nested to a depth.
func (g *generator) word(depth int) string {
	var b strings.Builder
	for range 1 + g.IntN(2) {
		b.WriteString(g.part(depth))
	}
	return b.String()
}

func (g *generator) part(depth int) string {
	v := g.variable()
	if depth == 0 {
		return pick(g, []string{"lit", "x-", "$" + v, "${" + v + "}", pick(g, values)})
	}
	inner := g.word(depth - 1)
	switch g.IntN(12) {
	case 0:
		return `"` + inner + ` "`
	case 1:
		return `'` + strings.ReplaceAll(inner, "'", "") + ` '`
	case 2:
		return `\$` + v
	case 3:
		return "${" + v + ":-" + inner + "}"
	case 4:
		return "${" + v + "-" + inner + "}"
	case 5:
		return "${" + v + ":+" + inner + "}"
	case 6:
		return "${" + v + "+" + inner + "}"
	case 7:
		return "${" + v + pick(g, []string{"#", "##", "%", "%%"}) + g.glob() + "}"
	case 8:
		return "${" + v + pick(g, []string{"/", "//"}) + g.glob() + "/" + pick(g, []string{"", "R", "$" + v, "_"}) + "}"
	case 9:
		return `\\` + pick(g, []string{"n", "", "x"})
	}
	return inner
}

func (g *generator) glob() string {
	return pick(g, []string{"*", "?", "*.", ".*", "a", "*X", `\*`, `\/`, "[", "x", "*-", "???", "**"})
}

func (g *generator) env() {
	n := 1 + g.IntN(3)
	words := make([]string, n)
	var names []string
	for i := range words {
		name := fmt.Sprint("E", g.IntN(6))
		if g.chance(15) {
			name = "A"
		}
		words[i] = name + "=" + g.word(2)
		names = append(names, name)
	}
	if g.chance(10) {
		words = []string{names[0] + "  " + g.word(1) + "  " + g.word(1)}
	}
	g.add("ENV %s", strings.Join(words, pick(g, []string{" ", "  ", " \\\n    ", " \\\n# comment\n"})))
	g.stage.vars = append(g.stage.vars, names...)
}

func (g *generator) arg() {
	name := pick(g, []string{"A", "B", "G", "TARGETARCH", "P"})
	if g.chance(60) && name != "TARGETARCH" {
		g.add("ARG %s=%s", name, g.word(2))
	} else {
		g.add("ARG %s", name)
	}
	g.stage.vars = append(g.stage.vars, name)
}

func (g *generator) label() {
	g.add("LABEL l%d=%s %s=%s", g.IntN(4), g.word(2), `"k `+"${"+g.variable()+`}"`, g.word(1))
}

func (g *generator) heredoc() {
	g.n++
	quote := pick(g, []string{"", "", `"`, "'"})
	dash := g.maybe(30, "-")
	tab := ""
	if dash != "" {
		tab = pick(g, []string{"\t", "\t\t", ""})
	}
	g.add("COPY%s <<%s%sEOF%s %s\n%sline %s\n%s%s\n%sEOF", g.maybe(20, " --chmod=640")+g.maybe(15, " --link"),
		dash, quote, quote, fmt.Sprintf("/h%d", g.n), tab, g.word(1), tab, g.word(2), tab)
}

func (g *generator) run() {
	g.n++
	if g.chance(30) {
		v := g.variable()
		g.add("RUN echo \"%s|$%s|${%s-unset}\" > /r%d; env | grep ^E[0-9] | sort >> /r%d; pwd >> /r%d", g.word(0), v, g.variable(), g.n, g.n, g.n)
		return
	}
	var ops []string
	for range 1 + g.IntN(4) {
		ops = append(ops, g.change())
	}
	g.add("RUN %s", strings.Join(ops, pick(g, []string{"; ", " ; \\\n    "})))
}

// change is a command that changes files of the image.
func (g *generator) change() string {
	places := append([]string{"/var/lib/tree", "/var/lib/tree/deep", "/var/lib/tree/a", "/opt/pair/one", "/srv/real/sub", "/srv/rel", "/new", "/new/x"},
		g.stage.paths...)
	p, q := pick(g, places), pick(g, places)
	return pick(g, []string{
		"rm -rf " + p, "mkdir -p " + p + "/d", "echo x > " + p + "/f", "mv " + p + " " + q + "2", "ln " + p + " /link" + fmt.Sprint(g.IntN(9)),
		"ln -s " + p + " " + q + "/l", "chmod 711 " + p, "chown 5:6 " + p, "cp -a " + p + " " + q + "3", "touch -d @1000000000 " + p,
		"rm -rf " + p + " && mkdir -p " + p, "chmod -R go-rwx " + p, "mkfifo " + p + "/p", "echo y >> " + p,
	}) + " 2> /dev/null || true"
}

func (g *generator) runMount() {
	g.n++
	if len(g.stages) > 0 && g.chance(50) {
		s := pick(g, g.stages)
		g.add("RUN --mount=from=%s,target=/m find /m/srv /m/same /m/var /m/%d 2> /dev/null | sort > /m%d; echo", s.name, g.IntN(9), g.n)
		return
	}
	g.add("RUN --mount=target=/m%s find /m | sort > /m%d; ls -ln /m | awk '{print $1, $3, $4, $5}' >> /m%d", g.maybe(30, ",rw"), g.n, g.n)
}
