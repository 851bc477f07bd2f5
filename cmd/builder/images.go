// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/image"
	"builder/store"
	"builder/supervisor"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const none = "<none>"

// listed is a row of the name table with what its image says of itself.
type listed struct {
	entry store.Entry
	ref   image.Ref // zero without a name
	image image.Image
	size  int64 // of its blobs
}

func (l listed) created() time.Time {
	if l.image.Config.Created == nil {
		return time.Time{}
	}
	return *l.image.Config.Created
}

// imageRow is what a --format of images can show. The names are docker's.
type imageRow struct {
	Containers   string
	CreatedAt    string
	CreatedSince string
	Digest       string
	ID           string
	Repository   string
	SharedSize   string
	Size         string
	Tag          string
	UniqueSize   string
	VirtualSize  string
}

var imageHeader = imageRow{
	Containers: "CONTAINERS", CreatedAt: "CREATED AT", CreatedSince: "CREATED", Digest: "DIGEST", ID: "IMAGE ID",
	Repository: "REPOSITORY", SharedSize: "SHARED SIZE", Size: "SIZE", Tag: "TAG", UniqueSize: "UNIQUE SIZE", VirtualSize: "SIZE",
}

func runImages(_ context.Context, e *env, args []string) error {
	fs := flags("images")
	fs.BoolP("all", "a", false, "show all images (there are no hidden ones)")
	digests := fs.Bool("digests", false, "show digests")
	noTrunc := fs.Bool("no-trunc", false, "don't shorten IDs")
	quiet := fs.BoolP("quiet", "q", false, "show only IDs")
	filters := fs.StringArrayP("filter", "f", nil, "show what matches `NAME=VALUE`: reference, dangling, label, before, since, until")
	format := fs.String("format", "", "`table`, json, or a Go template")
	rest, err := e.parse(fs, args, 0, 1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	images, err := listImages(s)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		*filters = append(*filters, "reference="+rest[0])
	}
	keep, err := parseFilters(s, *filters)
	if err != nil {
		return err
	}
	images = slices.DeleteFunc(images, func(l listed) bool { return !keep(l) })
	if *quiet && *format == "" {
		printIDs(e, images, *noTrunc)
		return nil
	}
	t := table{format: first(*format, e.dockerConfig().ImagesFormat), header: imageHeader, columns: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"}
	if *digests {
		t.columns = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
	}
	if *quiet {
		t.format = "{{.ID}}"
	}
	var rows []any
	for _, l := range images {
		rows = append(rows, l.row(*noTrunc))
	}
	return t.print(e.stdout, rows)
}

// listImages returns the name table, newest images first. An image that can't
// be read is listed as far as it is known.
func listImages(s *store.Store) ([]listed, error) {
	entries, err := s.Entries()
	if err != nil {
		return nil, err
	}
	var all []listed
	for _, e := range entries {
		l := listed{entry: e}
		l.ref, _ = image.ParseRef(e.Name)
		if img, err := localImage(s, e.Desc); err == nil {
			l.image, l.size = img, blobSize(img)
		}
		all = append(all, l)
	}
	slices.SortStableFunc(all, func(a, b listed) int { return b.created().Compare(a.created()) })
	return all, nil
}

// localImage is the image of a descriptor for this machine or, of an index
// that has none here, for whichever platform is here.
func localImage(s *store.Store, desc ocispec.Descriptor) (image.Image, error) {
	img, err := s.Image(desc, image.HostPlatform())
	if err == nil {
		return img, nil
	}
	for _, other := range localImages(s, desc) {
		return other, nil
	}
	return img, err
}

// localIDs are the IDs of the images of a descriptor that are here.
func localIDs(s *store.Store, desc ocispec.Descriptor) (ids []string) {
	for _, img := range localImages(s, desc) {
		ids = append(ids, img.ID().String())
	}
	if img, err := localImage(s, desc); err == nil && !slices.Contains(ids, img.ID().String()) {
		ids = append(ids, img.ID().String())
	}
	return ids
}

// localImages are the images of an index that are here, for whichever platforms.
func localImages(s *store.Store, desc ocispec.Descriptor) (out []image.Image) {
	if !image.IsIndex(desc.MediaType) {
		return nil
	}
	data, err := s.ReadBlob(desc, image.MaxManifestSize)
	if err != nil {
		return nil
	}
	idx, err := image.ParseIndex(data)
	if err != nil {
		return nil
	}
	for _, m := range idx.Manifests {
		if m.Platform == nil || m.Platform.OS == "unknown" {
			continue
		}
		if img, err := s.Image(m, image.HostPlatform()); err == nil {
			out = append(out, img)
		}
	}
	return out
}

// platformUsage is the help of --platform for commands that look at one image.
const platformUsage = "of an image for several platforms, the one for `OS/ARCH[/VARIANT]`"

// imageFor finds an image of the store by name and platform. Without a platform
// it is that of [localImage].
func imageFor(s *store.Store, name, platform string) (store.Entry, image.Image, error) {
	var want image.Platform
	var err error
	if platform != "" {
		if want, err = image.ParsePlatform(platform); err != nil {
			return store.Entry{}, image.Image{}, &usageError{msg: "--platform: " + err.Error()}
		}
	}
	entry, err := s.Resolve(name)
	if err != nil {
		return entry, image.Image{}, err
	}
	if platform == "" {
		img, err := localImage(s, entry.Desc)
		return entry, img, err
	}
	img, err := s.Image(entry.Desc, want)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("image %s for %s is not in the image store: pull it with --platform: %w", name, image.FormatPlatform(want), err)
	}
	if err == nil {
		err = checkPlatform(name, img, want)
	}
	return entry, img, err
}

