// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"go.yaml.in/yaml/v4"
)

// service is what a compose file says of the build of a service.
type service struct {
	name  string
	place Place
	image string
	build *Target // nil for none
	bake  *Target // the extension x-bake

	ulimits map[string]string
	secrets []string
	env     map[string]*string
	envFile []envFile

	dropped, buildDropped []string // fields that take back what is below
}

type envFile struct {
	path     string
	optional bool
}

// composeSecret is a secret of a compose file. An external one is known to the
// engine alone.
type composeSecret struct {
	Secret
	external bool
}

// composer reads compose files.
type composer struct {
	opts    *Options
	dotenv  map[string]string
	secrets map[string]composeSecret
	budget  int
}

// addCompose makes targets of the services of compose files that are built,
// and of all of them the group "default".
func (c *Config) addCompose(files []File, opts *Options) error {
	r := &composer{opts: opts, secrets: map[string]composeSecret{}, budget: maxNodes}
	if err := r.readDotenv(); err != nil {
		return err
	}
	var services []*service
	for _, f := range files {
		more, err := r.file(f, "")
		if err != nil {
			return err
		}
		for _, s := range more {
			if s, err = r.extend(s, f, more, nil); err != nil {
				return err
			}
			i := slices.IndexFunc(services, func(o *service) bool { return o.name == s.name })
			if i < 0 {
				services = append(services, s.service)
				continue
			}
			services[i] = services[i].merge(s.service)
		}
	}
	group := &Group{Name: "default"}
	for _, s := range services {
		if s.build == nil {
			continue
		}
		t, err := r.target(s)
		if err != nil {
			return err
		}
		if old := c.target(t.Name); old != nil {
			old.merge(t)
		} else {
			c.Targets = append(c.Targets, t)
		}
		group.Targets = append(group.Targets, t.Name)
	}
	c.Groups = append(c.Groups, group)
	return nil
}

// lookup gives a variable of compose files: what --var sets, the environment,
// .env.
func (r *composer) lookup(name string) (string, bool) {
	if v, ok := r.opts.lookup(name); ok {
		return v, true
	}
	if v, ok := r.dotenv[name]; ok {
		return v, true
	}
	if name == "COMPOSE_PROJECT_NAME" {
		return "bake", true
	}
	return "", false
}

func (r *composer) readDotenv() error {
	if r.opts.ReadFile == nil {
		return nil
	}
	data, err := r.opts.ReadFile(".env")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read .env: %w", err)
	}
	r.dotenv, err = parseDotenv(File{Name: ".env", Data: data}, r.opts.lookup)
	return err
}

// declared is a service with what its file says it extends.
type declared struct {
	*service
	base     string // "" for none
	baseFile string
	node     *yaml.Node
	file     *yamlFile
}

// file reads the services of a file. Paths in it are below dir.
func (r *composer) file(f File, dir string) ([]declared, error) {
	y := &yamlFile{File: f, lookup: r.lookup, budget: &r.budget}
	docs, err := y.documents()
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 {
		return nil, &Error{File: f, Err: errors.New("the compose file is empty")}
	}
	var out []declared
	for _, doc := range docs {
		pairs, err := y.mapping(doc, "the file")
		if err != nil {
			return nil, err
		}
		for _, p := range pairs {
			switch p.key {
			case "include":
				return nil, y.errorf(p.node, "include is not supported: give the included files with -f")
			case "secrets":
				if err := r.readSecrets(y, p.value, dir); err != nil {
					return nil, err
				}
			case "services":
				services, err := y.mapping(p.value, "services")
				if err != nil {
					return nil, err
				}
				for _, sp := range services {
					d, err := r.service(y, sp, dir)
					if err != nil {
						return nil, err
					}
					out = append(out, d)
				}
			}
		}
	}
	return out, nil
}

