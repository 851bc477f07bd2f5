// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// Bounds on what a definition may make of itself.
const (
	maxInstances = 4096    // targets of one matrix
	maxCalls     = 100_000 // calls of functions that the files define
	maxValue     = 1 << 22 // elements and bytes of a value
)

// evaluator evaluates expressions when they are asked for. What an expression
// refers to is evaluated before it, so definitions may stand in any order, in
// any file.
type evaluator struct {
	*parser
	attrs map[string][]attribute // of groups and targets

	root      *hcl.EvalContext // variables evaluated so far, and all functions
	variables map[string]*variable
	globals   map[string]*hcl.Attribute // attributes outside of blocks
	busy      map[string]bool           // variables being evaluated

	calls  int             // of functions that the files define
	active map[string]bool // functions being called

	blocks    []*block
	instances map[string]map[string][]*instance // by block type and name
}

// block is a group or target as it stands in a file.
type block struct {
	kind, label string
	labelRange  hcl.Range
	attrs       hcl.Attributes
	instances   []*instance
}

// instance is one of the targets that a block makes.
type instance struct {
	*block
	name   string
	ctx    *hcl.EvalContext // with the variables of the matrix
	values map[string]cty.Value
	busy   map[string]bool
}

// evaluate adds to c what the files define.
func (p *parser) evaluate(files []*hcl.File, c *Config) error {
	e := &evaluator{
		parser:    p,
		attrs:     map[string][]attribute{"target": attributes(), "group": groupAttributes()},
		root:      &hcl.EvalContext{Variables: map[string]cty.Value{}, Functions: stdlib(p.opts)},
		variables: map[string]*variable{},
		globals:   map[string]*hcl.Attribute{},
		busy:      map[string]bool{},
		active:    map[string]bool{},
		instances: map[string]map[string][]*instance{"target": {}, "group": {}},
	}
	for name, v := range p.opts.Builtins {
		e.root.Variables[name] = cty.StringVal(v)
	}
	for _, f := range files {
		if err := e.gather(f); err != nil {
			return err
		}
	}
	if err := e.evaluateVariables(c); err != nil {
		return err
	}
	for _, b := range e.blocks {
		if err := e.instantiate(b); err != nil {
			return err
		}
	}
	for _, b := range e.blocks {
		if err := e.define(b, c); err != nil {
			return err
		}
	}
	for _, b := range e.blocks {
		c.groupMatrix(b)
	}
	for _, name := range slices.Sorted(maps.Keys(e.globals)) {
		if err := e.variable(name); err != nil {
			return err
		}
	}
	return nil
}

// gather takes a file apart.
func (e *evaluator) gather(f *hcl.File) error {
	schema := &hcl.BodySchema{}
	for _, t := range blockTypes() {
		schema.Blocks = append(schema.Blocks, hcl.BlockHeaderSchema{Type: t, LabelNames: []string{"name"}})
	}
	content, rest, diags := f.Body.PartialContent(schema)
	if err := e.fault(diags); err != nil {
		return err
	}
	for _, b := range content.Blocks {
		var err error
		switch b.Type {
		case "variable":
			err = e.gatherVariable(b)
		case "function":
			err = e.gatherFunction(b)
		default:
			err = e.gatherBlock(b)
		}
		if err != nil {
			return err
		}
	}
	// Attributes outside of blocks are variables that nothing overrides. The
	// library complains of the blocks, which have been read.
	globals, _ := rest.JustAttributes()
	for name, a := range globals {
		if name == "//" || slices.Contains(blockTypes(), name) {
			continue
		}
		if err := e.checkName(name, a.NameRange); err != nil {
			return err
		}
		e.globals[name] = a
	}
	return nil
}

// checkName refuses names of variables that could not be referred to.
func (e *evaluator) checkName(name string, r hcl.Range) error {
	if slices.Contains(blockTypes(), name) {
		return e.at(r, fmt.Errorf("a variable can't be named %q", name))
	}
	return nil
}

