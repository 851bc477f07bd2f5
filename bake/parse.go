// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// parser reads the HCL and JSON files of one definition.
type parser struct {
	opts  *Options
	files []File
}

// fault makes of a diagnostic of the HCL library an error with a place.
func (p *parser) fault(diags hcl.Diagnostics) error {
	i := slices.IndexFunc(diags, func(d *hcl.Diagnostic) bool { return d.Severity == hcl.DiagError })
	if i < 0 {
		return nil
	}
	d := diags[i]
	// An error of our own that went through the library, as of a function's
	// body, knows its place better than the call does.
	if extra, ok := hcl.DiagnosticExtra[hclsyntax.FunctionCallDiagExtra](d); ok {
		var placed *Error
		if errors.As(extra.FunctionCallError(), &placed) {
			return placed
		}
	}
	if d.Subject == nil {
		return errors.New(sentence(d.Summary, d.Detail))
	}
	return p.at(*d.Subject, errors.New(sentence(d.Summary, d.Detail)))
}

// sentence is a diagnostic as our messages are written: the detail alone if
// there is one, without its full stop.
func sentence(summary, detail string) string {
	text := strings.TrimSuffix(strings.TrimSpace(detail), ".")
	if text == "" {
		return lowerFirst(summary)
	}
	return lowerFirst(summary) + ": " + lowerFirst(text)
}

func lowerFirst(s string) string {
	if len(s) > 1 && s[1] >= 'A' && s[1] <= 'Z' || s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// at gives err a place, if it has none yet.
func (p *parser) at(r hcl.Range, err error) error {
	var placed *Error
	if err == nil || errors.As(err, &placed) {
		return err
	}
	e := &Error{File: File{Name: r.Filename}, Start: r.Start.Line, End: r.End.Line, Err: err}
	if i := slices.IndexFunc(p.files, func(f File) bool { return f.Name == r.Filename }); i >= 0 {
		e.File = p.files[i]
	}
	return e
}

func (p *parser) place(r hcl.Range) Place {
	for _, f := range p.files {
		if f.Name == r.Filename {
			return Place{File: f, Line: r.Start.Line}
		}
	}
	return Place{File: File{Name: r.Filename}, Line: r.Start.Line}
}

func (p *parser) parseHCL(f File) (*hcl.File, error) {
	tokens, diags := hclsyntax.LexConfig(f.Data, f.Name, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, p.fault(diags)
	}
	if err := p.checkTokens(tokens); err != nil {
		return nil, err
	}
	file, diags := hclparse.NewParser().ParseHCL(f.Data, f.Name)
	if err := p.fault(diags); err != nil {
		return nil, err
	}
	body, ok := file.Body.(*hclsyntax.Body)
	if !ok {
		return nil, fmt.Errorf("%s: not HCL", f.Name)
	}
	for _, b := range body.Blocks {
		if !slices.Contains(blockTypes(), b.Type) {
			return nil, p.at(b.TypeRange, fmt.Errorf("unknown block %q%s: want %s", b.Type, DidYouMean(b.Type, blockTypes()), strings.Join(blockTypes(), ", ")))
		}
	}
	return file, nil
}

func blockTypes() []string { return []string{"variable", "function", "group", "target"} }

func (p *parser) parseJSON(f File) (*hcl.File, error) {
	file, diags := hclparse.NewParser().ParseJSON(f.Data, f.Name)
	if err := p.fault(diags); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(strings.NewReader(string(f.Data)))
	dec.UseNumber()
	for {
		tok, err := dec.Token()
		if err != nil {
			return file, nil // the end: the file has been parsed
		}
		line := 1 + strings.Count(string(f.Data[:dec.InputOffset()]), "\n")
		pos := hcl.Pos{Line: line, Column: 1}
		switch tok := tok.(type) {
		case json.Number:
			if hugeNumber(tok.String()) {
				return nil, p.at(hcl.Range{Filename: f.Name, Start: pos, End: pos}, fmt.Errorf("number %s is too large", tok))
			}
		case string:
			tokens, diags := hclsyntax.LexTemplate([]byte(tok), f.Name, pos)
			if !diags.HasErrors() {
				if err := p.checkTokens(tokens); err != nil {
					return nil, err
				}
			}
		}
	}
}

// Bounds on expressions, whose parser and evaluation recurse.
const (
	maxDepth     = 200 // brackets in brackets
	maxOperators = 500 // operators between two brackets or commas
)

// checkTokens refuses expressions that would use up the stack, and numbers
// that would fill memory when they are written out.
func (p *parser) checkTokens(tokens hclsyntax.Tokens) error {
	counts := []int{0}   // operators, by bracket
	ends := []bool{true} // whether a line's end ends an expression there
	for _, t := range tokens {
		top := len(counts) - 1
		switch t.Type {
		case hclsyntax.TokenNumberLit:
			if hugeNumber(string(t.Bytes)) {
				return p.at(t.Range, fmt.Errorf("number %s is too large", t.Bytes))
			}
		case hclsyntax.TokenOParen, hclsyntax.TokenOBrack, hclsyntax.TokenOBrace, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			counts[top]++
			counts, ends = append(counts, 0), append(ends, t.Type == hclsyntax.TokenOBrace)
		case hclsyntax.TokenCParen, hclsyntax.TokenCBrack, hclsyntax.TokenCBrace, hclsyntax.TokenTemplateSeqEnd:
			counts, ends = counts[:max(1, top)], ends[:max(1, top)]
		case hclsyntax.TokenComma:
			counts[top] = 0
		case hclsyntax.TokenNewline:
			if ends[top] {
				counts[top] = 0
			}
		case hclsyntax.TokenBang, hclsyntax.TokenMinus, hclsyntax.TokenPlus, hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPercent,
			hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenQuestion, hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual,
			hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan, hclsyntax.TokenGreaterThanEq:
			counts[top]++
		}
		if len(counts) > maxDepth || counts[len(counts)-1] > maxOperators {
			return p.at(t.Range, errors.New("the expression is too deep"))
		}
	}
	return nil
}

func hugeNumber(s string) bool {
	i := strings.IndexAny(s, "eE")
	return i >= 0 && len(strings.TrimLeft(s[i+1:], "+-0")) > 3
}

// DidYouMean is a hint at the name that was meant, in parentheses, or "".
func DidYouMean(name string, known []string) string {
	best, least := "", len(name)/3+1
	for _, k := range known {
		if d := distance(name, k); d <= least && d < len(k) {
			best, least = k, d-1
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance counts the changed, missing and added bytes between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
