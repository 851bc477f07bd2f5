// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"builder/internal/quickjson"
)

// TestRecordsAsJSON writes what is kept of containers in the quick way, and by
// encoding/json, of values of all kinds: it is the same.
func TestRecordsAsJSON(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 28))
	for _, kind := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[State](), reflect.TypeFor[Event](), reflect.TypeFor[exit]()} {
		longest := 0
		for range 300 {
			v := reflect.New(kind)
			fill(rnd, v.Elem(), rnd.IntN(10))
			for _, value := range []any{v.Interface(), v.Elem().Interface()} {
				want, err := json.Marshal(value)
				if err != nil {
					t.Fatal(err)
				}
				got, err := quickjson.Marshal(value)
				if err != nil || string(got) != string(want) {
					t.Fatalf("%v: %v\ngot  %s\nwant %s", kind, err, got, want)
				}
				longest = max(longest, len(got))
			}
		}
		t.Logf("%v: up to %d bytes", kind, longest)
	}
}

// fill gives a value, and most of what is in it, something other than nothing; most is how
// much of ten.
func fill(rnd *rand.Rand, v reflect.Value, most int) {
	if rnd.IntN(10) >= most && v.Kind() != reflect.Struct {
		return
	}
	switch v.Interface().(type) {
	case time.Time:
		if rnd.IntN(2) == 0 {
			v.Set(reflect.ValueOf(time.Unix(rnd.Int64N(1<<32), rnd.Int64N(1e9))))
		}
		return
	case netip.Addr:
		v.Set(reflect.ValueOf([]netip.Addr{{}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1")}[rnd.IntN(3)]))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf([]netip.Prefix{{}, netip.MustParsePrefix("10.0.0.0/8")}[rnd.IntN(2)]))
		return
	case json.RawMessage:
		v.Set(reflect.ValueOf(json.RawMessage(`{ "a": "<b>" }`)))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(rnd.Int64N(100) - 50)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(rnd.Uint64N(200))
	case reflect.String:
		v.SetString([]string{"word", "a \"word\"", "<&>", "ü\x00\n\t\u2028", "bad \xff", `back\slash`}[rnd.IntN(6)])
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(rnd, v.Elem(), most)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), rnd.IntN(3), 3))
		for i := range v.Len() {
			fill(rnd, v.Index(i), most)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(rnd, v.Index(i), most)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range rnd.IntN(4) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(rnd, key, 10)
			fill(rnd, value, most)
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.IsExported() && !strings.HasPrefix(f.Tag.Get("json"), "-") {
				fill(rnd, v.Field(i), most)
			}
		}
	}
}