// noteImage notes what was done to an image: of these names, or by its ID alone.
func noteImage(s *store.Store, action string, desc ocispec.Descriptor, names ...string) {
	img, err := localImage(s, desc)
	if err != nil {
		noteImageID(s, action, desc.Digest, nil, names...)
		return
	}
	noteImageRead(s, action, img, names...)
}

// noteImageRead is noteImage for an image that has been read.
func noteImageRead(s *store.Store, action string, img image.Image, names ...string) {
	noteImageID(s, action, img.ID(), img.Config.Config.Labels, names...)
}

func noteImageID(s *store.Store, action string, id digest.Digest, labels map[string]string, names ...string) {
	if len(names) == 0 {
		names = []string{id.String()}
	}
	var events []supervisor.Event
	for _, name := range names {
		attributes := map[string]string{}
		maps.Copy(attributes, labels)
		attributes["name"] = familiarName(name)
		events = append(events, supervisor.Event{Type: supervisor.ImageEvent, Action: action, ID: id.String(), Attributes: attributes})
	}
	supervisor.NewRecords(s).Note(events...)
}

// platformError says that an image is for another platform than wanted.
type platformError struct {
	name      string
	has, want image.Platform
}

func (p *platformError) Error() string {
	return fmt.Sprintf("image %s is for %s, not for %s", p.name, image.FormatPlatform(p.has), image.FormatPlatform(p.want))
}

// checkPlatform is a [platformError] unless the image has programs for a platform.
func checkPlatform(name string, img image.Image, want image.Platform) error {
	if image.Match([]ocispec.Descriptor{{Platform: &img.Config.Platform}}, want) < 0 {
		return &platformError{name, img.Config.Platform, want}
	}
	return nil
}

// blobSize is what an image takes in the store: each of its blobs once.
func blobSize(img image.Image) int64 {
	size := img.Desc.Size + img.Manifest.Config.Size
	seen := map[digest.Digest]bool{}
	for _, l := range img.Manifest.Layers {
		if !seen[l.Digest] {
			seen[l.Digest] = true
			size += l.Size
		}
	}
	return size
}

func (l listed) row(noTrunc bool) imageRow {
	r := imageRow{
		Containers: "N/A", SharedSize: "N/A", UniqueSize: "N/A",
		Repository: none, Tag: none, Digest: l.entry.Desc.Digest.String(), CreatedSince: "N/A", CreatedAt: "N/A",
		ID: l.id(noTrunc), Size: humanSize(l.size), VirtualSize: humanSize(l.size),
	}
	if l.ref.Repository != "" {
		r.Repository = l.ref.FamiliarName()
	}
	if l.ref.Tag != "" {
		r.Tag = l.ref.Tag
	}
	if t := l.created(); !t.IsZero() {
		r.CreatedSince, r.CreatedAt = since(t), t.Local().Truncate(time.Second).String()
	}
	return r
}

// id is the image's ID, or the manifest's digest where its config can't be
// read.
func (l listed) id(noTrunc bool) string {
	d := l.image.ID()
	if d == "" {
		d = l.entry.Desc.Digest
	}
	return formatID(d, noTrunc)
}

