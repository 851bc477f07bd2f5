// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Entry is a type with attributes: an output, a cache, an attestation or a
// policy. In a definition it is an object, or a string of comma-separated
// KEY=VALUE fields.
type Entry struct {
	Type     string
	Dest     string // of an output
	Disabled bool   // of an attestation
	Attrs    map[string]string
}

func (e Entry) equal(o Entry) bool {
	return e.Type == o.Type && e.Dest == o.Dest && e.Disabled == o.Disabled && maps.Equal(e.Attrs, o.Attrs)
}

func cloneEntries(list []Entry) []Entry {
	out := slices.Clone(list)
	for i := range out {
		out[i].Attrs = maps.Clone(out[i].Attrs)
	}
	return out
}

// MarshalJSON writes the entry as one object.
func (e Entry) MarshalJSON() ([]byte, error) {
	m := map[string]any{}
	for k, v := range e.Attrs {
		m[k] = v
	}
	if e.Type != "" {
		m["type"] = e.Type
	}
	if e.Dest != "" {
		m["dest"] = e.Dest
	}
	if e.Disabled {
		m["disabled"] = true
	}
	return json.Marshal(m)
}

// String is the entry as the flags of a build write it.
func (e Entry) String() string {
	var fields []string
	if e.Type != "" {
		fields = append(fields, "type="+e.Type)
	}
	if e.Dest != "" {
		fields = append(fields, "dest="+e.Dest)
	}
	if e.Disabled {
		fields = append(fields, "disabled=true")
	}
	for _, k := range slices.Sorted(maps.Keys(e.Attrs)) {
		fields = append(fields, k+"="+e.Attrs[k])
	}
	return joinCSV(fields)
}

func joinCSV(fields []string) string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	if err := w.Write(fields); err != nil {
		return "" // a strings.Builder doesn't fail
	}
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

// splitCSV splits one line of comma-separated fields.
func splitCSV(s string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(s))
	r.FieldsPerRecord = -1
	fields, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("%q: %w", s, err)
	}
	return fields, nil
}

// keyValue is a field of a string form. Keys that every form knows are in
// lower case.
type keyValue struct{ key, value string }

func keyValues(s string) ([]keyValue, error) {
	fields, err := splitCSV(s)
	if err != nil {
		return nil, err
	}
	var out []keyValue
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("%q: want KEY=VALUE", f)
		}
		out = append(out, keyValue{strings.ToLower(strings.TrimSpace(k)), v})
	}
	return out, nil
}

// parseOutput reads an output's string: fields, a directory alone, or "-".
func parseOutput(s string) ([]Entry, error) {
	switch {
	case s == "-":
		return []Entry{{Type: "tar", Dest: s}}, nil
	case !strings.ContainsAny(s, ",\"") && !strings.HasPrefix(s, "type="):
		return []Entry{{Type: "local", Dest: s}}, nil
	}
	return parseEntry(s, outputFields)
}

// parseCache reads a cache's string: fields, or references alone.
func parseCache(s string) ([]Entry, error) {
	if strings.Contains(s, "=") {
		return parseEntry(s, typedFields)
	}
	refs, err := splitCSV(s)
	var out []Entry
	for _, ref := range refs {
		out = append(out, Entry{Type: "registry", Attrs: map[string]string{"ref": ref}})
	}
	return out, err
}

func parseAttest(s string) ([]Entry, error) { return parseEntry(s, attestFields) }
func parsePolicy(s string) ([]Entry, error) { return parseEntry(s, policyFields) }

func parseEntry(s string, fields func(*Entry, map[string]string) error) ([]Entry, error) {
	kvs, err := keyValues(s)
	if err != nil {
		return nil, err
	}
	attrs := map[string]string{}
	for _, kv := range kvs {
		attrs[kv.key] = kv.value
	}
	e := Entry{}
	if err := fields(&e, attrs); err != nil {
		return nil, fmt.Errorf("%q: %w", s, err)
	}
	return []Entry{e}, nil
}

func typedFields(e *Entry, attrs map[string]string) error {
	e.Type = attrs["type"]
	delete(attrs, "type")
	e.Attrs = attrs
	if e.Type == "" {
		return errors.New("it has no type")
	}
	return nil
}

func outputFields(e *Entry, attrs map[string]string) error {
	e.Dest = attrs["dest"]
	delete(attrs, "dest")
	return typedFields(e, attrs)
}

func attestFields(e *Entry, attrs map[string]string) error {
	if v, ok := attrs["disabled"]; ok {
		off, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("disabled=%q is neither true nor false", v)
		}
		e.Disabled = off
		delete(attrs, "disabled")
	}
	return typedFields(e, attrs)
}

