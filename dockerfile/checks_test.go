// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// frontendDir is the directory of BuildKit's Dockerfile frontend, of the
// version that is compiled in.
func frontendDir(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/buildkit").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "frontend", "dockerfile")
}

// TestRules holds that every rule of the linter is in the list, once.
func TestRules(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(frontendDir(t), "linter", "ruleset.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			want = append(want, strings.TrimPrefix(spec.Names[0].Name, "Rule"))
		}
		return true
	})
	var got []string
	for _, r := range Rules() {
		got = append(got, r.Name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) || len(got) < 22 {
		t.Errorf("rules are %q, want %q", got, want)
	}
}

// TestFrontendVersion holds that the version is the parser's.
func TestFrontendVersion(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(frontendDir(t), "version", "version.go"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`version = "(.+)"`).FindSubmatch(data)
	if m == nil || string(m[1]) != FrontendVersion {
		t.Errorf("the parser is of version %s, FrontendVersion is %s", m, FrontendVersion)
	}
}

func TestOwnTag(t *testing.T) {
	for image, want := range map[string]string{
		"docker/dockerfile": "", "docker/dockerfile:1.7": "1.7", "docker.io/docker/dockerfile:1": "1",
		"docker/dockerfile-upstream:master": "master", "mirror.test:5000/hub/docker/dockerfile:1@sha256:00": "1", "mirror.test:5000/docker/dockerfile": "",
	} {
		if tag, ok := ownTag(image); !ok || tag != want {
			t.Errorf("%s: %q, %t, want %q", image, tag, ok, want)
		}
	}
	for _, image := range []string{"", "dockerfile", "other/dockerfile:1", "docker/dockerfile-x:1", "mydocker/dockerfile", "docker/dockerfile/x"} {
		if _, ok := ownTag(image); ok {
			t.Errorf("%q is taken for the Dockerfile frontend", image)
		}
	}
	for tag, want := range map[string]bool{
		"": false, "1": false, "latest": false, "1.28": false, "1.28.9": false, "1.29": true, "1.29-labs": true, "2": true, "0.99": false, "1.x": false, "1.9": false, "1.100.1": true,
	} {
		if isNewer(tag) != want {
			t.Errorf("%q is newer: %t, want %t", tag, !want, want)
		}
	}
}

// TestTriggerWithCheck holds that a base image can't crash a build by a check
// comment in a trigger.
func TestTriggerWithCheck(t *testing.T) {
	cmd, err := ParseTrigger("# check=skip=all\nRUN x")
	if err != nil || cmd.Name() != "RUN" {
		t.Errorf("%v, %v", cmd, err)
	}
	if _, err := ParseTrigger("FROM x"); err == nil {
		t.Error("FROM is taken for a trigger")
	}
}

// TestChecksAsErrors holds what the directive makes of findings.
func TestChecksAsErrors(t *testing.T) {
	f, err := ParseArgs("D", []byte("FROM a AS B\nMAINTAINER x\nMAINTAINER y\n"), map[string]string{checkArg: "error=true"})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Checks.Err(); err == nil || err.Error() != "lint violation found for rules: StageNameCasing, MaintainerDeprecated" {
		t.Errorf("error is %v", err)
	}
	for source, want := range map[string]string{
		"# check=nonsense\nFROM a\n":         `D:1: check directive: invalid check option "nonsense"`,
		"# check=what=1\nFROM a\n":           `D:1: check directive: invalid check option "what"`,
		"# check=error=maybe\nFROM a\n":      `D:1: check directive: failed to parse check option "error=maybe"`,
		"# check=a=b\n# check=c=d\nFROM a\n": `D:1: check directive: invalid check option "a"`,
	} {
		if _, err := Parse("D", []byte(source)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: error is %v, want %s", source, err, want)
		}
	}
	if _, err := ParseArgs("D", []byte("FROM a\n"), map[string]string{checkArg: "x"}); err == nil || !strings.Contains(err.Error(), "build argument "+checkArg) {
		t.Errorf("error is %v", err)
	}
}

// TestPartialFile holds what is left of a file that can't be parsed.
func TestPartialFile(t *testing.T) {
	f, err := Parse("D", []byte("FROM a AS B\nCOPY x\n"))
	if err == nil || len(f.Stages) != 0 || len(f.Checks.Found()) != 1 {
		t.Errorf("%d stages, %+v, %v", len(f.Stages), f.Checks.Found(), err)
	}
}