func (e *evaluator) gatherBlock(b *hcl.Block) error {
	schema := &hcl.BodySchema{}
	for _, a := range e.attrs[b.Type] {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: a.name, Required: b.Type == "group" && a.name == "targets"})
	}
	if b.Type == "target" {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: "matrix"}, hcl.AttributeSchema{Name: "name"})
	}
	content, rest, diags := b.Body.PartialContent(schema)
	if err := e.fault(diags); err != nil {
		return err
	}
	unknown, diags := rest.JustAttributes()
	if len(unknown) > 0 {
		name := slices.Min(slices.Collect(maps.Keys(unknown)))
		var known []string
		for _, a := range schema.Attributes {
			known = append(known, a.Name)
		}
		return e.at(unknown[name].NameRange, fmt.Errorf("%s %s: unknown attribute %q%s", b.Type, b.Labels[0], name, DidYouMean(name, known)))
	}
	if diags.HasErrors() { // a block; the library tells how to write it as an attribute
		_, diags = b.Body.Content(schema)
		return e.fault(diags)
	}
	decl := &block{kind: b.Type, label: b.Labels[0], labelRange: b.LabelRanges[0], attrs: content.Attributes}
	if err := checkTargetName(decl.label); err != nil {
		return e.at(decl.labelRange, err)
	}
	e.blocks = append(e.blocks, decl)
	return nil
}

func validTargetName(name string) bool {
	return regexp.MustCompile(`^[a-zA-Z0-9_-]+$`).MatchString(name)
}

func checkTargetName(name string) error {
	if !validTargetName(name) {
		return fmt.Errorf("invalid name %q: only letters, digits, _ and - are allowed", name)
	}
	return nil
}

// instantiate evaluates a block's matrix and the names that it makes.
func (e *evaluator) instantiate(b *block) error {
	ctxs, err := e.matrix(b)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, ctx := range ctxs {
		in := &instance{block: b, name: b.label, ctx: ctx, values: map[string]cty.Value{}, busy: map[string]bool{}}
		if a := b.attrs["name"]; a != nil {
			if b.attrs["matrix"] == nil {
				return e.at(a.NameRange, errors.New("name is for a target with a matrix: name the target by its label"))
			}
			v, err := e.value(a.Expr, ctx)
			if err == nil {
				v, err = convert.Convert(v, cty.String)
			}
			if err == nil && v.IsNull() {
				err = errors.New("name is null")
			}
			if err == nil {
				in.name = v.AsString()
				err = checkTargetName(in.name)
			}
			if err != nil {
				return e.at(a.Expr.Range(), err)
			}
		}
		if seen[in.name] {
			return e.at(b.labelRange, fmt.Errorf("target %q: the matrix makes two targets named %q: give it a name attribute that tells them apart", b.label, in.name))
		}
		seen[in.name] = true
		b.instances = append(b.instances, in)
		e.instances[b.kind][in.name] = append(e.instances[b.kind][in.name], in)
	}
	return nil
}

// matrix gives a context for each combination of a block's matrix, keys in
// their order and the last changing slowest; without one, the root alone.
func (e *evaluator) matrix(b *block) ([]*hcl.EvalContext, error) {
	a := b.attrs["matrix"]
	if a == nil {
		return []*hcl.EvalContext{e.root}, nil
	}
	v, err := e.value(a.Expr, e.root)
	if err != nil {
		return nil, err
	}
	if t := v.Type(); v.IsNull() || !t.IsMapType() && !t.IsObjectType() {
		return nil, e.at(a.Expr.Range(), fmt.Errorf("target %q: matrix must be an object of lists", b.label))
	}
	combinations := []map[string]cty.Value{{}}
	axes := v.AsValueMap()
	for _, key := range slices.Sorted(maps.Keys(axes)) {
		axis := axes[key]
		if axis.IsNull() || !axis.CanIterateElements() {
			return nil, e.at(a.Expr.Range(), fmt.Errorf("target %q: matrix: %s must be a list", b.label, key))
		}
		if n := axis.LengthInt() * len(combinations); n > maxInstances {
			return nil, e.at(a.Expr.Range(), fmt.Errorf("target %q: the matrix makes more than %d targets", b.label, maxInstances))
		}
		var next []map[string]cty.Value
		for _, el := range axis.AsValueSlice() {
			for _, c := range combinations {
				c = maps.Clone(c)
				c[key] = el
				next = append(next, c)
			}
		}
		combinations = next
	}
	var ctxs []*hcl.EvalContext
	for _, c := range combinations {
		ctx := e.root.NewChild()
		ctx.Variables = c
		ctxs = append(ctxs, ctx)
	}
	return ctxs, nil
}

