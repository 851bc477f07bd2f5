// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"builder/image"
)

// maxConfigFile is the most bytes that a configuration file may have.
const maxConfigFile = 4 << 20

// ConfigFiles are the files that say of registries which servers to ask, in
// the order in which they count: the first kind that has mirrors, or another
// place, for a name decides; that a registry is insecure or blocked counts
// whoever says it. Files that aren't there say nothing.
type ConfigFiles struct {
	Builder    []string // config.toml, the user's before the machine's
	Containers []string // registries.conf, those of registries.conf.d, and podman's aliases (containers-registries.conf(5))
	Containerd []string // directories with HOST/hosts.toml (containerd's docs/hosts.md)
	Docker     string   // daemon.json
}

// FindConfigFiles returns where the files are on this machine. getenv is
// os.Getenv; BUILDER_CONFIG names one in place of builder's own.
func FindConfigFiles(getenv func(string) string) ConfigFiles {
	c := ConfigFiles{
		Containers: []string{"/etc/containers/registries.conf"},
		Containerd: []string{"/etc/containerd/certs.d"},
		Docker:     "/etc/docker/daemon.json",
	}
	home := getenv("HOME")
	dirs := []string{"/etc/containers/registries.conf.d"}
	if home != "" {
		user := filepath.Join(home, ".config", "containers")
		if _, err := os.Stat(filepath.Join(user, "registries.conf")); err == nil {
			c.Containers = []string{filepath.Join(user, "registries.conf")}
		}
		dirs = append(dirs, filepath.Join(user, "registries.conf.d"))
		c.Builder = append(c.Builder, filepath.Join(home, ".config", "builder", "config.toml"))
	}
	for _, dir := range dirs {
		more, err := filepath.Glob(filepath.Join(dir, "*.conf"))
		if err == nil {
			c.Containers = append(c.Containers, more...)
		}
	}
	if home != "" { // what podman was told when it asked
		c.Containers = append(c.Containers, filepath.Join(home, ".cache", "containers", "short-name-aliases.conf"))
	}
	c.Builder = append(c.Builder, "/etc/builder/config.toml")
	if name := getenv("BUILDER_CONFIG"); name != "" {
		c.Builder = []string{name}
	}
	return c
}

// Place is where in a file something is said.
type Place struct {
	File string
	Line int // 0 if it isn't known
}

func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// rule is what a file says of the names that begin with something.
type rule struct {
	prefix   string // HOST[/PATH], or *.DOMAIN
	mirrors  []endpoint
	origin   *endpoint // in place of the registry; nil: the registry itself
	blocked  bool
	insecure bool
	from     Place
}

// says reports whether the rule decides which servers are asked.
func (r *rule) says() bool { return len(r.mirrors) > 0 || r.origin != nil }

// matches reports whether a rule is about a name, HOST/PATH.
func (r *rule) matches(name string) bool {
	if domain, ok := strings.CutPrefix(r.prefix, "*."); ok {
		host, _, _ := strings.Cut(name, "/")
		return strings.HasSuffix(hostOnly(host), "."+domain)
	}
	return name == r.prefix || strings.HasPrefix(name, r.prefix+"/")
}

// best returns the rule with the longest prefix that is about a name.
func best(rules []*rule, name string) (found *rule) {
	for _, r := range rules {
		if r.matches(name) && (found == nil || len(r.prefix) > len(found.prefix)) {
			found = r
		}
	}
	return found
}

// hostConfig is what the files say.
type hostConfig struct {
	builder, containers, docker []*rule
	insecure                    []string // of daemon.json
	containerd                  []string // directories

	shortNames bool // config.toml says that the following counts
	aliases    map[string]alias
	search     []alias // registries for names without one, in this order
}

// alias is a value of registries.conf about names without a registry.
type alias struct {
	name string // HOST/PATH, or HOST
	from Place
}

func loadConfig(files ConfigFiles) (*hostConfig, error) {
	c := &hostConfig{containerd: files.Containerd, aliases: map[string]alias{}}
	for _, name := range files.Builder {
		if err := c.readBuilderConfig(name); err != nil {
			return nil, err
		}
	}
	for _, name := range files.Containers {
		if err := c.readRegistriesConf(name); err != nil {
			return nil, err
		}
	}
	return c, c.readDaemonConfig(files.Docker)
}

// readConfig reads a file of at most maxConfigFile bytes; nil if it isn't there.
func readConfig(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if name == "" || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && os.Getuid() != 0 {
		return nil, nil
	}
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxConfigFile) {
		err = fmt.Errorf("%s is no file of at most %d bytes", name, maxConfigFile)
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration of registries: %w", err)
	}
	return data, nil
}