func (r *composer) readSecrets(y *yamlFile, n *yaml.Node, dir string) error {
	pairs, err := y.mapping(n, "secrets")
	if err != nil {
		return err
	}
	for _, p := range pairs {
		s, external := Secret{ID: p.key}, false
		fields, err := y.mapping(p.value, "secrets."+p.key)
		if err != nil {
			return err
		}
		for _, f := range fields {
			what := "secrets." + p.key + "." + f.key
			switch f.key {
			case "file", "environment":
				w, err := y.word(f.value, what)
				if err != nil {
					return err
				}
				if w != nil && f.key == "file" {
					s.File = rebase(dir, *w)
				} else if w != nil {
					s.Env = *w
				}
			case "external":
				if b, err := y.truth(f.value, what); err == nil && (b == nil || !*b) {
					continue
				}
				external = true
			}
		}
		r.secrets[p.key] = composeSecret{s, external}
	}
	return nil
}

func (r *composer) service(y *yamlFile, p pair, dir string) (declared, error) {
	d := declared{service: &service{name: p.key, place: y.place(p.node)}, node: p.node, file: y}
	what := "service " + p.key
	fields, dropped, err := y.fields(p.value, what)
	if err != nil {
		return d, err
	}
	d.dropped = dropped
	for _, f := range fields {
		var err error
		name := what + ": " + f.key
		switch f.key {
		case "image":
			var w *string
			if w, err = y.word(f.value, name); w != nil {
				d.image = *w
			}
		case "build":
			if !isNull(f.value) {
				err = r.build(y, f.value, d.service, dir)
			}
		case "environment":
			d.env, err = y.values(f.value, name)
		case "env_file":
			d.envFile, err = envFiles(y, f.value, name, dir)
		case "extends":
			err = d.readExtends(y, f.value, name, dir)
		}
		if err != nil {
			return d, err
		}
	}
	return d, nil
}

func (d *declared) readExtends(y *yamlFile, n *yaml.Node, what, dir string) error {
	if n.Kind == yaml.ScalarNode {
		w, err := y.word(n, what)
		if w != nil {
			d.base = *w
		}
		return err
	}
	fields, err := y.mapping(n, what)
	if err != nil {
		return err
	}
	for _, f := range fields {
		w, err := y.word(f.value, what+"."+f.key)
		if err != nil || w == nil {
			return err
		}
		switch f.key {
		case "service":
			d.base = *w
		case "file":
			d.baseFile = rebase(dir, *w)
		default:
			return y.errorf(f.node, "%s: unknown key %q: want service and file", what, f.key)
		}
	}
	if d.base == "" {
		return y.errorf(n, "%s: it names no service", what)
	}
	return nil
}

