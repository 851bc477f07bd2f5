// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// variable is a variable block.
type variable struct {
	name        string
	description string
	defRange    hcl.Range
	def         *hcl.Attribute // the default; nil for none
	typed       bool
	typ         cty.Type // if typed
	validations []validation
}

// validation is a condition that a variable's value must meet.
type validation struct{ condition, message hcl.Expression }

func (e *evaluator) gatherVariable(b *hcl.Block) error {
	content, diags := b.Body.Content(&hcl.BodySchema{
		Attributes: []hcl.AttributeSchema{{Name: "type"}, {Name: "default"}, {Name: "description"}},
		Blocks:     []hcl.BlockHeaderSchema{{Type: "validation"}},
	})
	if err := e.fault(diags); err != nil {
		return err
	}
	v := &variable{name: b.Labels[0], defRange: b.LabelRanges[0], def: content.Attributes["default"], typ: cty.DynamicPseudoType}
	if err := e.checkName(v.name, v.defRange); err != nil {
		return err
	}
	if a := content.Attributes["description"]; a != nil {
		text, diags := a.Expr.Value(nil)
		if err := e.fault(diags); err != nil {
			return err
		}
		text, err := convert.Convert(text, cty.String)
		if err != nil {
			return e.at(a.Expr.Range(), fmt.Errorf("variable %s: description: %w", v.name, err))
		}
		if !text.IsNull() {
			v.description = text.AsString()
		}
	}
	if a := content.Attributes["type"]; a != nil {
		typ, diags := typeexpr.TypeConstraint(a.Expr)
		if err := e.fault(diags); err != nil {
			return err
		}
		v.typ, v.typed = typ, true
	}
	for _, b := range content.Blocks {
		rule, diags := b.Body.Content(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{
			{Name: "condition", Required: true}, {Name: "error_message", Required: true},
		}})
		if err := e.fault(diags); err != nil {
			return err
		}
		v.validations = append(v.validations, validation{rule.Attributes["condition"].Expr, rule.Attributes["error_message"].Expr})
	}
	if _, builtin := e.opts.Builtins[v.name]; !builtin {
		e.variables[v.name] = v
	}
	return nil
}

// evaluateVariables evaluates all variables, checks them, and lists them in c.
func (e *evaluator) evaluateVariables(c *Config) error {
	names := slices.Sorted(maps.Keys(e.variables))
	for _, name := range names {
		if err := e.variable(name); err != nil {
			return err
		}
		v := e.variables[name]
		out := Variable{Name: name, Description: v.description}
		if v.typed {
			out.Type = v.typ.FriendlyNameForConstraint()
		}
		if value := e.root.Variables[name]; !value.IsNull() {
			text, err := v.show(value)
			if err != nil {
				return e.at(v.defRange, fmt.Errorf("variable %s: %w", name, err))
			}
			out.Value = &text
		}
		c.Variables = append(c.Variables, out)
	}
	for _, name := range names {
		for _, rule := range e.variables[name].validations {
			if err := e.validate(rule); err != nil {
				return e.at(rule.condition.Range(), fmt.Errorf("variable %s: %w", name, err))
			}
		}
	}
	return nil
}

// show writes a variable's value for people: JSON, but words as they are.
func (v *variable) show(value cty.Value) (string, error) {
	typ := value.Type()
	if v.typed {
		typ = v.typ
	}
	if typ == cty.String || typ.IsPrimitiveType() && !v.typed {
		text, err := convert.Convert(value, cty.String)
		if err != nil {
			return "", err
		}
		return text.AsString(), nil
	}
	out, err := ctyjson.Marshal(value, typ)
	return string(out), err
}

func (e *evaluator) validate(rule validation) error {
	ok, err := e.value(rule.condition, e.root)
	if err != nil {
		return err
	}
	if ok, err = convert.Convert(ok, cty.Bool); err != nil {
		return fmt.Errorf("condition: %w", err)
	}
	if ok.IsNull() || !ok.IsKnown() {
		return errors.New("the condition is neither true nor false")
	}
	if ok.True() {
		return nil
	}
	text, err := e.value(rule.message, e.root)
	if err == nil {
		text, err = convert.Convert(text, cty.String)
	}
	if err != nil {
		return err
	}
	if text.IsNull() || !text.IsKnown() {
		return errors.New("a condition isn't met")
	}
	return errors.New(text.AsString())
}