// lineOf is the line of the nth time, from 0, that a text begins a line.
func lineOf(data []byte, text string, nth int) int {
	for i, line := range bytes.Split(data, []byte("\n")) {
		if bytes.HasPrefix(bytes.TrimSpace(line), []byte(text)) {
			if nth == 0 {
				return i + 1
			}
			nth--
		}
	}
	return 0
}

// lineWith is the first line that has a text.
func lineWith(data []byte, text string) int {
	before, _, ok := bytes.Cut(data, []byte(text))
	if !ok {
		return 0
	}
	return 1 + bytes.Count(before, []byte("\n"))
}

// decode reads TOML. strict makes an unknown key an error.
func decode(name string, data []byte, into any, strict bool) (toml.MetaData, error) {
	md, err := toml.Decode(string(data), into)
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return md, fmt.Errorf("%s:%d: %s", name, parse.Position.Line, parse.Message)
	}
	if err != nil {
		return md, fmt.Errorf("%s: %w", name, err)
	}
	if unknown := md.Undecoded(); strict && len(unknown) > 0 {
		key := unknown[0]
		return md, fmt.Errorf("%s: unknown key %s", Place{name, lineWith(data, key[len(key)-1])}, key)
	}
	return md, nil
}

// readBuilderConfig reads builder's own file.
func (c *hostConfig) readBuilderConfig(name string) error {
	data, err := readConfig(name)
	if err != nil || data == nil {
		return err
	}
	var file struct {
		ShortNames bool `toml:"short-names"`
		Registry   map[string]struct {
			Mirrors  []string
			Insecure bool
			Blocked  bool
			CA       string
		}
	}
	if _, err := decode(name, data, &file, true); err != nil {
		return err
	}
	c.shortNames = c.shortNames || file.ShortNames
	for prefix, r := range file.Registry {
		from := Place{name, lineWith(data, prefix)}
		out := &rule{prefix: prefix, insecure: r.Insecure, blocked: r.Blocked, from: from}
		for _, m := range r.Mirrors {
			e, err := parseMirror(m)
			if err != nil {
				return fmt.Errorf("%s: %w", from, err)
			}
			e.from = Place{name, lineWith(data, m)}
			out.mirrors = append(out.mirrors, e)
		}
		if r.CA != "" {
			host, _, _ := strings.Cut(prefix, "/")
			out.origin = &endpoint{host: apiHost(host), cas: []string{r.CA}, origin: true, from: from}
		}
		c.builder = append(c.builder, out)
	}
	return nil
}

// apiHost is the host of a registry's API.
func apiHost(registry string) string {
	if registry == image.DefaultRegistry {
		return hubHost
	}
	return registry
}

// readRegistriesConf reads a file of containers' form, version 2. A rule takes
// the place of an earlier one of the same prefix.
func (c *hostConfig) readRegistriesConf(name string) error {
	data, err := readConfig(name)
	if err != nil || data == nil {
		return err
	}
	type place struct {
		Location string
		Insecure bool
		Pull     string `toml:"pull-from-mirror"`
	}
	var file struct {
		Registry []struct {
			place
			Prefix     string
			Blocked    bool
			Mirror     []place
			DigestOnly bool `toml:"mirror-by-digest-only"`
		}
		Registries map[string]any // version 1
		Search     []string       `toml:"unqualified-search-registries"`
		Aliases    map[string]string
	}
	if _, err := decode(name, data, &file, false); err != nil {
		return err
	}
	if file.Registries != nil {
		return fmt.Errorf("%s: it has version 1 of the format, which nothing reads any more: write [[registry]] tables", Place{name, lineWith(data, "[registries")})
	}
	if err := c.readShortNames(name, data, file.Search, file.Aliases); err != nil {
		return err
	}
	mirror := 0
	for i, r := range file.Registry {
		from := Place{name, lineOf(data, "[[registry]]", i)}
		out := &rule{prefix: r.Prefix, blocked: r.Blocked, insecure: r.Insecure, from: from}
		if out.prefix == "" {
			out.prefix = r.Location
		}
		if out.prefix == "" {
			return fmt.Errorf("%s: the registry has neither prefix nor location", from)
		}
		if strings.Contains(strings.TrimPrefix(out.prefix, "*."), "*") {
			return fmt.Errorf("%s: prefix %q: a * can only stand for the beginning of a host, as in *.example.com", from, out.prefix)
		}
		if r.Location != "" && r.Location != out.prefix {
			e := location(r.Location, r.Insecure, from)
			e.origin = true
			out.origin = &e
		}
		for _, m := range r.Mirror {
			e := location(m.Location, m.Insecure, Place{name, lineOf(data, "[[registry.mirror]]", mirror)})
			mirror++
			switch m.Pull {
			case "", "all":
				e.digestOnly = r.DigestOnly
			case "digest-only":
				e.digestOnly = true
			case "tag-only":
				e.tagOnly = true
			default:
				return fmt.Errorf("%s: pull-from-mirror %q: want all, digest-only or tag-only", e.from, m.Pull)
			}
			if m.Location == "" {
				return fmt.Errorf("%s: the mirror has no location", e.from)
			}
			out.mirrors = append(out.mirrors, e)
		}
		c.containers = slices.DeleteFunc(c.containers, func(old *rule) bool { return old.prefix == out.prefix })
		c.containers = append(c.containers, out)
	}
	return nil
}