func envFiles(y *yamlFile, n *yaml.Node, what, dir string) ([]envFile, error) {
	if n.Kind == yaml.ScalarNode {
		w, err := y.word(n, what)
		if err != nil || w == nil {
			return nil, err
		}
		return []envFile{{path: rebase(dir, *w)}}, nil
	}
	list, err := y.sequence(n, what)
	if err != nil {
		return nil, err
	}
	var out []envFile
	for _, el := range list {
		var e envFile
		if el.Kind == yaml.ScalarNode {
			w, err := y.word(el, what)
			if err != nil {
				return nil, err
			}
			if w != nil {
				out = append(out, envFile{path: rebase(dir, *w)})
			}
			continue
		}
		fields, err := y.mapping(el, what)
		if err != nil {
			return nil, err
		}
		for _, f := range fields {
			switch f.key {
			case "path":
				w, err := y.word(f.value, what)
				if err != nil {
					return nil, err
				}
				if w != nil {
					e.path = rebase(dir, *w)
				}
			case "required":
				b, err := y.truth(f.value, what)
				if err != nil {
					return nil, err
				}
				e.optional = b != nil && !*b
			default:
				return nil, y.errorf(f.node, "%s: %s is not supported", what, f.key)
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// extend lays a service over those that it extends. way names what is being
// extended.
func (r *composer) extend(d declared, f File, among []declared, way []string) (declared, error) {
	if d.base == "" {
		return d, nil
	}
	id := f.Name + "\x00" + d.name
	if slices.Contains(way, id) {
		return d, d.file.errorf(d.node, "service %s extends itself", d.name)
	}
	if d.baseFile != "" {
		data, err := r.opts.readFile(d.baseFile)
		if err != nil {
			return d, d.file.errorf(d.node, "service %s extends %s: %w", d.name, d.base, err)
		}
		f = File{Name: d.baseFile, Data: data}
		if err := bounded(f); err != nil {
			return d, err
		}
		own := maps.Clone(r.secrets)
		among, err = r.file(f, filepath.Dir(d.baseFile))
		r.secrets = own // the other file's are not taken over
		if err != nil {
			return d, err
		}
	}
	i := slices.IndexFunc(among, func(o declared) bool { return o.name == d.base })
	if i < 0 {
		return d, d.file.errorf(d.node, "service %s extends %s, which %s doesn't define", d.name, d.base, f.Name)
	}
	base, err := r.extend(among[i], f, among, append(way, id))
	if err != nil {
		return d, err
	}
	merged := base.merge(d.service)
	merged.name, merged.place = d.name, d.place
	return declared{service: merged, node: d.node, file: d.file}, nil
}

// merge lays over over s, as compose merges files: lists grow.
func (s *service) merge(over *service) *service {
	s = s.without(over)
	out := *s
	out.dropped, out.buildDropped = slices.Concat(s.dropped, over.dropped), slices.Concat(s.buildDropped, over.buildDropped)
	out.image = cmp.Or(over.image, s.image)
	out.env = mergeMaps(s.env, over.env)
	out.envFile = slices.Concat(s.envFile, over.envFile)
	out.ulimits = mergeMaps(s.ulimits, over.ulimits)
	out.secrets = unique(slices.Concat(s.secrets, over.secrets))
	out.build, out.bake = mergeBuilds(s.build, over.build), mergeBuilds(s.bake, over.bake)
	return &out
}

// without is s less what over takes back.
func (s *service) without(over *service) *service {
	out := *s
	for _, field := range over.dropped {
		switch field {
		case "image":
			out.image = ""
		case "build":
			out.build, out.bake, out.ulimits, out.secrets = nil, nil, nil, nil
		case "environment":
			out.env = nil
		case "env_file":
			out.envFile = nil
		}
	}
	if out.build == nil || len(over.buildDropped) == 0 {
		return &out
	}
	t := *out.build
	out.build = &t
	for _, field := range over.buildDropped {
		switch field {
		case "secrets":
			out.secrets = nil
		case "ulimits":
			out.ulimits = nil
		case "x-bake":
			out.bake = nil
		default:
			t.drop(bakeName(field))
		}
	}
	return &out
}

func mergeBuilds(under, over *Target) *Target {
	if under == nil || over == nil {
		return cmp.Or(over, under)
	}
	tags, platforms := slices.Concat(under.Tags, over.Tags), slices.Concat(under.Platforms, over.Platforms)
	cacheTo, outputs := slices.Concat(under.CacheTo, over.CacheTo), slices.Concat(under.Outputs, over.Outputs)
	args := mergeMaps(under.Args, over.Args) // nil is a value here: that of the environment
	out := &Target{}
	out.merge(under)
	out.merge(over)
	out.Tags, out.Platforms, out.CacheTo, out.Outputs, out.Args = unique(tags), unique(platforms), cacheTo, outputs, args
	return out
}

// target makes the target that a service's build is.
func (r *composer) target(s *service) (*Target, error) {
	t := &Target{}
	t.merge(s.build)
	t.Name = targetName(s.name)
	t.Args = s.build.Args
	fail := func(err error) error {
		return &Error{File: s.place.File, Start: s.place.Line, End: s.place.Line, Err: fmt.Errorf("service %s: %w", s.name, err)}
	}
	if err := checkTargetName(t.Name); err != nil {
		return nil, fail(err)
	}
	if err := r.fillArgs(t, s); err != nil {
		return nil, fail(err)
	}
	for _, id := range s.secrets {
		secret, ok := r.secrets[id]
		if !ok {
			return nil, fail(fmt.Errorf("secret %q is not defined: declare it under secrets", id))
		}
		if secret.external {
			return nil, fail(fmt.Errorf("secret %q is external: a build can't have it", id))
		}
		t.Secrets = append(t.Secrets, secret.Secret)
	}
	for _, name := range slices.Sorted(maps.Keys(s.ulimits)) {
		t.Ulimits = append(t.Ulimits, name+"="+s.ulimits[name])
	}
	if b := s.bake; b != nil {
		tags, platforms := unique(slices.Concat(t.Tags, b.Tags)), unique(slices.Concat(t.Platforms, b.Platforms))
		cacheTo, outputs := slices.Concat(t.CacheTo, b.CacheTo), slices.Concat(t.Outputs, b.Outputs)
		contexts := mergeMaps(b.Contexts, t.Contexts)
		t.merge(b)
		t.Tags, t.Platforms, t.CacheTo, t.Outputs, t.Contexts = tags, platforms, cacheTo, outputs, contexts
	}
	slices.SortFunc(t.SSH, func(a, b SSH) int { return cmp.Compare(a.ID, b.ID) })
	if len(t.Tags) == 0 && s.image != "" {
		t.Tags = []string{s.image}
	}
	return t, nil
}

// fillArgs gives build arguments without a value that of the service's
// environment, or of the user's; else they are left out.
func (r *composer) fillArgs(t *Target, s *service) error {
	env := map[string]string{}
	for _, f := range s.envFile {
		data, err := r.opts.readFile(f.path)
		if errors.Is(err, fs.ErrNotExist) && f.optional {
			continue
		}
		if err != nil {
			return fmt.Errorf("env_file: %w", err)
		}
		more, err := parseDotenv(File{Name: f.path, Data: data}, r.lookup)
		if err != nil {
			return err
		}
		maps.Copy(env, more)
	}
	for k, v := range s.env {
		if v != nil {
			env[k] = *v
		} else if found, ok := r.lookup(k); ok {
			env[k] = found
		}
	}
	args := map[string]*string{}
	for k, v := range t.Args {
		if v == nil {
			found, ok := env[k]
			if !ok {
				found, ok = r.lookup(k)
			}
			if !ok {
				continue
			}
			v = &found
		}
		args[k] = v
	}
	t.Args = args
	return nil
}

// rebase puts a path that a file below dir names below dir too. Addresses stay
// as they are.
func rebase(dir, p string) string {
	if p == "" || strings.Contains(p, "://") || IsRemote(p) || filepath.IsAbs(p) {
		return p
	}
	for _, prefix := range []string{"service:", "target:", "docker-image:", "~"} {
		if strings.HasPrefix(p, prefix) {
			return p
		}
	}
	return filepath.Join(dir, p)
}

// IsRemote reports whether a context is fetched: by HTTP or from Git.
func IsRemote(s string) bool {
	for _, scheme := range []string{"http://", "https://", "git://", "ssh://", "git@", "github.com/"} {
		if strings.HasPrefix(s, scheme) {
			return true
		}
	}
	return false
}

// shmSize reads a size as compose has it and writes it as bake has it.
func shmSize(s string) (string, error) {
	n, err := units.RAMInBytes(s)
	if err != nil {
		return "", err
	}
	return units.BytesSize(float64(n)), nil
}

// compoundUlimit reads a limit: a number, or soft and hard.
func compoundUlimit(y *yamlFile, n *yaml.Node, what string) (string, error) {
	number := func(n *yaml.Node) (string, error) {
		w, err := y.word(n, what)
		if err != nil {
			return "", err
		}
		if w == nil {
			return "", y.errorf(n, "%s: want a number", what)
		}
		if _, err := strconv.ParseInt(*w, 10, 64); err != nil {
			return "", y.errorf(n, "%s: %q is no number", what, *w)
		}
		return *w, nil
	}
	if n.Kind == yaml.ScalarNode {
		v, err := number(n)
		return v + ":" + v, err
	}
	fields, err := y.mapping(n, what)
	if err != nil {
		return "", err
	}
	limits := map[string]string{}
	for _, f := range fields {
		if f.key != "soft" && f.key != "hard" {
			return "", y.errorf(f.node, "%s: unknown key %q: want soft and hard", what, f.key)
		}
		if limits[f.key], err = number(f.value); err != nil {
			return "", err
		}
	}
	if len(limits) != 2 {
		return "", y.errorf(n, "%s: want soft and hard", what)
	}
	return limits["soft"] + ":" + limits["hard"], nil
}
