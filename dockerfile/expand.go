// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Expander expands the words of instructions as BuildKit's lexer does.
type Expander struct{ escape rune }

// NewExpander makes an Expander for a file's escape character.
func NewExpander(escape rune) *Expander { return &Expander{escape} }

// Word expands $NAME, ${NAME}, ${NAME:-word} and the other forms in one word
// and takes its quotes away. unset are the names that had no value.
func (x *Expander) Word(word string, env shell.EnvGetter) (expanded string, unset []string, err error) {
	s, unmatched, err := shell.NewLex(x.escape).ProcessWord(word, env)
	return s, sortedNames(unmatched), err
}

// Used are the names whose values [Expander.Word] puts into a word. Of one
// that it can't expand there are none.
func (x *Expander) Used(word string, env shell.EnvGetter) []string {
	res, err := shell.NewLex(x.escape).ProcessWordWithMatches(word, env)
	if err != nil {
		return nil
	}
	return sortedNames(res.Matched)
}

// Words is Word that splits what comes out at spaces outside of quotes.
func (x *Expander) Words(word string, env shell.EnvGetter) ([]string, error) {
	return shell.NewLex(x.escape).ProcessWords(word, env)
}

// Document expands the variables of a here-document and leaves its quotes.
func (x *Expander) Document(text string, env shell.EnvGetter) (expanded string, unset []string, err error) {
	lex := shell.NewLex('\\')
	lex.SkipProcessQuotes = true
	s, unmatched, err := lex.ProcessWord(text, env)
	return s, sortedNames(unmatched), err
}

// Display expands the variables of an instruction for showing it: quotes,
// escapes and names without a value stay as they are written.
func (x *Expander) Display(text string, env shell.EnvGetter) string {
	lex := shell.NewLex(x.escape)
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	if s, _, err := lex.ProcessWord(text, env); err == nil {
		return s
	}
	return text
}

func sortedNames(set map[string]struct{}) []string {
	names := make([]string, 0, len(set))
	for n := range set {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