func policyFields(e *Entry, attrs map[string]string) error {
	for k, v := range attrs {
		switch k {
		case "filename", "log-level":
		case "reset", "disabled", "strict":
			if _, err := strconv.ParseBool(v); err != nil {
				return fmt.Errorf("%s=%q is neither true nor false", k, v)
			}
		default:
			return fmt.Errorf("unknown key %q", k)
		}
	}
	e.Attrs = attrs
	return nil
}

// Secret is a secret of a build: the content of a file or of a variable of the
// environment.
type Secret struct {
	ID   string `json:"id,omitempty"`
	File string `json:"src,omitempty"`
	Env  string `json:"env,omitempty"`
}

// String is the secret as --secret takes it.
func (s Secret) String() string {
	var fields []string
	for _, f := range []keyValue{{"id", s.ID}, {"src", s.File}, {"env", s.Env}} {
		if f.value != "" {
			fields = append(fields, f.key+"="+f.value)
		}
	}
	return joinCSV(fields)
}

func parseSecret(text string) (Secret, error) {
	var s Secret
	kvs, err := keyValues(text)
	if err != nil {
		return s, err
	}
	env := false
	for _, kv := range kvs {
		switch kv.key {
		case "type":
			if kv.value != "file" && kv.value != "env" {
				return s, fmt.Errorf("%q: unknown type %q: want file or env", text, kv.value)
			}
			env = kv.value == "env"
		case "id":
			s.ID = kv.value
		case "src", "source":
			s.File = kv.value
		case "env":
			s.Env = kv.value
		default:
			return s, fmt.Errorf("%q: unknown key %q: want id, src, env or type", text, kv.key)
		}
	}
	if env && s.Env == "" {
		s.Env, s.File = s.File, ""
	}
	return s, nil
}

// SSH is an agent or keys that a build may use.
type SSH struct {
	ID    string   `json:"id,omitempty"`
	Paths []string `json:"paths,omitempty"`
}

// String is the agent as --ssh takes it.
func (s SSH) String() string {
	if len(s.Paths) == 0 {
		return s.ID
	}
	return s.ID + "=" + strings.Join(s.Paths, ",")
}

func parseSSH(text string) SSH {
	id, paths, ok := strings.Cut(text, "=")
	if !ok {
		return SSH{ID: id}
	}
	return SSH{ID: id, Paths: strings.Split(paths, ",")}
}

// Resources are limits for the processes of a build.
type Resources struct {
	Memory     *string `json:"memory,omitempty"`
	MemorySwap *string `json:"memory-swap,omitempty"`
	CPUShares  *int64  `json:"cpu-shares,omitempty"`
	CPUPeriod  *int64  `json:"cpu-period,omitempty"`
	CPUQuota   *int64  `json:"cpu-quota,omitempty"`
	CPUSetCPUs *string `json:"cpuset-cpus,omitempty"`
	CPUSetMems *string `json:"cpuset-mems,omitempty"`
}

// set gives a limit by its name in definitions.
func (r *Resources) set(name, value string) error {
	for key, field := range map[string]**string{
		"memory": &r.Memory, "memory-swap": &r.MemorySwap, "cpuset-cpus": &r.CPUSetCPUs, "cpuset-mems": &r.CPUSetMems,
	} {
		if key == name {
			*field = &value
			return nil
		}
	}
	for key, field := range map[string]**int64{"cpu-shares": &r.CPUShares, "cpu-period": &r.CPUPeriod, "cpu-quota": &r.CPUQuota} {
		if key == name {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return fmt.Errorf("%s: %q is no whole number", name, value)
			}
			*field = &n
			return nil
		}
	}
	return fmt.Errorf("unknown resource %q", name)
}

// over lays r over what is below.
func (r *Resources) over(below *Resources) *Resources {
	if r == nil || below == nil {
		return cmp.Or(r, below)
	}
	return &Resources{
		Memory: cmp.Or(r.Memory, below.Memory), MemorySwap: cmp.Or(r.MemorySwap, below.MemorySwap),
		CPUShares: cmp.Or(r.CPUShares, below.CPUShares), CPUPeriod: cmp.Or(r.CPUPeriod, below.CPUPeriod),
		CPUQuota:   cmp.Or(r.CPUQuota, below.CPUQuota),
		CPUSetCPUs: cmp.Or(r.CPUSetCPUs, below.CPUSetCPUs), CPUSetMems: cmp.Or(r.CPUSetMems, below.CPUSetMems),
	}
}
