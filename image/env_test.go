// SPDX-License-Identifier: Apache-2.0

package image

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEnv(t *testing.T) {
	e := NewEnv("A=1", "B=x=y", "A=2")
	e.Set("C", "")
	if d := cmp.Diff([]string{"A=2", "B=x=y", "C="}, e.List()); d != "" {
		t.Error(d)
	}
	if v, ok := e.Get("B"); v != "x=y" || !ok {
		t.Errorf("B is %q, %t", v, ok)
	}
	if v, ok := e.Get("C"); v != "" || !ok {
		t.Errorf("C is %q, %t", v, ok)
	}
	if _, ok := e.Get("D"); ok {
		t.Error("D is set")
	}
	c := e.Clone()
	c.Set("A", "3")
	if v, _ := e.Get("A"); v != "2" {
		t.Error("a clone shares its values")
	}
}