// define evaluates a block and adds what it makes to c. Of targets with the
// same name the later is laid over the earlier; a later group replaces.
func (e *evaluator) define(b *block, c *Config) error {
	for _, in := range b.instances {
		t := &Target{Name: in.name, places: map[string]Place{"": e.place(b.labelRange)}}
		values := map[string]cty.Value{}
		for _, a := range e.attrs[b.kind] {
			v, err := e.attribute(in, a)
			if err != nil {
				return err
			}
			values[a.name] = v
			expr := b.attrs[a.name]
			if expr == nil || b.kind == "group" {
				continue
			}
			t.places[a.name] = e.place(expr.Range)
			if err := t.set(a.name, v); err != nil {
				return e.at(expr.Expr.Range(), fmt.Errorf("target %s: %s: %w", in.name, a.name, err))
			}
		}
		if b.kind == "target" {
			if old := c.target(in.name); old != nil {
				old.merge(t)
				continue
			}
			c.Targets = append(c.Targets, t)
			continue
		}
		if err := e.defineGroup(b, values, c); err != nil {
			return err
		}
	}
	return nil
}

func (e *evaluator) defineGroup(b *block, values map[string]cty.Value, c *Config) error {
	targets, err := stringList(values["targets"])
	if err != nil {
		return e.at(b.attrs["targets"].Expr.Range(), fmt.Errorf("group %s: targets: %w", b.label, err))
	}
	g := &Group{Name: b.label, Targets: unique(targets)}
	if d := values["description"]; !d.IsNull() {
		g.Description = d.AsString()
	}
	if old := c.group(b.label); old != nil {
		*old = *g
		return nil
	}
	c.Groups = append(c.Groups, g)
	return nil
}

// groupMatrix makes of a block's label a group of the targets that its matrix
// makes, unless they have the same name.
func (c *Config) groupMatrix(b *block) {
	if b.attrs["matrix"] == nil || len(b.instances) == 0 || (len(b.instances) == 1 && b.instances[0].name == b.label) {
		return
	}
	var names []string
	for _, in := range b.instances {
		names = append(names, in.name)
	}
	if g := c.group(b.label); g != nil {
		g.Targets = unique(append(g.Targets, names...))
		return
	}
	c.Groups = append(c.Groups, &Group{Name: b.label, Targets: names})
}

// attribute gives the value of an instance's attribute.
func (e *evaluator) attribute(in *instance, a attribute) (cty.Value, error) {
	if v, ok := in.values[a.name]; ok {
		return v, nil
	}
	decl := in.attrs[a.name]
	if decl == nil {
		return a.none(), nil
	}
	if in.busy[a.name] {
		return cty.NilVal, e.at(decl.Expr.Range(), fmt.Errorf("%s.%s.%s refers to itself", in.kind, in.name, a.name))
	}
	in.busy[a.name] = true
	defer delete(in.busy, a.name)
	v, err := e.value(decl.Expr, in.ctx)
	if err != nil {
		return cty.NilVal, err
	}
	if v, err = a.convert(v); err != nil {
		return cty.NilVal, e.at(decl.Expr.Range(), fmt.Errorf("%s %s: %s: %w", in.kind, in.name, a.name, err))
	}
	in.values[a.name] = v
	return v, nil
}

