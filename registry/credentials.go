// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"builder/image"
	"builder/internal/atomicfile"
	"builder/internal/userfiles"
)

// Credential is what a registry is to be told. The zero value is nobody in
// particular.
type Credential struct {
	User, Password string
	// IdentityToken is a refresh token of OAuth2, in place of a password.
	IdentityToken string
}

// Limits on files and helpers.
const (
	maxAuthFile   = 4 << 20
	maxHelper     = 64 << 10 // bytes that a credential helper may say
	helperTimeout = 30 * time.Second
)

// hubKey is docker's key for docker.io.
const hubKey = "https://index.docker.io/v1/"

// tokenUser is the user name under which helpers keep identity tokens.
const tokenUser = "<token>"

// AuthFiles are the files that have credentials, in the order in which they are
// asked: the one that REGISTRY_AUTH_FILE names, alone, or else docker's config
// file and those of podman. getenv is os.Getenv.
func AuthFiles(getenv func(string) string) []string {
	if name := getenv("REGISTRY_AUTH_FILE"); name != "" {
		return []string{name}
	}
	var files []string
	home := getenv("HOME")
	if name := userfiles.DockerConfig(getenv); name != "" {
		files = append(files, name)
	}
	run := getenv("XDG_RUNTIME_DIR")
	if run == "" {
		run = fmt.Sprintf("/run/containers/%d", os.Getuid())
	} else {
		run = filepath.Join(run, "containers")
	}
	files = append(files, filepath.Join(run, "auth.json"))
	if home != "" {
		files = append(files, filepath.Join(home, ".config", "containers", "auth.json"))
	}
	return files
}

// AuthFile is a file of credentials in docker's form, which is podman's too
// (docker/cli's config.json, containers-auth.json(5)).
type AuthFile struct {
	Name string

	doc     map[string]json.RawMessage // all of it
	auths   map[string]json.RawMessage
	helpers map[string]string
	store   string
	mode    fs.FileMode
	timeout time.Duration // of a helper
}

// ReadAuthFile reads a file. One that isn't there, or is empty, is one without
// credentials.
func ReadAuthFile(name string) (*AuthFile, error) {
	f := &AuthFile{Name: name, timeout: helperTimeout, doc: map[string]json.RawMessage{}, auths: map[string]json.RawMessage{}}
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("read credentials: %w", err)
	}
	f.mode = info.Mode()
	if !f.mode.IsRegular() || info.Size() > maxAuthFile {
		return f, fmt.Errorf("read credentials: %s is no file of at most %d bytes", name, maxAuthFile)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return f, fmt.Errorf("read credentials: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return f, nil
	}
	fail := func(what string, err error) (*AuthFile, error) {
		return &AuthFile{Name: name}, fmt.Errorf("read credentials: %s: %s%w", name, what, err)
	}
	if err := json.Unmarshal(data, &f.doc); err != nil {
		return fail("", placed(data, err))
	}
	for key, into := range map[string]any{"auths": &f.auths, "credHelpers": &f.helpers, "credsStore": &f.store} {
		if raw, ok := f.doc[key]; ok {
			if err := json.Unmarshal(raw, into); err != nil {
				return fail(key+": ", err)
			}
		}
	}
	if f.doc == nil { // "null"
		f.doc = map[string]json.RawMessage{}
	}
	if f.auths == nil {
		f.auths = map[string]json.RawMessage{}
	}
	return f, nil
}

// placed says in which line a JSON document is wrong.
func placed(data []byte, err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) && syntax.Offset <= int64(len(data)) {
		return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:syntax.Offset], []byte("\n")), err)
	}
	return err
}

// keys are those under which a repository's credentials may be, the closest
// first. An empty repository means the registry.
func authKeys(registry, repository string) (keys []string) {
	for path := repository; path != ""; {
		keys = append(keys, registry+"/"+path)
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			break
		}
		path = path[:i]
	}
	return append(keys, registry)
}

// hostOf is the registry that a key without a repository is about, as docker
// reads keys: with a scheme, or a path of the API after it.
func hostOf(key string) string {
	host, isURL := strings.CutPrefix(strings.TrimPrefix(key, "http://"), "https://")
	isURL = isURL || strings.HasPrefix(key, "http://")
	name, path, _ := strings.Cut(host, "/")
	if path = strings.Trim(path, "/"); !isURL && path != "" && path != "v1" && path != "v2" {
		return "" // a repository's
	}
	switch name {
	case "index.docker.io", hubHost:
		return image.DefaultRegistry
	}
	return name
}

