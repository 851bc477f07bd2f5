// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"

	"builder/image"
	"builder/store"

	"github.com/opencontainers/go-digest"
)

// imageTree is what tree shows of an image.
type imageTree struct {
	ID     digest.Digest `json:"Id"`
	Tags   []string
	Size   int64
	Layers []treeLayer // the lowest first
}

// treeLayer is a layer, the instruction that made it, and the names of the
// images that end with it.
type treeLayer struct {
	DiffID    digest.Digest
	Digest    digest.Digest
	MediaType string
	Size      int64 // as stored
	CreatedBy string
	Tags      []string
}

func runTree(_ context.Context, e *env, args []string) error {
	fs := flags("tree")
	format := fs.String("format", "", "`json`, or a Go template")
	noTrunc := fs.Bool("no-trunc", false, "don't shorten")
	platform := fs.String("platform", "", platformUsage)
	names, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	_, img, err := imageFor(s, names[0], *platform)
	if err != nil {
		return err
	}
	all, err := listImages(s)
	if err != nil {
		return err
	}
	tree := newImageTree(s, img, all)
	if *format == "" {
		return e.printTree(tree, *noTrunc)
	}
	if *format == "json" {
		*format = "{{json .}}"
	}
	return table{format: *format}.print(e.stdout, []any{tree})
}

// newImageTree finds where the images of the store end on the way to one of
// them.
func newImageTree(s *store.Store, img image.Image, all []listed) imageTree {
	tags := map[digest.Digest][]string{} // by chain ID
	for _, l := range all {
		here := l.image
		if other, err := s.Image(l.entry.Desc, img.Config.Platform); err == nil {
			here = other
		}
		if chain := here.ChainIDs(); len(chain) > 0 && l.entry.Name != "" {
			end := chain[len(chain)-1]
			tags[end] = append(tags[end], l.ref.Familiar())
		}
	}
	tree := imageTree{ID: img.ID(), Size: blobSize(img), Tags: []string{}, Layers: []treeLayer{}}
	for _, l := range all {
		if l.entry.Name != "" && (l.image.ID() == tree.ID || l.entry.Desc.Digest == img.Desc.Digest) {
			tree.Tags = append(tree.Tags, l.ref.Familiar())
		}
	}
	slices.Sort(tree.Tags)
	createdBy := layerInstructions(img)
	for i, chain := range img.ChainIDs() {
		l := img.Manifest.Layers[i]
		here := slices.Sorted(slices.Values(tags[chain]))
		if here == nil {
			here = []string{}
		}
		tree.Layers = append(tree.Layers, treeLayer{
			DiffID: img.Config.RootFS.DiffIDs[i], Digest: l.Digest, MediaType: l.MediaType, Size: l.Size, CreatedBy: createdBy[i], Tags: here,
		})
	}
	return tree
}

// layerInstructions are the instructions that made an image's layers, "" where
// the history doesn't tell.
func layerInstructions(img image.Image) []string {
	out := make([]string, len(img.Manifest.Layers))
	i := 0
	for _, h := range img.Config.History {
		if !h.EmptyLayer && i < len(out) {
			out[i] = h.CreatedBy
			i++
		}
	}
	return out
}

func (e *env) printTree(tree imageTree, noTrunc bool) error {
	tags := nameOr(tree.Tags, none)
	fmt.Fprintf(e.stdout, "Image ID: %s\nTags:     %s\nSize:     %s\nLayers:   %d\n", formatID(tree.ID, noTrunc), tags, humanSize(tree.Size), len(tree.Layers))
	tw := tabwriter.NewWriter(e.stdout, 0, 1, 2, ' ', 0)
	for i, l := range tree.Layers {
		branch := "├──"
		if i == len(tree.Layers)-1 {
			branch = "└──"
		}
		by := oneLine(l.CreatedBy)
		if !noTrunc {
			by = shorten(by, 60)
		}
		fmt.Fprintf(tw, "%s %s\t%s\t%s", branch, formatID(l.DiffID, noTrunc), humanSize(l.Size), nameOr([]string{by}, none))
		if len(l.Tags) > 0 {
			fmt.Fprintf(tw, "\t[%s]", strings.Join(l.Tags, ", "))
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

// nameOr joins words, or is another where there are none.
func nameOr(words []string, other string) string {
	if s := strings.Join(words, ", "); s != "" {
		return s
	}
	return other
}

// oneLine is a text without whatever would move a terminal's cursor.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	return strings.Join(strings.Fields(s), " ")
}
