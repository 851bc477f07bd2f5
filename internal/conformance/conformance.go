// SPDX-License-Identifier: Apache-2.0

// Package conformance compares built images with recorded ones. A corpus of
// small Dockerfiles lies in testdata/dockerfiles; what another builder made
// of each is recorded beside it. The package reads an OCI archive into a form
// that two builders can agree on, and says how two of those differ. It reads
// archives with the standard library alone, so that it shares no mistake with
// the code that writes them.
package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Image is an image in comparable form: the config without what differs from
// build to build, and the files that are not as in its base image.
type Image struct {
	// Recorded names the builder that made the image.
	Recorded string `json:"recorded,omitempty"`

	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
	Author       string `json:"author,omitempty"`
	// Created is left out when it is the time of the build.
	Created string `json:"created,omitempty"`

	// Config is the image config's "config" without empty fields.
	Config  map[string]any `json:"config"`
	History []History      `json:"history"`

	// Media are the media types of manifest, config and layers, each once.
	Media []string `json:"media"`
	// Base is the corpus's base image that the image begins with, "" if none,
	// and BaseLayers how many layers that is.
	Base       string `json:"base,omitempty"`
	BaseLayers int    `json:"base_layers,omitempty"`
	// Layers are the layers above the base: each one's sorted entries, "dir/",
	// "file", "name = target" for a hard link, ".wh." names for whiteouts.
	Layers [][]string `json:"layers"`

	// Tree has what the layers make of the file system, without what is as
	// in the base, each path with what [Entry.String] says of it.
	Tree map[string]string `json:"tree"`
	// Removed are paths of the base that are gone, without those below.
	Removed []string `json:"removed,omitempty"`

	// Platform is what the image's descriptor in an index says of it, and Also
	// are the further images of the index.
	Platform map[string]any `json:"platform,omitempty"`
	Also     []*Image       `json:"also,omitempty"`
	// Annotations are those of the manifest, of its descriptor and of the
	// index, each as "where: key".
	Annotations map[string]string `json:"annotations,omitempty"`

	// Digest is the manifest's or index's. It is neither recorded nor compared.
	Digest string `json:"-"`

	diffIDs []string
	files   map[string]*Entry
	busybox string // in a base image, what its busybox's content was shown as
}

// History is one entry of an image's history.
type History struct {
	CreatedBy  string `json:"created_by"`
	Created    string `json:"created,omitempty"` // left out when it is the time of the build
	Comment    string `json:"comment,omitempty"`
	Author     string `json:"author,omitempty"`
	EmptyLayer bool   `json:"empty_layer,omitempty"`
}

// buildTime is when corpus and base images end and builds begin: a later time
// stamp tells when the build was, and is not compared.
var buildTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// stamp shows a time stamp, "" if it is that of the build.
func stamp(t time.Time) string {
	if !t.Before(buildTime) {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// mountPoints are where every container has something of the machine mounted.
// Whether an image has them is up to the builder that ran a step there.
var mountPoints = []string{"dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf"}

func isMountPoint(path string) bool { return slices.Contains(mountPoints, path) }

// relateTo finds which of the base images the image begins with and reduces
// Layers, Tree and Removed to what is not from there.
func (img *Image) relateTo(bases []*Image) {
	var base *Image
	for _, b := range bases {
		n := len(b.diffIDs)
		if n <= len(img.diffIDs) && slices.Equal(b.diffIDs, img.diffIDs[:n]) && (base == nil || n > len(base.diffIDs)) {
			base = b
		}
		img.nameBusybox(b.busybox)
	}
	img.Tree = map[string]string{}
	var was map[string]string
	if base != nil {
		img.Base, img.BaseLayers = base.Base, len(base.diffIDs)
		img.Layers = img.Layers[img.BaseLayers:]
		was = describe(base.files)
	}
	for path, is := range describe(img.files) {
		if is != was[path] && !isMountPoint(path) {
			img.Tree[pathName(path)] = is
		}
	}
	for path := range was {
		if img.files[path] == nil && img.isDir(parent(path)) {
			img.Removed = append(img.Removed, path)
		}
	}
	slices.Sort(img.Removed)
}

// hide has the image say a word where it says another.
func (img *Image) hide(what, by string) {
	for i, h := range img.History {
		img.History[i].CreatedBy = strings.ReplaceAll(h.CreatedBy, what, by)
	}
	for p, is := range img.Tree {
		img.Tree[p] = strings.ReplaceAll(is, what, by)
	}
	for _, a := range img.Also {
		a.hide(what, by)
	}
}

// nameBusybox shows the base images' one big file by its name, as it is not
// the same everywhere.
func (img *Image) nameBusybox(content string) {
	for _, e := range img.files {
		if e.Content == content {
			e.Content = "busybox"
		}
	}
}

func (img *Image) isDir(path string) bool {
	return path == "." || img.files[path] != nil && img.files[path].Type == "dir"
}

// Marshal is the image as an indented JSON file, the same bytes for the same
// image.
func (img *Image) Marshal() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(img); err != nil {
		return nil, fmt.Errorf("encode image: %w", err)
	}
	return b.Bytes(), nil
}
