// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Calls is what builder build --call prints for a Dockerfile of
// testdata/checks.
type Calls struct {
	// Recorded names the builder that said it.
	Recorded string `json:"recorded,omitempty"`

	Check   Call  `json:"check"`
	Outline *Call `json:"outline,omitempty"`
	Targets *Call `json:"targets,omitempty"`
}

// Call is one of the calls. Where it failed, and that is not a part of its
// result, there is nothing but the status.
type Call struct {
	Status int    `json:"status"`
	Text   string `json:"text,omitempty"` // not of check, which shows the Dockerfile
	Result any    `json:"result,omitempty"`
}

// CallResult is the JSON that a call prints in comparable form: without the
// text of the Dockerfile, places as "FIRST-LAST", and what is said of one
// place, by one rule, in alphabetical order.
func CallResult(data []byte) (any, error) {
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("decode result of a call: %w", err)
	}
	delete(v, "sources")
	places(v)
	for _, member := range v {
		if list, ok := member.([]any); ok {
			sortAlike(list)
		}
	}
	return v, nil
}

// places replaces every location by its lines.
func places(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			places(e)
		}
	case map[string]any:
		for k, e := range v {
			if k == "location" {
				v[k] = lineRange(e)
			} else {
				places(e)
			}
		}
	}
}

func lineRange(location any) string {
	var l struct {
		Ranges []struct{ Start, End struct{ Line int } }
	}
	data, err := json.Marshal(location)
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	if err != nil {
		return err.Error()
	}
	if len(l.Ranges) == 0 {
		return ""
	}
	return fmt.Sprintf("%d-%d", l.Ranges[0].Start.Line, l.Ranges[len(l.Ranges)-1].End.Line)
}

// sortAlike sorts what stands together and has the same rule and place. What
// is said of base images comes in the order in which they were looked at.
func sortAlike(list []any) {
	key := func(i int) string {
		m, _ := list[i].(map[string]any)
		if m["ruleName"] == "InvalidBaseImagePlatform" {
			return "images"
		}
		return fmt.Sprint(m["ruleName"], m["location"])
	}
	for i := 0; i < len(list); {
		j := i + 1
		for j < len(list) && key(j) == key(i) {
			j++
		}
		slices.SortFunc(list[i:j], func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		i = j
	}
}