// value evaluates an expression, and before it what it refers to.
func (e *evaluator) value(expr hcl.Expression, ctx *hcl.EvalContext) (cty.Value, error) {
	ctx, err := e.load(expr, ctx)
	if err != nil {
		return cty.NilVal, e.at(expr.Range(), err)
	}
	v, diags := expr.Value(ctx)
	if err := e.fault(diags); err != nil {
		return cty.NilVal, e.at(expr.Range(), err)
	}
	if left := size(v, maxValue); left <= 0 {
		return cty.NilVal, e.at(expr.Range(), errors.New("the value is too large"))
	}
	return v, nil
}

// size takes the elements and bytes of v off a budget and gives what is left.
func size(v cty.Value, budget int) int {
	budget--
	if budget <= 0 || v.IsNull() || !v.IsKnown() {
		return budget
	}
	switch {
	case v.Type() == cty.String:
		return budget - len(v.AsString())
	case v.Type() == cty.Number:
		if f := v.AsBigFloat(); !f.IsInf() {
			return budget - max(f.MantExp(nil), -f.MantExp(nil))/8
		}
	case v.CanIterateElements():
		for it := v.ElementIterator(); it.Next() && budget > 0; {
			k, el := it.Element()
			if k.Type() == cty.String {
				budget -= len(k.AsString())
			}
			budget = size(el, budget)
		}
	}
	return budget
}

// load evaluates what expr refers to. The context returned knows the groups
// and targets among it. What doesn't exist is left to the evaluation of expr,
// which may try without.
func (e *evaluator) load(expr hcl.Expression, ctx *hcl.EvalContext) (*hcl.EvalContext, error) {
	refs := map[string]map[string]cty.Value{}
	for _, t := range expr.Variables() {
		name := t.RootName()
		switch {
		case known(ctx, name):
		case e.instances[name] != nil:
			if err := e.reference(t, refs); err != nil {
				return nil, err
			}
		default:
			if err := e.variable(name); err != nil {
				return nil, err
			}
		}
	}
	if len(refs) == 0 {
		return ctx, nil
	}
	child := ctx.NewChild()
	child.Variables = map[string]cty.Value{}
	for kind, values := range refs {
		child.Variables[kind] = cty.ObjectVal(values)
	}
	return child, nil
}

func known(ctx *hcl.EvalContext, name string) bool {
	for ; ctx != nil; ctx = ctx.Parent() {
		if _, ok := ctx.Variables[name]; ok {
			return true
		}
	}
	return false
}

// reference evaluates KIND.NAME.ATTRIBUTE, or all attributes of KIND.NAME,
// and adds it to refs.
func (e *evaluator) reference(t hcl.Traversal, refs map[string]map[string]cty.Value) error {
	kind := t.RootName()
	if len(t) < 2 {
		return fmt.Errorf("%s is no value by itself: name one, such as %s.app", kind, kind)
	}
	name, ok := stepName(t[1])
	if !ok {
		return fmt.Errorf("%s is followed by no name: want %s.NAME", kind, kind)
	}
	if refs[kind] == nil {
		refs[kind] = map[string]cty.Value{}
	}
	instances := e.instances[kind][name]
	if len(instances) == 0 {
		return nil // the evaluation says so
	}
	only := ""
	if len(t) > 2 {
		only, _ = stepName(t[2])
	}
	values := map[string]cty.Value{}
	if old, ok := refs[kind][name]; ok {
		values = old.AsValueMap()
	}
	values["name"] = cty.StringVal(name)
	for _, a := range e.attrs[kind] {
		if only != "" && only != a.name {
			continue
		}
		in := instances[len(instances)-1]
		for _, other := range instances {
			if other.attrs[a.name] != nil {
				in = other
			}
		}
		v, err := e.attribute(in, a)
		if err != nil {
			return err
		}
		values[a.name] = v
	}
	refs[kind][name] = cty.ObjectVal(values)
	return nil
}

func stepName(step hcl.Traverser) (string, bool) {
	switch step := step.(type) {
	case hcl.TraverseAttr:
		return step.Name, true
	case hcl.TraverseIndex:
		if step.Key.Type() == cty.String && step.Key.IsKnown() && !step.Key.IsNull() {
			return step.Key.AsString(), true
		}
	}
	return "", false
}