func formatID(d digest.Digest, noTrunc bool) string {
	if noTrunc {
		return d.String()
	}
	return truncate(d.Encoded(), 12)
}

func printIDs(e *env, images []listed, noTrunc bool) {
	seen := map[string]bool{}
	for _, l := range images {
		if id := l.id(noTrunc); !seen[id] {
			seen[id] = true
			fmt.Fprintln(e.stdout, id)
		}
	}
}

// humanSize is a size in docker's units: powers of 1000, three digits.
func humanSize(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

func since(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" }

// parseFilters makes one test of --filter words. Values of the same name are
// alternatives, except for labels, which must all be there.
func parseFilters(s *store.Store, words []string) (func(listed) bool, error) {
	groups := map[string][]func(listed) bool{}
	for i, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return nil, &usageError{msg: fmt.Sprintf("images: --filter %q: want NAME=VALUE", w)}
		}
		f, err := parseFilter(s, name, value)
		if err != nil {
			return nil, err
		}
		if name == "label" {
			name += strconv.Itoa(i)
		}
		groups[name] = append(groups[name], f)
	}
	return func(l listed) bool {
		for _, group := range groups {
			if !slices.ContainsFunc(group, func(f func(listed) bool) bool { return f(l) }) {
				return false
			}
		}
		return true
	}, nil
}

func parseFilter(s *store.Store, name, value string) (func(listed) bool, error) {
	bad := func(why string) error {
		return &usageError{msg: fmt.Sprintf("images: --filter %s=%s: %s", name, value, why)}
	}
	switch name {
	case "reference":
		if _, err := path.Match(value, ""); err != nil {
			return nil, bad(err.Error())
		}
		return func(l listed) bool { return matchReference(value, l.ref) }, nil
	case "dangling":
		want, err := strconv.ParseBool(value)
		if err != nil {
			return nil, bad("want true or false")
		}
		return func(l listed) bool { return (l.entry.Name == "") == want }, nil
	case "label":
		key, want, exact := strings.Cut(value, "=")
		return func(l listed) bool {
			got, ok := l.image.Config.Config.Labels[key]
			return ok && (!exact || got == want)
		}, nil
	case "until":
		t, err := parseTime(value)
		if err != nil {
			return nil, bad("want a time such as 2006-01-02T15:04:05 or a duration such as 24h")
		}
		return func(l listed) bool { return !l.created().IsZero() && l.created().Before(t) }, nil
	case "before", "since":
		entry, err := s.Resolve(value)
		if err != nil {
			return nil, err
		}
		img, err := localImage(s, entry.Desc)
		if err != nil {
			return nil, err
		}
		if img.Config.Created == nil {
			return nil, errors.New(bad("the image doesn't say when it was created").Error())
		}
		if name == "before" {
			return func(l listed) bool { return l.created().Before(*img.Config.Created) }, nil
		}
		return func(l listed) bool { return l.created().After(*img.Config.Created) }, nil
	}
	return nil, bad("there is no such filter; there are reference, dangling, label, before, since and until")
}

func parseTime(s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && s != "0" { // that is 1970
		return time.Now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	// Seconds, and docker's nanoseconds behind a dot.
	text, rest, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	nsec, err := strconv.ParseUint((rest + "000000000")[:9], 10, 32)
	return time.Unix(sec, int64(nsec)), err
}

// matchReference matches a pattern with the repository, or with repository and
// tag, as people write them.
func matchReference(pattern string, ref image.Ref) bool {
	if ref.Repository == "" {
		return false
	}
	for _, s := range []string{ref.Familiar(), ref.FamiliarName(), ref.String(), ref.Name()} {
		if ok, err := path.Match(pattern, s); err == nil && ok {
			return true
		}
	}
	return false
}

// byName reports whether a word is the name of a row, rather than the ID or
// digest of its image.
func byName(word string, e store.Entry) bool {
	ref, err := image.ParseRef(word)
	return err == nil && ref.String() == e.Name
}

func familiar(names []string) string {
	out := ""
	for i, n := range names {
		if i > 0 {
			out += ", "
		}
		out += familiarName(n)
	}
	return out
}

func familiarName(name string) string {
	ref, err := image.ParseRef(name)
	if err != nil {
		return name
	}
	return ref.Familiar()
}
