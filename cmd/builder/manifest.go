// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"builder/image"
	"builder/progress"
	"builder/registry"
	"builder/store"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// runManifest makes, shows, changes, sends and removes indexes: images for
// several platforms under one name.
func runManifest(ctx context.Context, e *env, args []string) error {
	fs := flags("manifest")
	fs.SetInterspersed(false)
	rest, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	m := manifestCommand{e: e, args: rest[1:]}
	switch rest[0] {
	case "create":
		return m.create(ctx)
	case "inspect":
		return m.inspect(ctx)
	case "annotate":
		return m.annotate()
	case "push":
		return m.push(ctx)
	case "rm":
		return m.remove(ctx)
	}
	return &usageError{msg: fmt.Sprintf("manifest: there is no %q; there are create, inspect, annotate, push and rm", rest[0]), hint: "builder manifest --help"}
}

// manifestCommand is one of the commands of manifest, with its arguments.
type manifestCommand struct {
	e    *env
	args []string
}

func (m manifestCommand) create(ctx context.Context) error {
	fs := flags("manifest")
	amend := fs.BoolP("amend", "a", false, "add to the list, if there is one of the name")
	all := fs.Bool("all", false, "of an image for several platforms, take all of them, not only this machine's")
	annotations := fs.StringArray("annotation", nil, "set `KEY=VALUE` on the list")
	words, err := m.e.parse(fs, m.args, 2, -1)
	if err != nil {
		return err
	}
	set, err := pairs("--annotation", *annotations)
	if err != nil {
		return err
	}
	s, err := m.e.store()
	if err != nil {
		return err
	}
	ref, err := image.ParseRef(words[0])
	if err == nil && ref.Digest != "" {
		err = fmt.Errorf("%q has a digest, which a list gets from its content", words[0])
	}
	if err != nil {
		return err
	}
	list := manifestList{store: s, name: ref.String(), index: ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
	}}
	switch old, err := openList(s, words[0]); {
	case err == nil && !*amend:
		return fmt.Errorf("manifest list %s is there already: --amend adds to it", ref.Familiar())
	case err == nil:
		list = old
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	for _, w := range words[1:] {
		found, err := m.images(ctx, s, w, *all)
		if err != nil {
			return err
		}
		for _, d := range found {
			list.put(d)
		}
	}
	list.index.Annotations = merged(list.index.Annotations, set)
	if err := list.write(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(m.e.stdout, "Created manifest list %s\n", ref)
	return err
}

// images finds what an image adds to a list, fetching it if it isn't here.
func (m manifestCommand) images(ctx context.Context, s *store.Store, word string, all bool) ([]ocispec.Descriptor, error) {
	root := ocispec.Descriptor{}
	entry, err := s.Resolve(word)
	switch {
	case err == nil:
		root = entry.Desc
	case errors.Is(err, store.ErrNotFound):
		if root, err = m.fetch(ctx, s, word, all); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	if !all || !image.IsIndex(root.MediaType) {
		_, img, err := s.Present(root)
		return []ocispec.Descriptor{described(img)}, err
	}
	idx, err := readIndex(s, root)
	if err != nil {
		return nil, err
	}
	var out []ocispec.Descriptor
	for _, d := range platforms(idx) {
		if image.IsIndex(d.MediaType) {
			return nil, fmt.Errorf("image %s: %w: index %s holds another index", word, image.ErrInvalid, root.Digest)
		}
		_, img, err := s.Present(d)
		if err != nil {
			return nil, fmt.Errorf("image %s: not every platform of it is in the image store: %w", word, err)
		}
		if d.Platform == nil {
			d = described(img)
		}
		out = append(out, d)
	}
	return out, nil
}

// fetch gets an image from its registry, this machine's platform of it or all.
func (m manifestCommand) fetch(ctx context.Context, s *store.Store, word string, all bool) (ocispec.Descriptor, error) {
	ref, err := image.ParseRef(word)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	client, err := m.e.registry()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	vertex := "pull " + ref.Familiar()
	done, sink, err := m.e.vertex("auto", vertex)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	root, err := fetchPlatforms(ctx, s, client, ref, all, sink, vertex)
	return root, done(progress.Done{Err: err, Result: root.Digest})
}

func fetchPlatforms(ctx context.Context, s *store.Store, client *registry.Client, ref image.Ref, all bool, sink progress.Sink, vertex string) (ocispec.Descriptor, error) {
	if !all {
		return client.PullIndex(ctx, s, ref, image.Platform{}, sink, vertex)
	}
	root, data, err := client.Document(ctx, ref)
	if err != nil || !image.IsIndex(root.MediaType) {
		if err == nil {
			root, err = client.PullIndex(ctx, s, ref, image.Platform{}, sink, vertex)
		}
		return root, err
	}
	idx, err := image.ParseIndex(data)
	if err != nil {
		return root, err
	}
	for _, d := range platforms(idx) {
		ref.Digest = d.Digest
		if _, err := client.PullIndex(ctx, s, ref, image.Platform{}, sink, vertex); err != nil {
			return root, err
		}
	}
	return s.PutBlob(root.MediaType, data)
}

// platforms are the images of an index: attestations are none.
func platforms(idx ocispec.Index) []ocispec.Descriptor {
	return slices.DeleteFunc(slices.Clone(idx.Manifests), func(d ocispec.Descriptor) bool {
		return d.Platform != nil && d.Platform.OS == "unknown"
	})
}

// described is the descriptor of an image with its platform.
func described(img image.Image) ocispec.Descriptor {
	platform := img.Config.Platform
	return ocispec.Descriptor{MediaType: img.Desc.MediaType, Digest: img.Desc.Digest, Size: img.Desc.Size, Platform: &platform}
}

func (m manifestCommand) inspect(ctx context.Context) error {
	words, err := m.e.parse(flags("manifest"), m.args, 1, 1)
	if err != nil {
		return err
	}
	s, err := m.e.store()
	if err != nil {
		return err
	}
	var data []byte
	entry, err := s.Resolve(words[0])
	switch {
	case err == nil:
		data, err = s.ReadBlob(entry.Desc, image.MaxManifestSize)
	case errors.Is(err, store.ErrNotFound):
		data, err = m.document(ctx, words[0])
	}
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := json.Indent(&buf, data, "", "    "); err != nil {
		return fmt.Errorf("manifest of %s: %w", words[0], err)
	}
	_, err = fmt.Fprintln(m.e.stdout, buf.String())
	return err
}

func (m manifestCommand) document(ctx context.Context, word string) ([]byte, error) {
	ref, err := image.ParseRef(word)
	if err != nil {
		return nil, err
	}
	client, err := m.e.registry()
	if err != nil {
		return nil, err
	}
	_, data, err := client.Document(ctx, ref)
	return data, err
}

func (m manifestCommand) annotate() error {
	fs := flags("manifest")
	var p image.Platform
	fs.StringVar(&p.OS, "os", "", "set the operating `SYSTEM`")
	fs.StringVar(&p.Architecture, "arch", "", "set the `ARCHITECTURE`")
	fs.StringVar(&p.Variant, "variant", "", "set the architecture's `VARIANT`")
	fs.StringVar(&p.OSVersion, "os-version", "", "set the `VERSION` of the operating system")
	fs.StringSliceVar(&p.OSFeatures, "os-features", nil, "set the `FEATURES` of the operating system")
	annotations := fs.StringArray("annotation", nil, "set `KEY=VALUE` on the image's entry")
	words, err := m.e.parse(fs, m.args, 2, 2)
	if err != nil {
		return err
	}
	set, err := pairs("--annotation", *annotations)
	if err != nil {
		return err
	}
	if fs.NFlag() == 0 {
		return &usageError{msg: "manifest annotate: say what to set: --os, --arch, --variant, --os-version, --os-features or --annotation"}
	}
	s, err := m.e.store()
	if err != nil {
		return err
	}
	list, err := openList(s, words[0])
	if err != nil {
		return err
	}
	d, err := list.entry(words[1])
	if err != nil {
		return err
	}
	have := image.Platform{}
	if d.Platform != nil {
		have = *d.Platform
	}
	for from, to := range map[*string]*string{&p.OS: &have.OS, &p.Architecture: &have.Architecture, &p.Variant: &have.Variant, &p.OSVersion: &have.OSVersion} {
		if *from != "" {
			*to = *from
		}
	}
	if p.OSFeatures != nil {
		have.OSFeatures = p.OSFeatures
	}
	d.Platform, d.Annotations = &have, merged(d.Annotations, set)
	return list.write()
}

func (m manifestCommand) push(ctx context.Context) error {
	fs := flags("manifest")
	purge := fs.BoolP("purge", "p", false, "remove the list here once it is there")
	quiet := fs.BoolP("quiet", "q", false, "show only the digest")
	words, err := m.e.parse(fs, m.args, 1, 2)
	if err != nil {
		return err
	}
	s, err := m.e.store()
	if err != nil {
		return err
	}
	list, err := openList(s, words[0])
	if err != nil {
		return err
	}
	to := list.name
	if len(words) > 1 {
		to = strings.TrimPrefix(words[1], "docker://")
	}
	ref, err := image.ParseRef(to)
	if err != nil {
		return err
	}
	client, err := m.e.registry()
	if err != nil {
		return err
	}
	mode := "auto"
	if *quiet {
		mode = "quiet"
	}
	vertex := "push " + ref.Familiar()
	done, sink, err := m.e.vertex(mode, vertex)
	if err != nil {
		return err
	}
	err = client.Push(ctx, s, ref, list.desc, sink, vertex)
	if err = done(progress.Done{Err: err, Result: list.desc.Digest}); err != nil {
		return err
	}
	fmt.Fprintln(m.e.stdout, list.desc.Digest)
	if *purge {
		_, err = s.Untag([]string{list.name})
	}
	return err
}

func (m manifestCommand) remove(ctx context.Context) error {
	words, err := m.e.parse(flags("manifest"), m.args, 1, -1)
	if err != nil {
		return err
	}
	s, err := m.e.store()
	if err != nil {
		return err
	}
	var errs []error
	for _, w := range words {
		list, err := openList(s, w)
		if err == nil {
			err = removal{e: m.e, s: s}.untag([]string{list.name})
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, collectGarbage(ctx, m.e))...)
}

// manifestList is an index in the store that is being changed.
type manifestList struct {
	store *store.Store
	name  string
	desc  ocispec.Descriptor // of what is there; the zero value: nothing is
	index ocispec.Index
}

// openList reads the index of a name. The error wraps [store.ErrNotFound] if
// there is no image of the name.
func openList(s *store.Store, word string) (manifestList, error) {
	entry, err := s.Resolve(word)
	if err != nil {
		return manifestList{}, err
	}
	if !image.IsIndex(entry.Desc.MediaType) {
		return manifestList{}, fmt.Errorf("%s is an image, not a manifest list", word)
	}
	if entry.Name == "" || !byName(word, entry) {
		return manifestList{}, fmt.Errorf("manifest list %s: it must be given by its name", word)
	}
	idx, err := readIndex(s, entry.Desc)
	return manifestList{store: s, name: entry.Name, desc: entry.Desc, index: idx}, err
}

func readIndex(s *store.Store, desc ocispec.Descriptor) (ocispec.Index, error) {
	data, err := s.ReadBlob(desc, image.MaxManifestSize)
	if err != nil {
		return ocispec.Index{}, err
	}
	return image.ParseIndex(data)
}

// put adds an entry, or replaces that of the same manifest.
func (l *manifestList) put(d ocispec.Descriptor) {
	i := slices.IndexFunc(l.index.Manifests, func(have ocispec.Descriptor) bool { return have.Digest == d.Digest })
	if i < 0 {
		l.index.Manifests = append(l.index.Manifests, d)
		return
	}
	l.index.Manifests[i] = d
}

// entry finds the entry of an image: by its digest, or by what the store knows
// it as.
func (l *manifestList) entry(word string) (*ocispec.Descriptor, error) {
	want, err := digest.Parse(word)
	if err != nil || !slices.ContainsFunc(l.index.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == want }) {
		entry, err := l.store.Resolve(word)
		if err != nil {
			return nil, err
		}
		_, img, err := l.store.Present(entry.Desc)
		if err != nil {
			return nil, err
		}
		want = img.Desc.Digest
	}
	for i := range l.index.Manifests {
		if l.index.Manifests[i].Digest == want {
			return &l.index.Manifests[i], nil
		}
	}
	return nil, fmt.Errorf("manifest list %s has no image %s", familiarName(l.name), word)
}

// write stores the list as it is now, in the place of what it was.
func (l *manifestList) write() error {
	data, err := json.Marshal(l.index)
	if err != nil {
		return err
	}
	if len(data) > image.MaxManifestSize {
		return fmt.Errorf("manifest list %s would have %d bytes, at most %d are allowed", familiarName(l.name), len(data), image.MaxManifestSize)
	}
	desc, err := l.store.PutBlob(l.index.MediaType, data)
	if err != nil {
		return err
	}
	if err := l.store.Tag(desc, l.name); err != nil || l.desc.Digest == "" || l.desc.Digest == desc.Digest {
		return err
	}
	// What it was has no use without its name.
	entries, err := l.store.Entries()
	if err == nil && slices.ContainsFunc(entries, func(e store.Entry) bool { return e.Name == "" && e.Desc.Digest == l.desc.Digest }) {
		_, err = l.store.Untag(nil, l.desc.Digest)
	}
	return err
}

// pairs parses the values of a flag that are KEY=VALUE.
func pairs(flag string, words []string) (map[string]string, error) {
	out := map[string]string{}
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			return nil, &usageError{msg: fmt.Sprintf("manifest: %s %q: want KEY=VALUE", flag, w)}
		}
		out[key] = value
	}
	return out, nil
}

// merged is a map with what another sets; nil if that leaves nothing.
func merged(into, set map[string]string) map[string]string {
	for k, v := range set {
		if into == nil {
			into = map[string]string{}
		}
		into[k] = v
	}
	return into
}