// find returns the entry for a repository in a map by keys.
func find[V any](entries map[string]V, registry, repository string) (v V, ok bool) {
	for _, key := range authKeys(registry, repository) {
		if v, ok := entries[key]; ok {
			return v, true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		if hostOf(key) == registry {
			return entries[key], true
		}
	}
	return v, false
}

// helperKey is what helpers call a registry.
func helperKey(registry string) string {
	if registry == image.DefaultRegistry {
		return hubKey
	}
	return registry
}

// Get returns the credential that the file, or the helper that it names, has
// for a repository; ok is false if there is none.
func (f *AuthFile) Get(ctx context.Context, registry, repository string) (c Credential, ok bool, err error) {
	helper, own := find(f.helpers, registry, repository)
	if !own {
		helper = f.store
	}
	if helper != "" {
		c, ok, err = f.helperGet(ctx, helper, helperKey(registry))
		if err != nil || ok || own {
			return c, ok, err
		}
	}
	raw, ok := find(f.auths, registry, repository)
	if !ok {
		return c, false, nil
	}
	c, err = parseAuth(raw)
	if err != nil {
		return c, false, fmt.Errorf("read credentials for %s: %s: %w", registry, f.Name, err)
	}
	return c, c != Credential{}, nil
}

func parseAuth(raw json.RawMessage) (c Credential, err error) {
	var entry struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
	}
	if err := json.Unmarshal(raw, &entry); err != nil {
		return c, err
	}
	c = Credential{entry.Username, entry.Password, entry.IdentityToken}
	if entry.Auth == "" {
		return c, nil
	}
	plain, err := base64.StdEncoding.DecodeString(entry.Auth)
	if err != nil {
		return c, fmt.Errorf("auth: %w", err)
	}
	user, password, ok := strings.Cut(string(plain), ":")
	if !ok {
		return c, errors.New("auth: it has no colon between user and password")
	}
	c.User, c.Password = user, strings.TrimRight(password, "\x00")
	return c, nil
}

// Readable says how a file with passwords in it can be read by others; "" if it
// can't.
func (f *AuthFile) Readable() string {
	if f.mode.Perm()&0o077 == 0 {
		return ""
	}
	for _, raw := range f.auths {
		if c, err := parseAuth(raw); err == nil && (c.Password != "" || c.IdentityToken != "") {
			return fmt.Sprintf("%s holds passwords and has mode %04o: others can read it; chmod 600 %s", f.Name, f.mode.Perm(), f.Name)
		}
	}
	return ""
}

// Put keeps a credential for a registry, or for a repository of it if there is
// one, in the helper that the file names or in the file, which then can be read
// by nobody else. Everything else in the file stays.
func (f *AuthFile) Put(ctx context.Context, registry, repository string, c Credential) error {
	key := authKey(registry, repository)
	if helper := f.helperFor(registry, repository); helper != "" {
		in := helperEntry{ServerURL: key, Username: c.User, Secret: c.Password}
		if c.IdentityToken != "" {
			in.Username, in.Secret = tokenUser, c.IdentityToken
		}
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		if _, err := f.runHelper(ctx, helper, "store", string(data)); err != nil {
			return err
		}
		f.auths[key] = json.RawMessage("{}")
		return f.write()
	}
	entry := map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(c.User + ":" + c.Password))}
	if c.IdentityToken != "" {
		entry = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(c.User + ":")), "identitytoken": c.IdentityToken}
	}
	raw, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	f.auths[key] = raw
	return f.write()
}

func authKey(registry, repository string) string {
	if repository != "" {
		return registry + "/" + repository
	}
	return helperKey(registry)
}

func (f *AuthFile) helperFor(registry, repository string) string {
	if helper, ok := find(f.helpers, registry, repository); ok {
		return helper
	}
	return f.store
}

// Remove forgets the credential for a registry or a repository; ok is false if
// there was none.
func (f *AuthFile) Remove(ctx context.Context, registry, repository string) (ok bool, err error) {
	if helper := f.helperFor(registry, repository); helper != "" {
		if _, ok, err = f.helperGet(ctx, helper, authKey(registry, repository)); err != nil {
			return false, err
		}
		if ok {
			if _, err := f.runHelper(ctx, helper, "erase", authKey(registry, repository)); err != nil {
				return false, err
			}
		}
	}
	n := len(f.auths)
	maps.DeleteFunc(f.auths, func(key string, _ json.RawMessage) bool {
		return key == authKey(registry, repository) || repository == "" && hostOf(key) == registry
	})
	if len(f.auths) == n {
		return ok, nil
	}
	return true, f.write()
}

