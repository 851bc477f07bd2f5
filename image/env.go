// SPDX-License-Identifier: Apache-2.0

package image

import (
	"slices"
	"strings"
)

// Env is an ordered list of variables, each once: what an instruction's
// $NAMEs mean, and what a RUN finds in its environment. The zero value is
// empty.
type Env struct {
	list []string // NAME=value
}

// NewEnv returns an Env of NAME=value strings; the last of a name wins.
func NewEnv(vars ...string) *Env {
	e := &Env{}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		e.Set(name, value)
	}
	return e
}

// Set gives a variable a value, in its place if it has one already.
func (e *Env) Set(name, value string) {
	v := name + "=" + value
	if i := e.index(name); i >= 0 {
		e.list[i] = v
		return
	}
	e.list = append(e.list, v)
}

// Unset removes a variable. Where there is none it does nothing.
func (e *Env) Unset(name string) {
	if i := e.index(name); i >= 0 {
		e.list = slices.Delete(e.list, i, i+1)
	}
}

func (e *Env) index(name string) int {
	return slices.IndexFunc(e.list, func(v string) bool {
		return len(v) > len(name) && v[len(name)] == '=' && v[:len(name)] == name
	})
}

// Get returns a variable's value.
func (e *Env) Get(name string) (string, bool) {
	if i := e.index(name); i >= 0 {
		return e.list[i][len(name)+1:], true
	}
	return "", false
}

// Keys returns the names in order.
func (e *Env) Keys() []string {
	names := make([]string, len(e.list))
	for i, v := range e.list {
		names[i], _, _ = strings.Cut(v, "=")
	}
	return names
}

// List returns NAME=value strings in order.
func (e *Env) List() []string { return slices.Clone(e.list) }

// Clone returns an independent copy.
func (e *Env) Clone() *Env { return &Env{slices.Clone(e.list)} }

// ProxyNames are the variables about proxies, in upper case.
var ProxyNames = []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"}
