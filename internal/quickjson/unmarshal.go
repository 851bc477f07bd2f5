// SPDX-License-Identifier: Apache-2.0

package quickjson

import (
	"cmp"
	"encoding"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Unmarshal sets the value that v points to, which is empty, as [json.Unmarshal] does, and
// returns its errors. What isn't common in a document, such as a field that is there
// twice, is left to that, and so are long ones, of whose values most are of types that it
// has seen. The types are those of
// [Marshal], and those with fields that hide ones of embedded structs.
func Unmarshal(data []byte, v any) error {
	to := reflect.ValueOf(v).Elem()
	if len(data) <= short && to.IsZero() && json.Valid(data) {
		value := reflect.New(to.Type()).Elem()
		if d := (decoder{data: data, fields: map[reflect.Type][]field{}}); d.value(value) {
			to.Set(value)
			return nil
		}
	}
	return json.Unmarshal(data, v)
}

// short is the length of a document, in bytes, up to which the quick way is quicker.
const short = 32 << 10

// Fields calls field for each field of a valid document that is an object, also for those
// that are there twice, with the value as it is written. It ends with the first error.
func Fields(data []byte, field func(name string, value []byte) error) (err error) {
	d := decoder{data: data}
	d.items('{', '}', func() bool {
		var name string
		if err = json.Unmarshal(d.raw(), &name); err == nil {
			d.next() // the colon
			d.at++
			err = field(name, d.raw())
		}
		return err == nil
	})
	return err
}

// decoder reads a valid document. Its methods say false for what they can't read.
type decoder struct {
	data   []byte
	at     int
	fields map[reflect.Type][]field // of types that it has seen
}

// next is the first byte of what comes next.
func (d *decoder) next() byte {
	for {
		switch c := d.data[d.at]; c {
		case ' ', '\t', '\r', '\n':
			d.at++
		default:
			return c
		}
	}
}

// raw returns the value that comes next, as it is written.
func (d *decoder) raw() []byte {
	d.next()
	begin, depth := d.at, 0
	for ; d.at < len(d.data); d.at++ {
		switch d.data[d.at] {
		case '{', '[':
			depth++
			continue
		case '}', ']':
			if depth--; depth < 0 { // of what the value is in
				return d.data[begin:d.at]
			}
		case '"':
			for d.at++; d.data[d.at] != '"'; d.at++ {
				if d.data[d.at] == '\\' {
					d.at++
				}
			}
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return d.data[begin:d.at]
			}
			continue
		default:
			continue
		}
		if depth == 0 {
			d.at++
			break
		}
	}
	return d.data[begin:d.at]
}

// text returns a string that is written as it is.
func (d *decoder) text() (string, bool) {
	if d.next() != '"' {
		return "", false
	}
	begin := d.at + 1
	for d.at = begin; d.data[d.at] != '"'; d.at++ {
		if c := d.data[d.at]; c == '\\' || c >= utf8.RuneSelf {
			return "", false
		}
	}
	s := string(d.data[begin:d.at])
	d.at++
	return s, true
}

// items calls item for each item of a list or an object, whose first byte comes next.
func (d *decoder) items(first, last byte, item func() bool) bool {
	if d.next() != first {
		return false
	}
	d.at++
	for d.next() != last {
		if !item() {
			return false
		}
		if d.next() == ',' {
			d.at++
		}
	}
	d.at++
	return true
}

// value reads the value that comes next into an empty one.
func (d *decoder) value(v reflect.Value) bool {
	if d.next() == 'n' {
		d.at += len("null")
		return !ownWay(v) // else it hears of it
	}
	if ownWay(v) {
		return d.other(v)
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(v.Elem())
	case reflect.String:
		begin := d.at
		s, ok := d.text()
		if !ok {
			d.at = begin
			return d.other(v)
		}
		v.SetString(s)
		return true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(string(d.raw()), 10, v.Type().Bits())
		if err != nil {
			return false
		}
		v.SetInt(n)
		return true
	case reflect.Bool:
		c := d.raw()[0]
		v.SetBool(c == 't')
		return c == 't' || c == 'f'
	case reflect.Struct:
		return d.object(v)
	case reflect.Slice:
		return d.list(v)
	case reflect.Map:
		return d.dict(v)
	}
	return d.other(v)
}

// ownWay says whether a type has a way of its own to be read.
func ownWay(v reflect.Value) bool {
	if v.Type().PkgPath() == "" {
		return false
	}
	switch v.Addr().Interface().(type) {
	case json.Unmarshaler, encoding.TextUnmarshaler:
		return true
	}
	return false
}

func (d *decoder) other(v reflect.Value) bool {
	return json.Unmarshal(d.raw(), v.Addr().Interface()) == nil
}

func (d *decoder) list(v reflect.Value) bool {
	elem := v.Type().Elem()
	if elem.Kind() == reflect.Uint8 {
		return d.other(v) // base64
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	return d.items('[', ']', func() bool {
		item := reflect.New(elem).Elem()
		ok := d.value(item)
		v.Set(reflect.Append(v, item))
		return ok
	})
}

func (d *decoder) dict(v reflect.Value) bool {
	t := v.Type()
	if t.Key().Kind() != reflect.String || t.Key().PkgPath() != "" {
		return d.other(v)
	}
	v.Set(reflect.MakeMap(t))
	return d.items('{', '}', func() bool {
		key, ok := d.text()
		if !ok || d.next() != ':' {
			return false
		}
		d.at++
		item := reflect.New(t.Elem()).Elem()
		ok = d.value(item)
		v.SetMapIndex(reflect.ValueOf(key), item)
		return ok
	})
}

func (d *decoder) object(v reflect.Value) bool {
	return d.items('{', '}', func() bool {
		key, ok := d.text()
		if !ok || d.next() != ':' {
			return false
		}
		d.at++
		f := d.field(v, key)
		if !f.IsValid() {
			d.raw()
			return true
		}
		return f.IsZero() && d.value(f) // else it is there twice
	})
}

// field is where a struct, or one that is embedded in it, has a value of a name.
type field struct {
	name string
	path []int
}

// field is the first one of a name: of a struct or else of those that are embedded in it.
func (d *decoder) field(v reflect.Value, key string) reflect.Value {
	all, known := d.fields[v.Type()]
	if !known {
		all = fieldsOf(v.Type(), nil)
		d.fields[v.Type()] = all
	}
	for _, same := range []func(a, b string) bool{func(a, b string) bool { return a == b }, strings.EqualFold} {
		for _, f := range all {
			if same(f.name, key) {
				return v.FieldByIndex(f.path)
			}
		}
	}
	return reflect.Value{}
}

func fieldsOf(t reflect.Type, below []int) (own []field) {
	var embedded []field
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		path := append(below[:len(below):len(below)], i)
		switch {
		case tag == "-":
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			embedded = append(embedded, fieldsOf(f.Type, path)...)
		case f.IsExported():
			own = append(own, field{cmp.Or(name, f.Name), path})
		}
	}
	return append(own, embedded...)
}
