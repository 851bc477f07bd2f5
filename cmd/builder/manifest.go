// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"builder/image"
	"builder/progress"
	"builder/registry"
	"builder/store"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"
)

// runManifest makes, shows, changes, sends and removes indexes: images for
// several platforms under one name; and what refers to images.
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
	case "add":
		return m.add(ctx)
	case "annotate":
		return m.annotate()
	case "remove":
		return m.removeEntries()
	case "inspect":
		return m.inspect(ctx)
	case "exists":
		return m.exists()
	case "push":
		return m.push(ctx)
	case "rm":
		return m.remove(ctx)
	case "referrers":
		return m.referrers(ctx)
	case "attach":
		return m.attach(ctx)
	}
	return &usageError{msg: fmt.Sprintf("manifest: there is no %q; there are create, add, annotate, remove, inspect, exists, push, rm, referrers and attach", rest[0]), hint: "builder manifest --help"}
}

// manifestCommand is one of the commands of manifest, with its arguments.
type manifestCommand struct {
	e        *env
	args     []string
	insecure bool // of the registries that are asked
	verify   bool
}

// trustFlags adds the flags about registries, docker's and podman's.
func (m *manifestCommand) trustFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&m.insecure, "insecure", false, "don't check the registry's certificate, and speak http where it has none")
	fs.BoolVar(&m.verify, "tls-verify", true, "check the registry's certificate; false is --insecure")
}

// client is a client for the registry of a name.
func (m *manifestCommand) client(ref image.Ref) (*registry.Client, error) {
	return m.e.registry(allowInsecure(m.insecure || !m.verify, ref))
}

// entryFlags are the flags about an image's entry in a list.
type entryFlags struct {
	platform    image.Platform
	features    []string
	annotations []string
}

func (f *entryFlags) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&f.platform.OS, "os", "", "set the operating `SYSTEM`")
	fs.StringVar(&f.platform.Architecture, "arch", "", "set the `ARCHITECTURE`")
	fs.StringVar(&f.platform.Variant, "variant", "", "set the architecture's `VARIANT`")
	fs.StringVar(&f.platform.OSVersion, "os-version", "", "set the `VERSION` of the operating system")
	fs.StringSliceVar(&f.platform.OSFeatures, "os-features", nil, "set the `FEATURES` of the operating system")
	fs.StringSliceVar(&f.features, "features", nil, "refused: entries have no features but those of the operating system")
	wordsVar(fs, &f.annotations, "annotation", "set `KEY=VALUE` on the image's entry")
}

// edit returns a function that sets what the flags say on an entry.
func (f *entryFlags) edit() (func(*ocispec.Descriptor), error) {
	if len(f.features) > 0 {
		return nil, &usageError{msg: "manifest: --features: the image specification has no such field; there is --os-features"}
	}
	set, err := pairs(f.annotations)
	if err != nil {
		return nil, err
	}
	return func(d *ocispec.Descriptor) {
		have := image.Platform{}
		if d.Platform != nil {
			have = *d.Platform
		}
		for from, to := range map[*string]*string{
			&f.platform.OS: &have.OS, &f.platform.Architecture: &have.Architecture,
			&f.platform.Variant: &have.Variant, &f.platform.OSVersion: &have.OSVersion,
		} {
			if *from != "" {
				*to = *from
			}
		}
		if f.platform.OSFeatures != nil {
			have.OSFeatures = f.platform.OSFeatures
		}
		d.Platform, d.Annotations = &have, merged(d.Annotations, set)
	}, nil
}