// variable evaluates a variable into the root context. A name that nothing
// defines is left alone.
func (e *evaluator) variable(name string) error {
	if _, done := e.root.Variables[name]; done {
		return nil
	}
	decl, global := e.variables[name], e.globals[name]
	if decl == nil && global == nil {
		return nil
	}
	if e.busy[name] {
		return fmt.Errorf("variable %s refers to itself", name)
	}
	e.busy[name] = true
	defer delete(e.busy, name)
	def := global
	if def == nil {
		def = decl.def
	}
	v, err := e.defaultValue(decl, def)
	if err == nil && decl != nil {
		v, err = e.override(decl, def != nil, v)
	}
	var placed *Error
	if errors.As(err, &placed) {
		return err // it is about what the variable refers to
	}
	if err != nil {
		return e.at(e.rangeOf(decl, def), fmt.Errorf("variable %s: %w", name, err))
	}
	e.root.Variables[name] = v
	return nil
}

func (e *evaluator) rangeOf(decl *variable, def *hcl.Attribute) hcl.Range {
	if def != nil {
		return def.Expr.Range()
	}
	return decl.defRange
}

// defaultValue is what a variable has if nothing overrides it: without a
// default null if it is typed, else "".
func (e *evaluator) defaultValue(decl *variable, def *hcl.Attribute) (cty.Value, error) {
	typ := cty.DynamicPseudoType
	if decl != nil {
		typ = decl.typ
	}
	switch {
	case def != nil:
		v, err := e.value(def.Expr, e.root)
		if err != nil {
			return v, e.at(def.Expr.Range(), err)
		}
		return convert.Convert(v, typ)
	case decl.typed:
		return cty.NullVal(typ), nil
	}
	return cty.StringVal(""), nil
}

// override gives a variable the value that --var or the environment has for
// it. NAME_JSON is for values that are not mere words.
func (e *evaluator) override(decl *variable, hasDefault bool, v cty.Value) (cty.Value, error) {
	text, found := e.opts.lookup(decl.name)
	if !found || decl.typed {
		if alt, ok := e.jsonOverride(decl.name); ok {
			if decl.typed {
				v, err := ctyjson.Unmarshal([]byte(alt), decl.typ)
				if err != nil {
					return v, fmt.Errorf("%s_JSON: parse %q: %w", decl.name, alt, err)
				}
				return v, nil
			}
			text, found = alt, true
		}
	}
	if !found {
		return v, nil
	}
	typ := decl.typ
	if !decl.typed {
		typ = v.Type()
		if !hasDefault || typ == cty.DynamicPseudoType {
			typ = cty.String
		}
		if !typ.IsPrimitiveType() {
			return v, fmt.Errorf("it has no type, so its %s can't be replaced from outside: give it one, such as type = list(string)", typ.FriendlyName())
		}
	}
	switch {
	case typ.IsPrimitiveType():
		return word(text, typ)
	case typ.IsListType(), typ.IsSetType(), typ.IsTupleType(), typ.IsMapType():
		return fromCSV(text, typ)
	case typ == cty.DynamicPseudoType:
		return cty.StringVal(text), nil
	}
	return v, fmt.Errorf("a value of type %s can be given only as JSON, by %s_JSON", typ.FriendlyName(), decl.name)
}

// jsonOverride looks NAME_JSON up, unless that is a variable by itself.
func (e *evaluator) jsonOverride(name string) (string, bool) {
	name += "_JSON"
	_, builtin := e.opts.Builtins[name]
	if builtin || e.variables[name] != nil {
		return "", false
	}
	return e.opts.lookup(name)
}

// word reads a string, bool or number.
func word(text string, typ cty.Type) (cty.Value, error) {
	switch typ {
	case cty.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return cty.NilVal, fmt.Errorf("%q is neither true nor false", text)
		}
		return cty.BoolVal(b), nil
	case cty.Number:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			return cty.NilVal, fmt.Errorf("%q is no number", text)
		}
		return cty.NumberVal(big.NewFloat(n)), nil
	case cty.String:
		return cty.StringVal(text), nil
	}
	return cty.NilVal, fmt.Errorf("elements of type %s can be given only as JSON", typ.FriendlyName())
}

