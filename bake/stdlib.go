// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"errors"
	"maps"
	"math/big"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-cty-funcs/cidr"
	"github.com/hashicorp/go-cty-funcs/crypto"
	"github.com/hashicorp/go-cty-funcs/encoding"
	"github.com/hashicorp/go-cty-funcs/uuid"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	std "github.com/zclconf/go-cty/cty/function/stdlib"
)

// stdlib are the functions that definitions can call, by the names that buildx
// gives them.
func stdlib(opts *Options) map[string]function.Function {
	fns := map[string]function.Function{}
	for _, m := range []map[string]function.Function{numberFunctions(), textFunctions(), collectionFunctions(), otherFunctions(opts)} {
		maps.Copy(fns, m)
	}
	return fns
}

func numberFunctions() map[string]function.Function {
	return map[string]function.Function{
		"absolute": std.AbsoluteFunc, "add": std.AddFunc, "and": std.AndFunc, "ceil": std.CeilFunc,
		"divide": std.DivideFunc, "equal": std.EqualFunc, "floor": std.FloorFunc,
		"greaterthan": std.GreaterThanFunc, "greaterthanorequalto": std.GreaterThanOrEqualToFunc,
		"int": std.IntFunc, "lessthan": std.LessThanFunc, "lessthanorequalto": std.LessThanOrEqualToFunc,
		"log": std.LogFunc, "max": std.MaxFunc, "min": std.MinFunc, "modulo": std.ModuloFunc,
		"multiply": std.MultiplyFunc, "negate": std.NegateFunc, "not": std.NotFunc, "notequal": std.NotEqualFunc,
		"or": std.OrFunc, "parseint": std.ParseIntFunc, "pow": std.PowFunc, "signum": std.SignumFunc,
		"subtract": std.SubtractFunc,
	}
}

func textFunctions() map[string]function.Function {
	return map[string]function.Function{
		"basename": pathFunction("last element", path.Base), "dirname": pathFunction("directory", path.Dir),
		"byteslen": std.BytesLenFunc, "bytesslice": std.BytesSliceFunc, "chomp": std.ChompFunc,
		"format": boundedFormat(std.FormatFunc), "formatlist": boundedFormat(std.FormatListFunc),
		"indent": std.IndentFunc, "join": std.JoinFunc, "lower": std.LowerFunc, "regex": std.RegexFunc,
		"regex_replace": std.RegexReplaceFunc, "regexall": std.RegexAllFunc, "replace": std.ReplaceFunc,
		"reverse": std.ReverseFunc, "sanitize": pathFunction("name", sanitize), "semvercmp": semverFunction(),
		"split": std.SplitFunc, "strlen": std.StrlenFunc, "substr": std.SubstrFunc, "title": std.TitleFunc,
		"trim": std.TrimFunc, "trimprefix": std.TrimPrefixFunc, "trimspace": std.TrimSpaceFunc,
		"trimsuffix": std.TrimSuffixFunc, "upper": std.UpperFunc,
	}
}

func collectionFunctions() map[string]function.Function {
	return map[string]function.Function{
		"chunklist": std.ChunklistFunc, "coalesce": std.CoalesceFunc, "coalescelist": std.CoalesceListFunc,
		"compact": std.CompactFunc, "concat": std.ConcatFunc, "contains": std.ContainsFunc,
		"distinct": std.DistinctFunc, "element": std.ElementFunc, "flatten": std.FlattenFunc,
		"hasindex": std.HasIndexFunc, "index": std.IndexFunc, "indexof": indexOf(), "keys": std.KeysFunc,
		"length": std.LengthFunc, "lookup": std.LookupFunc, "merge": std.MergeFunc, "range": std.RangeFunc,
		"reverselist": std.ReverseListFunc, "sethaselement": std.SetHasElementFunc,
		"setintersection": std.SetIntersectionFunc, "setproduct": boundedProduct(std.SetProductFunc),
		"setsubtract": std.SetSubtractFunc, "setsymmetricdifference": std.SetSymmetricDifferenceFunc,
		"setunion": std.SetUnionFunc, "slice": std.SliceFunc, "sort": std.SortFunc, "values": std.ValuesFunc,
		"zipmap": std.ZipmapFunc,
	}
}

func otherFunctions(opts *Options) map[string]function.Function {
	return map[string]function.Function{
		"base64decode": encoding.Base64DecodeFunc, "base64encode": encoding.Base64EncodeFunc,
		"bcrypt": crypto.BcryptFunc, "can": tryfunc.CanFunc, "cidrhost": cidr.HostFunc,
		"cidrnetmask": cidr.NetmaskFunc, "cidrsubnet": cidr.SubnetFunc, "cidrsubnets": cidr.SubnetsFunc,
		"convert": typeexpr.ConvertFunc, "csvdecode": std.CSVDecodeFunc, "formatdate": std.FormatDateFunc,
		"formattimestamp": formatTimestamp(), "homedir": constant(func() string { return opts.Home }),
		"jsondecode": std.JSONDecodeFunc, "jsonencode": std.JSONEncodeFunc, "md5": crypto.Md5Func,
		"rsadecrypt": crypto.RsaDecryptFunc, "sha1": crypto.Sha1Func, "sha256": crypto.Sha256Func,
		"sha512": crypto.Sha512Func, "timeadd": std.TimeAddFunc,
		"timestamp": constant(func() string { return opts.now().UTC().Format(time.RFC3339) }),
		"try":       tryfunc.TryFunc, "unixtimestampparse": unixTimestampParse(), "urlencode": encoding.URLEncodeFunc,
		"uuidv4": uuid.V4Func, "uuidv5": uuid.V5Func,
	}
}

