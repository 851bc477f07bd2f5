// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Compare says how got differs from want, a line for each difference, each
// beginning with the name of what differs: "config.Env: …", "history[3]: …",
// "tree usr/bin/x: …", "layer[1]: …". Nothing is said of the points where
// containers have the machine's own files mounted. Got has to come from
// [Load].
func Compare(got, want *Image) []string {
	c := &comparison{}
	c.value("architecture", got.Architecture, want.Architecture)
	c.value("os", got.OS, want.OS)
	c.value("variant", got.Variant, want.Variant)
	c.value("author", got.Author, want.Author)
	c.value("created", got.Created, want.Created)
	c.value("media", got.Media, want.Media)
	c.value("base", got.Base, want.Base)
	for _, k := range keys(got.Config, want.Config) {
		c.value("config."+k, got.Config[k], want.Config[k])
	}
	for i := range max(len(got.History), len(want.History)) {
		c.value(fmt.Sprintf("history[%d]", i), at(got.History, i), at(want.History, i))
	}
	for _, p := range keys(got.Tree, want.Tree) {
		c.path(p, got, want)
	}
	c.value("removed", got.Removed, want.Removed)
	c.value("layers", len(got.Layers), len(want.Layers))
	for i := range min(len(got.Layers), len(want.Layers)) {
		c.layer(i, got.Layers[i], want.Layers[i])
	}
	c.value("platform", got.Platform, want.Platform)
	for _, k := range keys(got.Annotations, want.Annotations) {
		c.value("annotation "+k, got.Annotations[k], want.Annotations[k])
	}
	c.value("also", len(got.Also), len(want.Also))
	for i := range min(len(got.Also), len(want.Also)) {
		for _, line := range Compare(got.Also[i], want.Also[i]) {
			c.lines = append(c.lines, fmt.Sprintf("also[%d] %s", i, line))
		}
	}
	return c.lines
}

type comparison struct{ lines []string }

func (c *comparison) value(name string, got, want any) {
	g, w := show(got), show(want)
	if g != w {
		c.lines = append(c.lines, fmt.Sprintf("%s:\n   got %s\n  want %s", name, g, w))
	}
}

// path compares what is at a path. A directory for which the other builder
// has the time of the build may have an older one.
func (c *comparison) path(p string, got, want *Image) {
	g, w := got.Tree[p], want.Tree[p]
	if strings.HasPrefix(w, "dir ") && undated(w) == w {
		if g == "" && got.files[p] != nil {
			g = got.files[p].String()
		}
		g = undated(g)
	}
	c.value("tree "+p, g, w)
}

// undated is what [Entry.String] says but for the time.
func undated(entry string) string {
	if i := strings.LastIndexByte(entry, ' '); i >= 0 {
		if _, err := time.Parse(time.RFC3339Nano, entry[i+1:]); err == nil {
			return entry[:i]
		}
	}
	return entry
}

// layer compares the entries of a layer.
func (c *comparison) layer(i int, got, want []string) {
	var diff []string
	for _, e := range got {
		if !slices.Contains(want, e) && !isMountPoint(strings.TrimSuffix(e, "/")) {
			diff = append(diff, "+"+e)
		}
	}
	for _, e := range want {
		if !slices.Contains(got, e) && !isMountPoint(strings.TrimSuffix(e, "/")) {
			diff = append(diff, "-"+e)
		}
	}
	if len(diff) > 0 {
		c.lines = append(c.lines, fmt.Sprintf("layer[%d]: %s", i, strings.Join(diff, " ")))
	}
}

// show is a value as JSON, so that a value that was recorded and one that was
// not look the same.
func show(v any) string {
	if rv := reflect.ValueOf(v); v == nil || (rv.Kind() == reflect.Slice || rv.Kind() == reflect.Map) && rv.Len() == 0 {
		return "nothing"
	}
	if s, ok := v.(string); ok {
		if s == "" {
			return "nothing"
		}
		return s
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func at(h []History, i int) any {
	if i < len(h) {
		return h[i]
	}
	return nil
}

func keys[V any](a, b map[string]V) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}