// readShortNames reads what a file says of names without a registry. A later
// file's list of registries takes the place of an earlier one's, and an empty
// alias undoes one.
func (c *hostConfig) readShortNames(name string, data []byte, search []string, aliases map[string]string) error {
	if !c.shortNames {
		return nil
	}
	for short, full := range aliases {
		from := Place{name, lineWith(data, `"`+full+`"`)}
		ref, err := image.ParseRef(full)
		switch {
		case full == "":
			delete(c.aliases, short)
			continue
		case err != nil:
			return fmt.Errorf("%s: alias %q: %w", from, short, err)
		case !strings.Contains(full, "/") || strings.TrimPrefix(full, ref.Registry+"/") == full || strings.ContainsAny(strings.TrimPrefix(full, ref.Registry), ":@"):
			return fmt.Errorf("%s: alias %q: %q is no name with a registry and without a tag", from, short, full)
		}
		c.aliases[short] = alias{ref.Name(), from}
	}
	if search != nil {
		c.search = nil
	}
	for _, registry := range search {
		from := Place{name, lineWith(data, "unqualified-search-registries")}
		if _, err := image.ParseRef(registry + "/x"); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		c.search = append(c.search, alias{registry, from})
	}
	return nil
}

// meant returns the names that a name without a registry means, of which the
// first that is there counts; nil for one that means itself. A reference
// doesn't tell whether docker.io was written out.
func (c *hostConfig) meant(ref image.Ref) []alias {
	if ref.Registry != image.DefaultRegistry {
		return nil
	}
	short := strings.TrimPrefix(ref.FamiliarName(), image.DefaultRegistry+"/")
	if a, ok := c.aliases[short]; ok {
		return []alias{a}
	}
	var names []alias
	for _, a := range c.search {
		names = append(names, alias{a.name + "/" + short, a.from})
	}
	return names
}

// location is HOST[/PATH], where PATH stands in the place of the rule's prefix.
func location(s string, insecure bool, from Place) endpoint {
	host, path, _ := strings.Cut(strings.Trim(s, "/"), "/")
	return endpoint{host: apiHost(host), prefix: path, replaces: true, insecure: insecure, from: from}
}

