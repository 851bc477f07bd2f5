// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"net/url"
	"path/filepath"
	"slices"

	"builder/dockerfile"
	"builder/progress"
)

// The part of SARIF 2.1.0 (OASIS, Static Analysis Results Interchange Format)
// that findings need.

const sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool        sarifTool         `json:"tool"`
	Invocations []sarifInvocation `json:"invocations"`
	Artifacts   []sarifArtifact   `json:"artifacts"`
	Results     []sarifResult     `json:"results"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name    string      `json:"name"`
	Version string      `json:"version,omitempty"`
	Rules   []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID               string       `json:"id"`
	Name             string       `json:"name"`
	ShortDescription sarifText    `json:"shortDescription"`
	HelpURI          string       `json:"helpUri,omitempty"`
	Default          sarifDefault `json:"defaultConfiguration"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifDefault struct {
	Enabled bool   `json:"enabled"`
	Level   string `json:"level"`
}

type sarifInvocation struct {
	Successful    bool                `json:"executionSuccessful"`
	Notifications []sarifNotification `json:"toolExecutionNotifications,omitempty"`
}

type sarifNotification struct {
	Level     string          `json:"level"`
	Message   sarifText       `json:"message"`
	Locations []sarifLocation `json:"locations,omitempty"`
}

type sarifArtifact struct {
	Location sarifURI `json:"location"`
}

type sarifURI struct {
	URI string `json:"uri"`
}

type sarifResult struct {
	RuleID    string          `json:"ruleId"`
	RuleIndex int             `json:"ruleIndex"`
	Level     string          `json:"level"`
	Message   sarifText       `json:"message"`
	Locations []sarifLocation `json:"locations,omitempty"`
}

type sarifLocation struct {
	Physical sarifPhysical `json:"physicalLocation"`
}

type sarifPhysical struct {
	Artifact sarifURI     `json:"artifactLocation"`
	Region   *sarifRegion `json:"region,omitempty"`
}

type sarifRegion struct {
	StartLine int `json:"startLine"`
	EndLine   int `json:"endLine"`
}

// buildErrorRule is what an error of the Dockerfile is called among the rules.
const buildErrorRule = "BuildError"

// newSARIF is what a check came to as a SARIF log. An error is a result too,
// so that it is shown where results are, and a notification.
func newSARIF(got checked) sarifLog {
	rules := append(dockerfile.Rules(), dockerfile.Rule{Name: buildErrorRule, Description: "The Dockerfile can't be built"})
	driver := sarifDriver{Name: "builder", Version: version().Version}
	for _, r := range rules {
		level := "warning"
		if r.Name == buildErrorRule {
			level = "error"
		}
		driver.Rules = append(driver.Rules, sarifRule{r.Name, r.Name, sarifText{r.Description}, r.URL, sarifDefault{!r.Experimental, level}})
	}
	file := sarifURI{fileURI(got.name)}
	run := sarifRun{Tool: sarifTool{driver}, Artifacts: []sarifArtifact{{file}}, Results: []sarifResult{}}
	add := func(f progress.Finding, level string) []sarifLocation {
		locations := []sarifLocation{{sarifPhysical{Artifact: file}}}
		if f.Start > 0 {
			locations[0].Physical.Region = &sarifRegion{f.Start, max(f.Start, f.End)}
		}
		i := slices.IndexFunc(rules, func(r dockerfile.Rule) bool { return r.Name == f.Rule })
		run.Results = append(run.Results, sarifResult{f.Rule, i, level, sarifText{f.Message}, locations})
		return locations
	}
	for _, f := range got.findings {
		add(f, "warning")
	}
	done := sarifInvocation{Successful: got.err == nil}
	if got.err != nil {
		start, end, message := got.place()
		locations := add(progress.Finding{Rule: buildErrorRule, Message: message, Start: start, End: end}, "error")
		done.Notifications = []sarifNotification{{"error", sarifText{message}, locations}}
	}
	run.Invocations = []sarifInvocation{done}
	return sarifLog{sarifSchema, "2.1.0", []sarifRun{run}}
}

// fileURI is a path as a URI: relative to where the command was run, or a file
// URI.
func fileURI(name string) string {
	u := url.URL{Path: filepath.ToSlash(name)}
	if filepath.IsAbs(name) {
		u.Scheme = "file"
	}
	return u.String()
}
