// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"errors"
	"strings"
	"testing"

	"builder/image"
)

func TestParseErrors(t *testing.T) {
	tests := []struct {
		name, source, want string
		line               int
	}{
		{"unknown instruction", "FROM a\nRUM x\n", `Dockerfile:2: unknown instruction: RUM (did you mean RUN?)`, 2},
		{"unknown flag", "FROM a\n\nCOPY --form=x a b\n", `Dockerfile:3: unknown flag: --form (did you mean from?)`, 3},
		{"missing argument", "FROM a\nCOPY a\n", "Dockerfile:2: COPY requires at least two arguments", 2},
		{"no stage", "RUN x\n", "Dockerfile:1: no build stage in current context", 1},
		{"unterminated heredoc", "FROM a\nRUN <<EOF\nx\n", "Dockerfile:2: unterminated heredoc", 2},
		{"bad mount", "FROM a\nRUN --mount=type=bind,from=$x true\n", "Dockerfile:2: 'from' doesn't support variable expansion", 2},
		{"only arguments", "ARG A\n", "Dockerfile: it has no FROM instruction", 0},
		{"empty", " \n", "Dockerfile: the Dockerfile is empty", 0},
		{"bad directive", "# escape=x\nFROM a\n", "Dockerfile: invalid escape token", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("Dockerfile", []byte(tt.source))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error is %v, want an *Error", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %q, want %q in it", err, tt.want)
			}
			if e.Start != tt.line {
				t.Errorf("line is %d, want %d", e.Start, tt.line)
			}
		})
	}
}

func TestParse(t *testing.T) {
	f, err := Parse("D", []byte("# escape=`\nARG V=1\nFROM a AS one\nRUN x `\n  y\nfrom b\nmaintainer me\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Stages) != 2 || len(f.MetaArgs) != 1 || f.Escape != '`' {
		t.Errorf("%d stages, %d arguments, escape %q", len(f.Stages), len(f.MetaArgs), f.Escape)
	}
	start, end := Lines(f.Stages[0].Commands[0].Location())
	if start != 4 || end != 5 {
		t.Errorf("RUN is on lines %d to %d, want 4 to 5", start, end)
	}
	if found := f.Checks.Found(); len(found) == 0 || found[0].Rule.Name != "MaintainerDeprecated" || found[0].Start != 7 {
		t.Errorf("checks found %+v", found)
	}
}

func TestExpand(t *testing.T) {
	env := image.NewEnv("A=one", "P=/usr/lib/x.tar.gz", "E=")
	tests := []struct{ in, want string }{
		{"$A", "one"}, {"${A}x", "onex"}, {`\$A`, "$A"}, {"'$A'", "$A"}, {`"$A b"`, "one b"},
		{"${N:-d}", "d"}, {"${E:-d}", "d"}, {"${E-d}", ""}, {"${A:+s}", "s"}, {"${E:+s}", ""}, {"${E+s}", "s"},
		{"${P#*/}", "usr/lib/x.tar.gz"}, {"${P##*/}", "x.tar.gz"}, {"${P%.*}", "/usr/lib/x.tar"}, {"${P%%.*}", "/usr/lib/x"},
		{"${P/lib/LIB}", "/usr/LIB/x.tar.gz"}, {"${P//\\//_}", "_usr_lib_x.tar.gz"}, {"${N:-${A}}", "one"}, {"$N", ""},
	}
	for _, tt := range tests {
		got, _, err := NewExpander('\\').Word(tt.in, env)
		if err != nil || got != tt.want {
			t.Errorf("%s is %q (%v), want %q", tt.in, got, err, tt.want)
		}
	}
	if _, _, err := NewExpander('\\').Word("${N:?must be set}", env); err == nil || !strings.Contains(err.Error(), "must be set") {
		t.Errorf("${N:?…} gives %v", err)
	}
	if got := NewExpander('\\').Display(`run "$A" $N`, env); got != `run "one" $N` {
		t.Errorf("shown as %q", got)
	}
}

// FuzzParse holds that any bytes give a file or an *Error with a line that the
// source has.
func FuzzParse(f *testing.F) {
	f.Add([]byte("FROM a\nRUN <<EOF\nx\nEOF\n"))
	f.Add([]byte("# syntax=x\n# escape=`\nFROM a AS b\nCOPY --from=b --chmod=755 a b c/\n"))
	f.Add([]byte("ARG X=1\nFROM ${X:-y}\nONBUILD RUN x\nHEALTHCHECK --interval=1s CMD x\n"))
	f.Fuzz(func(t *testing.T, source []byte) {
		file, err := Parse("D", source)
		if err == nil {
			if len(file.Stages) == 0 {
				t.Error("a file without stages")
			}
			return
		}
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("error is %T: %v", err, err)
		}
		if e.Start > strings.Count(string(source), "\n")+1 {
			t.Errorf("line %d of %d", e.Start, strings.Count(string(source), "\n")+1)
		}
	})
}
