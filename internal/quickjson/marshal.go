// SPDX-License-Identifier: Apache-2.0

// Package quickjson writes and reads JSON as encoding/json does, for a program that ends soon.
//
// encoding/json looks at everything that a type can hold before it handles the first value
// of it, and keeps that for the next one. Of a container's record, of which most is empty,
// and which a command writes once, that takes more time than all of the writing.
package quickjson

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Marshal returns what [json.Marshal] does, and its errors. Values of types whose pointers
// alone are a [json.Marshaler] or an [encoding.TextMarshaler], embedded pointers, fields
// that hide those of embedded structs, and the option "string" are not for it.
func Marshal(v any) ([]byte, error) {
	return appendValue(make([]byte, 0, 2048), reflect.ValueOf(v))
}

// appendValue appends a value. What isn't common is left to encoding/json.
func appendValue(b []byte, v reflect.Value) ([]byte, error) {
	if !v.IsValid() {
		return append(b, "null"...), nil
	}
	t := v.Type()
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(b, "null"...), nil
		}
	}
	if t.NumMethod() > 0 && t.Kind() != reflect.Interface {
		switch v.Interface().(type) {
		case json.Marshaler, encoding.TextMarshaler:
			return appendOther(b, v)
		}
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface:
		return appendValue(b, v.Elem())
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case reflect.String:
		return appendString(b, v.String())
	case reflect.Struct:
		return appendStruct(b, v)
	case reflect.Slice, reflect.Array:
		return appendList(b, v)
	case reflect.Map:
		return appendMap(b, v)
	}
	return appendOther(b, v)
}

func appendOther(b []byte, v reflect.Value) ([]byte, error) {
	text, err := json.Marshal(v.Interface())
	return append(b, text...), err
}

func appendString(b []byte, s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return appendOther(b, reflect.ValueOf(s))
		}
	}
	return append(append(append(b, '"'), s...), '"'), nil
}

func appendList(b []byte, v reflect.Value) ([]byte, error) {
	if v.Kind() == reflect.Slice {
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return appendOther(b, v) // base64
		}
	}
	b = append(b, '[')
	for i := range v.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendValue(b, v.Index(i)); err != nil {
			return b, err
		}
	}
	return append(b, ']'), nil
}

func appendMap(b []byte, v reflect.Value) ([]byte, error) {
	if v.IsNil() {
		return append(b, "null"...), nil
	}
	if key := v.Type().Key(); key.Kind() != reflect.String || key.NumMethod() > 0 {
		return appendOther(b, v)
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	b = append(b, '{')
	for i, key := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendString(b, key.String()); err == nil {
			b, err = appendValue(append(b, ':'), v.MapIndex(key))
		}
		if err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

func appendStruct(b []byte, v reflect.Value) ([]byte, error) {
	b, err := appendFields(append(b, '{'), v)
	return append(b, '}'), err
}

// appendFields appends the fields of a struct. Those of embedded structs are its own.
func appendFields(b []byte, v reflect.Value) ([]byte, error) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		tag, tagged := f.Tag.Lookup("json")
		if tag == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		value := v.Field(i)
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct {
			var err error
			if b, err = appendFields(b, value); err != nil {
				return b, err
			}
			continue
		}
		if !f.IsExported() || tagged && options != "" && omitted(value, options) {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), name...), '"', ':')
		var err error
		if b, err = appendValue(b, value); err != nil {
			return b, err
		}
	}
	return b, nil
}

// omitted says whether the options of a field leave a value out.
func omitted(v reflect.Value, options string) bool {
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "omitempty":
			switch v.Kind() {
			case reflect.Struct:
			case reflect.Slice, reflect.Map, reflect.Array, reflect.String:
				if v.Len() == 0 {
					return true
				}
			default:
				if v.IsZero() {
					return true
				}
			}
		case "omitzero":
			if zeroer, ok := v.Interface().(interface{ IsZero() bool }); ok && (v.Kind() != reflect.Pointer || !v.IsNil()) {
				return zeroer.IsZero()
			}
			if v.IsZero() {
				return true
			}
		}
	}
	return false
}
