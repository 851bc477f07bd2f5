// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"errors"
	"fmt"
	"strings"
)

// interpolate fills in $NAME and ${NAME} with the forms of the shell, :- - :?
// ? :+ and +, as compose files and .env files have them. $$ is a dollar sign.
// A name that isn't set is empty.
func interpolate(s string, lookup func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "$")
		b.WriteString(before)
		if !ok {
			return b.String(), nil
		}
		name := leadingName(rest)
		switch {
		case strings.HasPrefix(rest, "$"):
			b.WriteByte('$')
			s = rest[1:]
		case name != "":
			v, _ := lookup(name)
			b.WriteString(v)
			s = rest[len(name):]
		case strings.HasPrefix(rest, "{"):
			end := closingBrace(rest)
			if end < 0 {
				return "", fmt.Errorf("invalid variable in %q: no closing brace", "$"+rest)
			}
			v, err := substitute(rest[1:end], lookup)
			if err != nil {
				return "", err
			}
			b.WriteString(v)
			s = rest[end+1:]
		default:
			b.WriteByte('$')
			s = rest
		}
		if b.Len() > maxFile {
			return "", errors.New("variables make the value too large")
		}
	}
}

func leadingName(s string) string {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return s[:i]
		}
	}
	return s
}

// closingBrace finds the brace that closes the one s begins with.
func closingBrace(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// substitute gives what stands between braces its value.
func substitute(s string, lookup func(string) (string, bool)) (string, error) {
	name := leadingName(s)
	form := s[len(name):]
	if name == "" {
		return "", fmt.Errorf("invalid variable %q: want a name", "${"+s+"}")
	}
	value, set := lookup(name)
	if strings.HasPrefix(form, ":") {
		set = set && value != ""
		form = form[1:]
	} else if form == "" {
		return value, nil
	}
	op, word := form[:min(1, len(form))], form[min(1, len(form)):]
	switch op {
	case "-":
		if set {
			return value, nil
		}
		return interpolate(word, lookup)
	case "+":
		if !set {
			return "", nil
		}
		return interpolate(word, lookup)
	case "?":
		if set {
			return value, nil
		}
		msg, err := interpolate(word, lookup)
		if err != nil {
			return "", err
		}
		if msg == "" {
			return "", fmt.Errorf("the variable %s is required and has no value", name)
		}
		return "", fmt.Errorf("the variable %s is required and has no value: %s", name, msg)
	}
	return "", fmt.Errorf("invalid variable %q: want ${NAME}, ${NAME:-default}, ${NAME:?message} or ${NAME:+word}", "${"+s+"}")
}

// parseDotenv reads NAME=VALUE lines as compose does: comments, export, quotes
// that may span lines, variables where there are no single quotes. A name
// alone has the value of lookup.
func parseDotenv(f File, lookup func(string) (string, bool)) (map[string]string, error) {
	out := map[string]string{}
	find := func(name string) (string, bool) {
		if v, ok := lookup(name); ok {
			return v, true
		}
		v, ok := out[name]
		return v, ok
	}
	rest := strings.ReplaceAll(string(f.Data), "\r\n", "\n")
	total := strings.Count(rest, "\n")
	for rest != "" {
		line := 1 + total - strings.Count(rest, "\n")
		fail := func(err error) error { return &Error{File: f, Start: line, End: line, Err: err} }
		var err error
		if rest, err = dotenvLine(rest, out, find); err != nil {
			return nil, fail(err)
		}
	}
	return out, nil
}

// dotenvLine reads one assignment and gives what follows it.
func dotenvLine(s string, out map[string]string, find func(string) (string, bool)) (string, error) {
	line, after, _ := strings.Cut(s, "\n")
	text := strings.TrimSpace(line)
	if text == "" || strings.HasPrefix(text, "#") {
		return after, nil
	}
	if word, ok := strings.CutPrefix(text, "export"); ok && strings.TrimLeft(word, " \t") != word {
		text = strings.TrimSpace(word)
	}
	i := strings.IndexAny(text, "=:")
	if i < 0 {
		if strings.ContainsAny(text, " \t") {
			return "", fmt.Errorf("%q: want NAME=VALUE", text)
		}
		if v, ok := find(text); ok {
			out[text] = v
		}
		return after, nil
	}
	name := strings.TrimSpace(text[:i])
	if name == "" || strings.ContainsAny(name, " \t\"'$") {
		return "", fmt.Errorf("%q is no name of a variable", name)
	}
	value := strings.TrimSpace(text[i+1:])
	if value == "" || value[0] != '"' && value[0] != '\'' {
		value, _, _ = strings.Cut(" "+value, " #")
		v, err := interpolate(strings.TrimSpace(value), find)
		out[name] = v
		return after, err
	}
	// A quoted value may go on over the lines that follow.
	start := strings.Index(s, value)
	body, rest, err := quoted(s[start:])
	if err != nil {
		return "", err
	}
	if value[0] == '"' {
		if body, err = interpolate(unescape(body), find); err != nil {
			return "", err
		}
	}
	out[name] = body
	_, rest, _ = strings.Cut(rest, "\n")
	return rest, nil
}

// quoted gives what is between the quote that s begins with and the next one
// that no backslash escapes.
func quoted(s string) (body, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == s[0]:
			return b.String(), s[i+1:], nil
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == s[0]:
			i++
			b.WriteByte(s[i])
		case s[i] == '\\' && i+1 < len(s):
			b.WriteString(s[i : i+2])
			i++
		default:
			b.WriteByte(s[i])
		}
	}
	line, _, _ := strings.Cut(s, "\n")
	return "", "", fmt.Errorf("unterminated quoted value %s", line)
}

// unescape reads the escapes of double quotes. \$ becomes $$, which stands for
// a dollar sign.
func unescape(s string) string {
	return strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r", `\t`, "\t", `\a`, "\a", `\b`, "\b", `\f`, "\f", `\v`, "\v",
		`\"`, `"`, `\$`, "$$").Replace(s)
}
