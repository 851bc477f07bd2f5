// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func hclFile(text string) []File { return []File{{Name: "b.hcl", Data: []byte(text)}} }

func TestVariablesListed(t *testing.T) {
	cfg, err := Parse(hclFile(`
variable "TAG" {
  default = "v1"
  description = "the tag"
}
variable "N" {
  type = number
  default = 3
}
variable "L" {
  type = list(string)
  default = ["a"]
}
variable "T" { default = ["x", 1] }
variable "NULL" { type = string }
variable "S" { type = string }
`), Options{Vars: map[string]string{"S": `q"uote`}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range cfg.Variables {
		value := "<null>"
		if v.Value != nil {
			value = *v.Value
		}
		got = append(got, fmt.Sprintf("%s|%s|%s|%s", v.Name, v.Type, value, v.Description))
	}
	want := []string{
		`L|list of string|["a"]|`, `N|number|3|`, `NULL|string|<null>|`, `S|string|q"uote|`, `T||["x",1]|`, `TAG||v1|the tag`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestUserFunctionsComeFirst: buildx ignores a function that has the name of
// one of its own.
func TestUserFunctionsComeFirst(t *testing.T) {
	cfg, err := Parse(hclFile(`
function "upper" {
  params = [x]
  result = "mine ${x}"
}
target "default" { tags = [upper("a")] }
`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Targets[0].Tags; !slices.Equal(got, []string{"mine a"}) {
		t.Errorf("got %q", got)
	}
}

func TestStdlibNames(t *testing.T) {
	if n := len(stdlib(&Options{})); n != 106 {
		t.Errorf("%d functions; buildx has 106", n)
	}
}

// TestFunctionsEndInTime: each function calls the one before twice, so the
// calls double with each.
func TestFunctionsEndInTime(t *testing.T) {
	var b strings.Builder
	b.WriteString("function \"f0\" {\n  params = [x]\n  result = x\n}\n")
	for i := 1; i <= 60; i++ {
		fmt.Fprintf(&b, "function \"f%d\" {\n  params = [x]\n  result = \"${f%d(x)}${f%d(x)}\"\n}\n", i, i-1, i-1)
	}
	b.WriteString("target \"default\" { tags = [f60(\"\")] }\n")
	_, err := Parse(hclFile(b.String()), Options{})
	if err == nil || !strings.Contains(err.Error(), "called too often") {
		t.Errorf("got %v", err)
	}
}

// TestDeepInput: parsers recurse, and so do evaluators; deep input is refused
// or read, never the end of the process.
func TestDeepInput(t *testing.T) {
	for name, text := range map[string]string{
		"brackets": "a = " + strings.Repeat("[", 100_000),
		"nots":     "a = " + strings.Repeat("!", 30_000) + "true",
		"sum":      "a = 1" + strings.Repeat("+1", 30_000),
		"lines":    "a = (1" + strings.Repeat("\n+1", 20_000) + ")",
		"index":    "a = [0]" + strings.Repeat("[a]", 20_000),
		"splat":    "a = [0]" + strings.Repeat("[*]", 20_000),
		"if":       "a = \"" + strings.Repeat("%{if true}", 9_000) + "\"",
		"blocks":   strings.Repeat("target \"a\" {\n", 50_000),
		"ternary":  "a = " + strings.Repeat("true?1:", 10_000) + "1",
	} {
		if _, err := Parse(hclFile(text), Options{}); err != nil {
			var placed *Error
			if !errors.As(err, &placed) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for name, text := range map[string]string{
		"flow":  strings.Repeat("[", 100_000),
		"block": strings.Repeat("- ", 100_000),
	} {
		if _, err := Parse([]File{{Name: "c.yaml", Data: []byte(text)}}, Options{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTooLarge(t *testing.T) {
	_, err := Parse(hclFile("#"+strings.Repeat(" ", maxFile)), Options{})
	if err == nil || !strings.Contains(err.Error(), "more than a build definition may have") {
		t.Errorf("got %v", err)
	}
}

// TestKindOfStandardInput: without a name that tells, the content decides.
func TestKindOfStandardInput(t *testing.T) {
	for text, want := range map[string]kind{
		"target \"a\" {}":              kindHCL,
		"  {\"target\": {}}":           kindJSON,
		"services:\n  a: {build: .}":   kindCompose,
		"name: x\nservices: # here\n":  kindCompose,
		"x = <<EOT\n services:\nEOT\n": kindHCL,
	} {
		if got := kindOf(File{Name: "-", Data: []byte(text)}); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// TestNothingInheritedIsShared: targets that inherit the same don't see each
// other's overrides.
func TestNothingInheritedIsShared(t *testing.T) {
	cfg, err := Parse(hclFile(`
target "base" {
  args = { A = "1" }
  output = [{ type = "image" }]
  secret = ["id=s,src=x"]
}
target "a" { inherits = ["base"] }
target "b" { inherits = ["base"] }
`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	def, err := cfg.Resolve([]string{"a", "b"}, []string{"a.push=true", "a.args.A=2", "a.secret.s=env=E", "a.contexts.c=x"})
	if err != nil {
		t.Fatal(err)
	}
	b := def.Targets["b"]
	if *b.Args["A"] != "1" || b.Outputs[0].Attrs["push"] != "" || b.Secrets[0].Env != "" || len(b.Contexts) != 0 {
		t.Errorf("b is %+v", b)
	}
	again, err := cfg.Resolve([]string{"a"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := again.Targets["a"]; *a.Args["A"] != "1" || a.Outputs[0].Attrs["push"] != "" {
		t.Errorf("the configuration has changed: %+v", a)
	}
}

// TestSetWhereBuildxLoses: two keys that buildx takes and drops.
func TestSetWhereBuildxLoses(t *testing.T) {
	cfg, err := Parse(hclFile(`target "a" {}`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	def, err := cfg.Resolve([]string{"a"}, []string{"a.network=none", "a.no-cache-filter=x", "a.ulimits=nofile=1:2"})
	if err != nil {
		t.Fatal(err)
	}
	a := def.Targets["a"]
	if *a.Network != "none" || !slices.Equal(a.NoCacheFilter, []string{"x"}) || !slices.Equal(a.Ulimits, []string{"nofile=1:2"}) {
		t.Errorf("got %+v", a)
	}
}

func TestFault(t *testing.T) {
	cfg, err := Parse(hclFile("target \"base\" {\n  policy = [\"filename=x\"]\n}\ntarget \"a\" {\n  inherits = [\"base\"]\n}\n"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	def, err := cfg.Resolve([]string{"a"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := def.Targets["a"].Fault("policy", errors.New("no")).Error()
	if want := "b.hcl:2: target a: policy: no"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSemver(t *testing.T) {
	for _, c := range []struct {
		version, constraint string
		want                bool
	}{
		{"1.2.3", "1.2.3", true}, {"1.2.3", "=1.2", true}, {"1.3.0", "1.2", false}, {"v1.2.3", "1.x", true},
		{"1.2.3", "!=1.2.3", false}, {"1.2.4", "!=1.2.3", true}, {"1.2.4", "!=1.2", false}, {"1.3.0", "!=1.2", true},
		{"1.2.3", ">1.2", false}, {"1.3.0", ">1.2", true}, {"2.0.0", ">1", true}, {"1.9.0", ">1", false},
		{"1.2.9", "<=1.2", true}, {"1.3.0", "<=1.2", false}, {"1.2.0", "<1.2.1", true}, {"1.2.0", "=>1.2", true},
		{"1.9.0", "^1.2.3", true}, {"1.2.2", "^1.2.3", false}, {"2.0.0", "^1.2.3", false},
		{"0.2.9", "^0.2.3", true}, {"0.3.0", "^0.2.3", false}, {"0.0.3", "^0.0.3", true}, {"0.0.4", "^0.0.3", false},
		{"0.5.0", "^0", true}, {"0.0.7", "^0.0", true}, {"0.1.0", "^0.0", false},
		{"1.2.9", "~1.2.3", true}, {"1.3.0", "~1.2.3", false}, {"1.9.0", "~1", true}, {"2.0.0", "~>1", false},
		{"3.0.0", "*", true}, {"1.5.0", "1.2 - 1.8", true}, {"1.9.0", "1.2 - 1.8", false},
		{"1.5.0", "<1 || >=1.4, <1.6", true}, {"1.7.0", "<1 || >=1.4 <1.6", false},
		{"1.2.3-rc.1", ">=1.2", false}, {"1.2.3-rc.1", ">=1.2.0-0", true}, {"1.2.3-rc.2", ">1.2.3-rc.10", false},
		{"1.2.3", ">1.2.3-rc.10", true}, {"1.2.3-alpha", "<1.2.3-beta", true}, {"1.2.3-1", "<1.2.3-a", true},
		{"1.2.3+meta", "1.2.3", true}, {"1.2", "1.2.0", true},
	} {
		v, err := parseVersion(c.version)
		if err != nil {
			t.Fatal(err)
		}
		alternatives, err := parseConstraints(c.constraint)
		if err != nil {
			t.Fatal(err)
		}
		if got := satisfies(v, alternatives); got != c.want {
			t.Errorf("%s %s: %v", c.version, c.constraint, got)
		}
	}
	for _, s := range []string{"", "1.x", "a", "1.2.3.4", "1.2.3-", "99999999999999999999"} {
		if v, err := parseVersion(s); err == nil {
			t.Errorf("version %q: %+v", s, v)
		}
	}
	for _, s := range []string{">=1<2", ">>1", "x.y.z.", "1.2.3.4", "~a"} {
		if c, err := parseConstraints(s); err == nil {
			t.Errorf("constraint %q: %+v", s, c)
		}
	}
}