// readDaemonConfig reads docker's daemon.json.
func (c *hostConfig) readDaemonConfig(name string) error {
	data, err := readConfig(name)
	if err != nil || data == nil {
		return err
	}
	var file struct {
		Mirrors  []string `json:"registry-mirrors"`
		Insecure []string `json:"insecure-registries"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return fmt.Errorf("read docker's configuration %s: %w", name, placed(data, err))
	}
	c.insecure = file.Insecure
	if len(file.Mirrors) == 0 {
		return nil
	}
	r := &rule{prefix: image.DefaultRegistry, from: Place{name, lineWith(data, "registry-mirrors")}}
	for _, m := range file.Mirrors {
		e, err := parseMirror(m)
		if err != nil {
			return fmt.Errorf("%s: %w", Place{name, lineWith(data, m)}, err)
		}
		e.from = Place{name, lineWith(data, m)}
		r.mirrors = append(r.mirrors, e)
	}
	c.docker = []*rule{r}
	return nil
}

// hostsFile is a hosts.toml of containerd.
type hostsFile struct {
	Server string
	hostFields
	Host map[string]hostFields
}

type hostFields struct {
	Capabilities []string
	CA           any
	Client       any
	SkipVerify   bool `toml:"skip_verify"`
	OverridePath bool `toml:"override_path"`
	Header       map[string]any
	DialTimeout  string `toml:"dial_timeout"`
}

// readHosts reads what containerd's directories say of a registry, or of all.
func (c *hostConfig) readHosts(registry string) (*rule, error) {
	for _, dir := range c.containerd {
		for _, sub := range []string{registry, strings.ReplaceAll(registry, ":", "_") + "_", "_default"} {
			if !filepath.IsLocal(sub) {
				continue
			}
			name := filepath.Join(dir, sub, "hosts.toml")
			data, err := readConfig(name)
			if err != nil {
				return nil, err
			}
			if data != nil {
				return readHostsFile(name, data, registry)
			}
		}
	}
	return nil, nil
}

func readHostsFile(name string, data []byte, registry string) (*rule, error) {
	var file hostsFile
	md, err := decode(name, data, &file, false)
	if err != nil {
		return nil, err
	}
	r := &rule{prefix: registry, from: Place{File: name}}
	origin := endpoint{host: apiHost(registry), origin: true, from: Place{File: name}}
	if file.Server != "" {
		e, err := parseHost(file.Server, file.hostFields, name, Place{name, lineWith(data, "server")})
		if err != nil {
			return nil, err
		}
		origin = e
		origin.origin = true
	} else if err := origin.set(file.hostFields, filepath.Dir(name)); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r.origin = &origin
	for _, key := range md.Keys() {
		if len(key) != 2 || key[0] != "host" {
			continue
		}
		from := Place{name, lineWith(data, key[1])}
		fields := file.Host[key[1]]
		e, err := parseHost(key[1], fields, name, from)
		if err != nil {
			return nil, err
		}
		if len(fields.Capabilities) > 0 {
			if !slices.Contains(fields.Capabilities, "pull") {
				continue
			}
			e.digestOnly = !slices.Contains(fields.Capabilities, "resolve")
		}
		r.mirrors = append(r.mirrors, e)
	}
	return r, nil
}

// parseHost reads a server of a hosts.toml.
func parseHost(address string, fields hostFields, name string, from Place) (endpoint, error) {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return endpoint{}, fmt.Errorf("%s: %q is not a host or an http(s) URL", from, address)
	}
	e := endpoint{host: u.Host, plain: u.Scheme == "http", from: from}
	path := strings.Trim(u.Path, "/")
	switch {
	case path == "" || path == "v2":
	case fields.OverridePath && strings.HasPrefix(path, "v2/"):
		e.prefix = strings.TrimPrefix(path, "v2/")
	case fields.OverridePath || strings.HasSuffix(path, "/v2"):
		e.api = "/" + path
	default:
		e.api = "/" + path + "/v2"
	}
	if err := e.set(fields, filepath.Dir(name)); err != nil {
		return e, fmt.Errorf("%s: %w", from, err)
	}
	return e, nil
}

// set takes over what a hosts.toml says of a server. Paths are relative to the
// file's directory.
func (e *endpoint) set(fields hostFields, dir string) error {
	abs := func(name string) string {
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(dir, name)
	}
	e.insecure = fields.SkipVerify
	words, err := wordsOf("ca", fields.CA)
	if err != nil {
		return err
	}
	for _, name := range words {
		e.cas = append(e.cas, abs(name))
	}
	switch client := fields.Client.(type) {
	case nil:
	case []any:
		for _, pair := range client {
			names, err := wordsOf("client", pair)
			if err != nil || len(names) == 0 || len(names) > 2 {
				return fmt.Errorf("client: want a file, or pairs of certificate and key: %v", pair)
			}
			e.certs = append(e.certs, [2]string{abs(names[0]), abs(names[len(names)-1])})
		}
	default:
		names, err := wordsOf("client", client)
		if err != nil {
			return err
		}
		e.certs = append(e.certs, [2]string{abs(names[0]), abs(names[0])})
	}
	for key, value := range fields.Header {
		values, err := wordsOf("header "+key, value)
		if err != nil {
			return err
		}
		if e.header == nil {
			e.header = http.Header{}
		}
		for _, v := range values {
			e.header.Add(key, v)
		}
	}
	return nil
}

// wordsOf reads a string or a list of them.
func wordsOf(key string, v any) (words []string, err error) {
	switch v := v.(type) {
	case nil:
	case string:
		words = []string{v}
	case []any:
		for _, w := range v {
			s, ok := w.(string)
			if !ok {
				return nil, fmt.Errorf("%s: %v is no string", key, w)
			}
			words = append(words, s)
		}
	default:
		return nil, fmt.Errorf("%s: %v is no string", key, v)
	}
	return words, nil
}
