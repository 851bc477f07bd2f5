// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// checkArg is the build argument that replaces the "# check=" directive.
const checkArg = "BUILDKIT_DOCKERFILE_CHECK"

// Rule is one build check.
type Rule struct {
	Name         string
	Description  string
	URL          string // where it is explained, "" if nowhere
	Experimental bool   // runs only where it is asked for
}

// Warning is what a check found.
type Warning struct {
	Rule       Rule
	Message    string
	Start, End int // line numbers, from 1
}

// Checks are the build checks of one Dockerfile: which of them its directive
// asks for, and what they have found. Names, texts and order are BuildKit's.
// [Parse] runs those that need nothing but the file; who plans the build runs
// the others by way of [Checks.At].
type Checks struct {
	lint  *linter.Linter
	found []Warning
}

// Found is what has been found so far, in the order it was.
func (c *Checks) Found() []Warning { return slices.Clone(c.found) }

// Err is the error that findings are where the check directive has error=true.
func (c *Checks) Err() error {
	if !c.lint.ReturnAsError || len(c.found) == 0 {
		return nil
	}
	var names []string
	for _, w := range c.found {
		if !slices.Contains(names, w.Rule.Name) {
			names = append(names, w.Rule.Name)
		}
	}
	return fmt.Errorf("lint violation found for rules: %s", strings.Join(names, ", "))
}

// Site is an instruction that checks look at.
type Site struct {
	lint     *linter.Linter
	location []parser.Range
}

// At is the site at location. The comments above it may have a check directive
// of their own.
func (c *Checks) At(location []parser.Range, comments []string) Site {
	return Site{c.lint.WithMergedConfigFromComments(comments), location}
}

// For is the place of another site with the checks of this one.
func (s Site) For(other Site) Site { return Site{s.lint, other.location} }

// Report notes what a rule found, unless it isn't to be run here.
func (s Site) Report(rule linter.LinterRuleI, message string) {
	s.lint.Run(rule, s.location, message)
}

// newChecks reads which checks the file's directive asks for, or the build
// argument in its place.
func (f *File) newChecks(args map[string]string) (*Checks, error) {
	value, given := args[checkArg]
	what, location := "build argument "+checkArg, []parser.Range(nil)
	if !given {
		what = "check directive"
		value, _, location, _ = parser.ParseDirective("check", f.Source)
	}
	config, err := linter.ParseLintOptions(value)
	if err != nil {
		return nil, f.At(location, fmt.Errorf("%s: %w", what, err))
	}
	c := &Checks{}
	config.Warn = c.note
	c.lint = linter.New(config)
	return c, nil
}

func (c *Checks) note(name, description, url, message string, location []parser.Range) {
	w := Warning{Rule: Rule{Name: name, Description: description, URL: url}, Message: message}
	w.Start, w.End = Lines(location)
	c.found = append(c.found, w)
}

// parsed runs the checks that belong to the parser.
func (c *Checks) parsed(warnings []parser.Warning) {
	for _, w := range warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL && w.Location != nil {
			c.At([]parser.Range{*w.Location}, nil).Report(&linter.RuleNoEmptyContinuation, linter.RuleNoEmptyContinuation.Format())
		}
	}
}

// stages runs the checks of names and spelling.
func (c *Checks) stages(stages []instructions.Stage) {
	seen := map[string]bool{}
	for _, st := range stages {
		site := c.At(st.Location, nil)
		if st.Name == "scratch" || st.Name == "context" {
			site.Report(&linter.RuleReservedStageName, linter.RuleReservedStageName.Format(st.Name))
		}
		if st.Name != "" && seen[st.Name] {
			site.Report(&linter.RuleDuplicateStageName, linter.RuleDuplicateStageName.Format(st.Name))
		}
		seen[st.Name] = true
	}
	want := casing(stages)
	for word, location := range words(stages) {
		if msg := linter.RuleConsistentInstructionCasing.Format(word, want); !isCased(word, want) {
			c.At(location, nil).Report(&linter.RuleConsistentInstructionCasing, msg)
		}
	}
}

// words are the instructions' names as they are written.
func words(stages []instructions.Stage) func(func(string, []parser.Range) bool) {
	return func(yield func(string, []parser.Range) bool) {
		for _, st := range stages {
			if !yield(st.OrigCmd, st.Location) {
				return
			}
			for _, cmd := range st.Commands {
				if !yield(cmd.Name(), cmd.Location()) {
					return
				}
			}
		}
	}
}

// casing is how most instructions are spelled; those of mixed case don't
// count.
func casing(stages []instructions.Stage) string {
	lower, upper := 0, 0
	for word := range words(stages) {
		switch {
		case isCased(word, "lowercase"):
			lower++
		case isCased(word, "uppercase"):
			upper++
		}
	}
	if lower > upper {
		return "lowercase"
	}
	return "uppercase"
}

func isCased(word, casing string) bool {
	if casing == "lowercase" {
		return strings.ToLower(word) == word
	}
	return strings.ToUpper(word) == word
}

// Rules are all build checks.
func Rules() []Rule {
	return []Rule{
		ruleOf(linter.RuleStageNameCasing), ruleOf(linter.RuleFromAsCasing), ruleOf(linter.RuleNoEmptyContinuation),
		ruleOf(linter.RuleConsistentInstructionCasing), ruleOf(linter.RuleDuplicateStageName), ruleOf(linter.RuleReservedStageName),
		ruleOf(linter.RuleJSONArgsRecommended), ruleOf(linter.RuleMaintainerDeprecated), ruleOf(linter.RuleUndefinedArgInFrom),
		ruleOf(linter.RuleWorkdirRelativePath), ruleOf(linter.RuleUndefinedVar), ruleOf(linter.RuleMultipleInstructionsDisallowed),
		ruleOf(linter.RuleLegacyKeyValueFormat), ruleOf(linter.RuleInvalidBaseImagePlatform), ruleOf(linter.RuleRedundantTargetPlatform),
		ruleOf(linter.RuleSecretsUsedInArgOrEnv), ruleOf(linter.RuleInvalidDefaultArgInFrom), ruleOf(linter.RuleFromPlatformFlagConstDisallowed),
		ruleOf(linter.RuleCopyIgnoredFile), ruleOf(linter.RuleInvalidDefinitionDescription), ruleOf(linter.RuleExposeProtoCasing),
		ruleOf(linter.RuleExposeInvalidFormat),
	}
}

func ruleOf[F any](r linter.LinterRule[F]) Rule {
	return Rule{r.Name, r.Description, r.URL, r.Experimental}
}