func (o *Options) now() time.Time {
	if o.Now == nil {
		return time.Unix(0, 0)
	}
	return o.Now()
}

// pathFunction makes a function of a string to a string.
func pathFunction(param string, f func(string) string) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: strings.ReplaceAll(param, " ", "_"), Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.StringVal(f(args[0].AsString())), nil
		},
	})
}

func constant(f func() string) function.Function {
	return function.New(&function.Spec{
		Type: function.StaticReturnType(cty.String),
		Impl: func([]cty.Value, cty.Type) (cty.Value, error) { return cty.StringVal(f()), nil },
	})
}

// sanitize makes a target's name of any text.
func sanitize(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return '_'
	}, s)
}

// indexOf finds a value in a list.
func indexOf() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{
			{Name: "list", Type: cty.DynamicPseudoType}, {Name: "value", Type: cty.DynamicPseudoType},
		},
		Type: function.StaticReturnType(cty.Number),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if t := args[0].Type(); !t.IsListType() && !t.IsTupleType() {
				return cty.NilVal, errors.New("argument must be a list or tuple")
			}
			for it := args[0].ElementIterator(); it.Next(); {
				i, v := it.Element()
				if eq, err := std.Equal(v, args[1]); err != nil {
					return cty.NilVal, err
				} else if eq.IsKnown() && eq.True() {
					return i, nil
				}
			}
			return cty.NilVal, errors.New("item not found")
		},
	})
}

// boundedFormat refuses widths that would fill memory.
func boundedFormat(f function.Function) function.Function {
	return guarded(f, func(args []cty.Value) error {
		if len(args) > 0 && args[0].Type() == cty.String && args[0].IsKnown() && !args[0].IsNull() &&
			regexp.MustCompile(`%[^a-zA-Z%]*[0-9]{5}`).MatchString(args[0].AsString()) {
			return function.NewArgErrorf(0, "a width is too large")
		}
		return nil
	})
}

// boundedProduct refuses products that would fill memory.
func boundedProduct(f function.Function) function.Function {
	return guarded(f, func(args []cty.Value) error {
		n := 1
		for _, a := range args {
			if a.IsKnown() && !a.IsNull() && a.CanIterateElements() {
				if n *= a.LengthInt(); n > maxValue/16 {
					return errors.New("the product is too large")
				}
			}
		}
		return nil
	})
}

// guarded is f, but what check refuses is not computed.
func guarded(f function.Function, check func([]cty.Value) error) function.Function {
	spec := &function.Spec{Params: f.Params(), VarParam: f.VarParam(), Description: f.Description()}
	spec.Type = func(args []cty.Value) (cty.Type, error) {
		if err := check(args); err != nil {
			return cty.NilType, err
		}
		return f.ReturnTypeForValues(args)
	}
	spec.Impl = func(args []cty.Value, _ cty.Type) (cty.Value, error) { return f.Call(args) }
	return function.New(spec)
}

// formatTimestamp formats RFC 3339 text or seconds since 1970; the format X
// gives seconds.
func formatTimestamp() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "format", Type: cty.String}, {Name: "time", Type: cty.DynamicPseudoType}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			var t time.Time
			var err error
			switch args[1].Type() {
			case cty.Number:
				t, err = unixTime(args[1])
			case cty.String:
				if args[0].AsString() != "X" {
					return std.FormatDate(args[0], args[1])
				}
				if t, err = time.Parse(time.RFC3339, args[1].AsString()); err != nil {
					err = errors.New("timestamp string must be RFC3339")
				}
			default:
				err = errors.New("must be a string timestamp or a unix timestamp number")
			}
			switch {
			case err != nil:
				return cty.NilVal, function.NewArgError(1, err)
			case args[0].AsString() == "X":
				return cty.StringVal(strconv.FormatInt(t.Unix(), 10)), nil
			}
			return std.FormatDate(args[0], cty.StringVal(t.Format(time.RFC3339)))
		},
	})
}

func unixTime(v cty.Value) (time.Time, error) {
	sec, acc := v.AsBigFloat().Int64()
	if acc != big.Exact {
		return time.Time{}, errors.New("unix timestamp must be an integer")
	}
	return time.Unix(sec, 0).UTC(), nil
}

// unixTimestampParse takes seconds since 1970 apart.
func unixTimestampParse() function.Function {
	parts := func(t time.Time) map[string]cty.Value {
		year, week := t.ISOWeek()
		m := map[string]cty.Value{
			"month_name": cty.StringVal(t.Month().String()), "weekday_name": cty.StringVal(t.Weekday().String()),
			"rfc3339": cty.StringVal(t.Format(time.RFC3339)),
		}
		for name, n := range map[string]int{
			"year": t.Year(), "year_day": t.YearDay(), "day": t.Day(), "month": int(t.Month()), "weekday": int(t.Weekday()),
			"hour": t.Hour(), "minute": t.Minute(), "second": t.Second(), "iso_year": year, "iso_week": week,
		} {
			m[name] = cty.NumberIntVal(int64(n))
		}
		return m
	}
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "unix_timestamp", Type: cty.Number}},
		Type:   function.StaticReturnType(cty.ObjectVal(parts(time.Time{})).Type()),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			t, err := unixTime(args[0])
			if err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			return cty.ObjectVal(parts(t)), nil
		},
	})
}