func (m manifestCommand) create(ctx context.Context) error {
	fs := flags("manifest")
	amend := fs.BoolP("amend", "a", false, "add to the list, if there is one of the name")
	all := fs.Bool("all", false, "of an image for several platforms, take all of them, not only this machine's")
	annotations := fs.StringArray("annotation", nil, "set `KEY=VALUE` on the list")
	m.trustFlags(fs)
	words, err := m.e.parse(fs, m.args, 1, -1)
	if err != nil {
		return err
	}
	set, err := pairs(*annotations)
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
	list := manifestList{store: s, name: ref.String(), index: newIndex()}
	switch old, err := openList(s, words[0]); {
	case err == nil && !*amend:
		return fmt.Errorf("manifest list %s is there already: --amend adds to it", ref.Familiar())
	case err == nil:
		list = old
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if err := m.addTo(ctx, &list, words[1:], *all, nil); err != nil {
		return err
	}
	list.index.Annotations = merged(list.index.Annotations, set)
	if err := list.write(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(m.e.stdout, "Created manifest list %s\n", ref)
	return err
}

func (m manifestCommand) add(ctx context.Context) error {
	fs := flags("manifest")
	all := fs.Bool("all", false, "of an image for several platforms, add all of them, not only this machine's")
	var entry entryFlags
	entry.addFlags(fs)
	m.trustFlags(fs)
	words, err := m.e.parse(fs, m.args, 2, -1)
	if err != nil {
		return err
	}
	edit, err := entry.edit()
	if err != nil {
		return err
	}
	list, err := m.list(words[0])
	if err != nil {
		return err
	}
	if err := m.addTo(ctx, &list, words[1:], *all, edit); err != nil {
		return err
	}
	return m.written(&list)
}

// addTo adds images to a list, each entry as edit leaves it.
func (m manifestCommand) addTo(ctx context.Context, list *manifestList, words []string, all bool, edit func(*ocispec.Descriptor)) error {
	for _, w := range words {
		found, err := m.images(ctx, list.store, w, all)
		if err != nil {
			return err
		}
		for _, d := range found {
			if edit != nil {
				edit(&d)
			}
			list.put(d)
		}
	}
	return nil
}

// list opens the list of a name.
func (m manifestCommand) list(word string) (manifestList, error) {
	s, err := m.e.store()
	if err != nil {
		return manifestList{}, err
	}
	return openList(s, word)
}

// written stores a list and prints its digest.
func (m manifestCommand) written(list *manifestList) error {
	if err := list.write(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(m.e.stdout, list.desc.Digest)
	return err
}

func (m manifestCommand) annotate() error {
	fs := flags("manifest")
	var flags entryFlags
	flags.addFlags(fs)
	index := fs.Bool("index", false, "set the annotations on the list itself, not on an entry")
	subject := fs.String("subject", "", "with --index, say that the list refers to an `IMAGE`")
	words, err := m.e.parse(fs, m.args, 1, 2)
	if err != nil {
		return err
	}
	if fs.NFlag() == 0 {
		return &usageError{msg: "manifest annotate: say what to set: --os, --arch, --variant, --os-version, --os-features or --annotation"}
	}
	edit, err := flags.edit()
	switch {
	case err != nil:
		return err
	case *subject != "" && !*index:
		return &usageError{msg: "manifest annotate: --subject is the list's own: it needs --index"}
	case !*index && len(words) < 2:
		return &usageError{msg: "manifest annotate: say which image of the list, or --index for the list itself"}
	}
	list, err := m.list(words[0])
	if err != nil {
		return err
	}
	if *index {
		if flags.platform.OS+flags.platform.Architecture+flags.platform.Variant+flags.platform.OSVersion != "" || flags.platform.OSFeatures != nil || len(words) > 1 {
			return &usageError{msg: "manifest annotate: with --index there are only --annotation and --subject, and no image"}
		}
		err = list.annotate(flags.annotations, *subject)
	} else {
		var d *ocispec.Descriptor
		if d, err = list.entry(words[1]); err == nil {
			edit(d)
		}
	}
	if err != nil {
		return err
	}
	return list.write()
}

// annotate sets annotations of the list itself and what it refers to.
func (l *manifestList) annotate(annotations []string, subject string) error {
	set, err := pairs(annotations)
	if err != nil {
		return err
	}
	l.index.Annotations = merged(l.index.Annotations, set)
	if subject == "" {
		return nil
	}
	entry, err := l.store.Resolve(subject)
	if err != nil {
		return err
	}
	if entry.Name == l.name {
		return fmt.Errorf("manifest list %s: it can't refer to itself", familiarName(l.name))
	}
	l.index.Subject = &ocispec.Descriptor{MediaType: entry.Desc.MediaType, Digest: entry.Desc.Digest, Size: entry.Desc.Size}
	return nil
}

// removeEntries takes images out of a list.
func (m manifestCommand) removeEntries() error {
	words, err := m.e.parse(flags("manifest"), m.args, 2, -1)
	if err != nil {
		return err
	}
	list, err := m.list(words[0])
	if err != nil {
		return err
	}
	for _, w := range words[1:] {
		d, err := list.entry(w)
		if err != nil {
			return err
		}
		list.index.Manifests = slices.DeleteFunc(list.index.Manifests, func(have ocispec.Descriptor) bool { return have.Digest == d.Digest })
	}
	return m.written(&list)
}

// exists ends with 1 if there is no list of the name.
func (m manifestCommand) exists() error {
	words, err := m.e.parse(flags("manifest"), m.args, 1, 1)
	if err != nil {
		return err
	}
	s, err := m.e.store()
	if err != nil {
		return err
	}
	entry, err := s.Resolve(words[0])
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && !image.IsIndex(entry.Desc.MediaType):
		return &exitError{exitFailure}
	}
	return err
}

func (m manifestCommand) push(ctx context.Context) error {
	fs := flags("manifest")
	purge := fs.BoolP("purge", "p", false, "remove the list here once it is there")
	fs.BoolVar(purge, "rm", false, "as --purge")
	quiet := fs.BoolP("quiet", "q", false, "show only the digest")
	all := fs.Bool("all", true, "send the images of the list with it")
	digestFile := fs.String("digestfile", "", "write the list's digest to a `FILE`")
	m.trustFlags(fs)
	words, err := m.e.parse(fs, m.args, 1, 2)
	if err != nil {
		return err
	}
	if !*all {
		return &usageError{msg: "manifest push: --all=false: a list is never sent without its images: registries refuse it"}
	}
	list, err := m.list(words[0])
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
	client, err := m.client(ref)
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
	err = client.Push(ctx, list.store, ref, list.desc, sink, vertex)
	if err = done(progress.Done{Err: err, Result: list.desc.Digest}); err != nil {
		return err
	}
	fmt.Fprintln(m.e.stdout, list.desc.Digest)
	if *digestFile != "" {
		if err := os.WriteFile(*digestFile, []byte(list.desc.Digest), 0o644); err != nil {
			return err
		}
	}
	if *purge {
		_, err = list.store.Untag([]string{list.name})
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
			err = removal{e: m.e, s: s}.untag(doomed{id: list.desc.Digest, names: []string{list.name}})
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, collectGarbage(ctx, m.e))...)
}