// Registries are those that the file has an entry for, repositories too.
func (f *AuthFile) Registries() []string { return slices.Sorted(maps.Keys(f.auths)) }

// write replaces the file. A symbolic link stays one.
func (f *AuthFile) write() error {
	if f.doc == nil {
		return fmt.Errorf("write credentials: %s could not be read", f.Name)
	}
	raw, err := json.Marshal(f.auths)
	if err != nil {
		return err
	}
	f.doc["auths"] = raw
	data, err := json.MarshalIndent(f.doc, "", "\t")
	if err != nil {
		return err
	}
	name := f.Name
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	if err := atomicfile.WriteSync(name, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	return nil
}

// helperEntry is what credential helpers say and are told
// (docker-credential-helpers, credentials.Credentials).
type helperEntry struct {
	ServerURL, Username, Secret string
}

func (f *AuthFile) helperGet(ctx context.Context, helper, key string) (c Credential, ok bool, err error) {
	out, err := f.runHelper(ctx, helper, "get", key)
	if err != nil {
		if strings.Contains(err.Error(), "credentials not found") {
			return c, false, nil
		}
		return c, false, err
	}
	var entry helperEntry
	if err := json.Unmarshal(out, &entry); err != nil {
		return c, false, fmt.Errorf("credential helper docker-credential-%s for %s: its answer is no credential: %w", helper, key, err)
	}
	if entry.Username == tokenUser {
		return Credential{IdentityToken: entry.Secret}, true, nil
	}
	return Credential{User: entry.Username, Password: entry.Secret}, entry.Username != "" || entry.Secret != "", nil
}

// runHelper runs a credential helper. One that doesn't end, or says too much,
// is killed with all that it has started.
func (f *AuthFile) runHelper(ctx context.Context, helper, verb, input string) ([]byte, error) {
	key := input
	if verb == "store" {
		key = "a credential"
	}
	fail := func(err error) error {
		return fmt.Errorf("credential helper docker-credential-%s, %s %s: %w", helper, verb, key, err)
	}
	if helper != filepath.Base(helper) {
		return nil, fail(errors.New("its name has a slash"))
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, verb)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(input)
	out := &limited{cancel: cancel}
	cmd.Stdout, cmd.Stderr = out, io.Discard
	err := cmd.Run()
	said := strings.TrimSpace(string(out.data))
	switch {
	case out.over:
		return nil, fail(fmt.Errorf("it says more than %d bytes", maxHelper))
	case ctx.Err() != nil:
		return nil, fail(fmt.Errorf("it did not end within %s", f.timeout))
	case err != nil && said != "":
		return nil, fail(fmt.Errorf("%w: %.200s", err, said))
	case err != nil:
		return nil, fail(err)
	}
	return out.data, nil
}

// limited keeps what is written to it, up to a bound, after which it ends the
// writer.
type limited struct {
	data   []byte
	over   bool
	cancel func()
}

func (l *limited) Write(p []byte) (int, error) {
	if len(l.data)+len(p) > maxHelper {
		l.over = true
		l.cancel()
		return 0, errors.New("too much")
	}
	l.data = append(l.data, p...)
	return len(p), nil
}

// credentials answers for all files of a client, each question once.
type credentials struct {
	names []string
	warn  func(string)

	mu    sync.Mutex
	files []*AuthFile
	known map[string]Credential
	trust error // why a file or a helper could not be asked
}

// get returns the credential for a repository. A file or helper that can't be
// asked is a warning: nobody in particular may pull much.
func (c *credentials) get(ctx context.Context, registry, repository string) Credential {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read()
	at := registry + "/" + repository
	if found, ok := c.known[at]; ok {
		return found
	}
	for _, f := range c.files {
		found, ok, err := f.Get(ctx, registry, repository)
		if err != nil {
			c.fail(err)
		}
		if ok {
			c.known[at] = found
			return found
		}
	}
	c.known[at] = Credential{}
	return Credential{}
}

func (c *credentials) read() {
	if c.known != nil {
		return
	}
	c.known = map[string]Credential{}
	for _, name := range c.names {
		f, err := ReadAuthFile(name)
		if err != nil {
			c.fail(err)
			continue
		}
		if how := f.Readable(); how != "" {
			c.warn(how)
		}
		c.files = append(c.files, f)
	}
}

func (c *credentials) fail(err error) {
	if c.trust == nil {
		c.trust = err
	}
	c.warn(err.Error())
}

// problem returns why some credential could not be had, nil if all could.
func (c *credentials) problem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trust
}