// fromCSV reads a list, set, tuple or map of words; a map's are KEY:VALUE.
func fromCSV(text string, typ cty.Type) (cty.Value, error) {
	var fields []string
	if text != "" {
		var err error
		if fields, err = splitCSV(text); err != nil {
			return cty.NilVal, err
		}
	}
	if typ.IsTupleType() && len(fields) != typ.Length() {
		return cty.NilVal, fmt.Errorf("%q has %d elements, but %d are wanted", text, len(fields), typ.Length())
	}
	var list []cty.Value
	dict := map[string]cty.Value{}
	for i, f := range fields {
		var elem cty.Type
		if typ.IsTupleType() {
			elem = typ.TupleElementType(i)
		} else {
			elem = typ.ElementType()
		}
		key := ""
		if typ.IsMapType() {
			var ok bool
			if key, f, ok = strings.Cut(f, ":"); !ok {
				return cty.NilVal, fmt.Errorf("%q: want KEY:VALUE", key)
			}
		}
		v, err := word(f, elem)
		if err != nil {
			return cty.NilVal, err
		}
		list, dict[key] = append(list, v), v
	}
	switch {
	case typ.IsTupleType():
		return cty.TupleVal(list), nil
	case typ.IsMapType() && len(dict) == 0:
		return cty.MapValEmpty(typ.ElementType()), nil
	case typ.IsMapType():
		return cty.MapVal(dict), nil
	case typ.IsSetType() && len(list) == 0:
		return cty.SetValEmpty(typ.ElementType()), nil
	case typ.IsSetType():
		return cty.SetVal(list), nil
	case len(list) == 0:
		return cty.ListValEmpty(typ.ElementType()), nil
	}
	return cty.ListVal(list), nil
}

// gatherFunction makes a function of a function block. Its body is evaluated
// when it is called: it sees its parameters and the variables.
func (e *evaluator) gatherFunction(b *hcl.Block) error {
	content, diags := b.Body.Content(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{
		{Name: "params", Required: true}, {Name: "result", Required: true}, {Name: "variadic_params"},
	}})
	if err := e.fault(diags); err != nil {
		return err
	}
	name := b.Labels[0]
	exprs, diags := hcl.ExprList(content.Attributes["params"].Expr)
	if err := e.fault(diags); err != nil {
		return err
	}
	spec := &function.Spec{Type: function.StaticReturnType(cty.DynamicPseudoType)}
	param := func(expr hcl.Expression) (function.Parameter, error) {
		p := function.Parameter{Name: hcl.ExprAsKeyword(expr), Type: cty.DynamicPseudoType}
		if p.Name == "" {
			return p, e.at(expr.Range(), fmt.Errorf("function %s: a parameter must be a name", name))
		}
		return p, nil
	}
	for _, expr := range exprs {
		p, err := param(expr)
		if err != nil {
			return err
		}
		spec.Params = append(spec.Params, p)
	}
	if a := content.Attributes["variadic_params"]; a != nil {
		p, err := param(a.Expr)
		if err != nil {
			return err
		}
		spec.VarParam = &p
	}
	result := content.Attributes["result"].Expr
	spec.Impl = func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		ctx := e.root.NewChild()
		ctx.Variables = map[string]cty.Value{}
		for i, p := range spec.Params {
			ctx.Variables[p.Name] = args[i]
		}
		if spec.VarParam != nil {
			ctx.Variables[spec.VarParam.Name] = cty.TupleVal(args[len(spec.Params):])
		}
		return e.call(name, result, ctx)
	}
	e.root.Functions[name] = function.New(spec)
	return nil
}

// call evaluates a function's result. Functions don't recurse.
func (e *evaluator) call(name string, result hcl.Expression, ctx *hcl.EvalContext) (cty.Value, error) {
	if e.active[name] {
		return cty.NilVal, e.at(result.Range(), fmt.Errorf("function %s calls itself", name))
	}
	if e.calls++; e.calls > maxCalls {
		return cty.NilVal, e.at(result.Range(), errors.New("functions are called too often"))
	}
	e.active[name] = true
	defer delete(e.active, name)
	return e.value(result, ctx)
}
