// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"builder/build"
	"builder/internal/sshagent"

	"github.com/spf13/pflag"
	"github.com/tonistiigi/go-csvvalue"
)

// secretFlags are the flags that give RUN steps what nothing may keep.
type secretFlags struct {
	secrets, ssh []string
}

func (f *secretFlags) addFlags(fs *pflag.FlagSet) {
	wordsVar(fs, &f.secrets, "secret", "secret for RUN --mount=type=secret, or for fetching (GIT_AUTH_TOKEN and others), `id=ID[,src=FILE|,env=NAME]`")
	wordsVar(fs, &f.ssh, "ssh", "SSH agent or keys for RUN --mount=type=ssh and Git by SSH, `default|ID[=SOCKET|KEY[,KEY]]`")
}

// resolve reads the secrets and opens the agents; flag names the one that is
// wrong.
func (f *secretFlags) resolve(e *env, opts *build.Options) (flag string, err error) {
	if opts.Secrets, err = readSecrets(e, f.secrets); err != nil {
		return "secret", err
	}
	opts.SSH, err = openAgents(e, f.ssh)
	return "ssh", err
}

// maxSecret is the most that a secret may be, in bytes.
const maxSecret = 500 << 10

// secretSource says where a secret's value is.
type secretSource struct{ id, file, env string }

// readSecrets reads the values of --secret flags. Of an ID that is given twice
// the last holds.
func readSecrets(e *env, words []string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, w := range words {
		if w == "" {
			continue
		}
		s, err := parseSecret(w)
		if err != nil {
			return nil, err
		}
		if out[s.id], err = s.read(e); err != nil {
			return nil, fmt.Errorf("id=%s: %w", s.id, err)
		}
	}
	return out, nil
}

func parseSecret(word string) (secretSource, error) {
	var s secretSource
	fields, err := csvvalue.Fields(word, nil)
	if err != nil {
		return s, fmt.Errorf("%q: %w", word, err)
	}
	kind := ""
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return s, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
		switch key = strings.ToLower(key); key {
		case "type":
			if value != "file" && value != "env" {
				return s, fmt.Errorf("unsupported secret type %q", value)
			}
			kind = value
		case "id":
			s.id = value
		case "source", "src":
			s.file = value
		case "env":
			s.env = value
		default:
			return s, fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
	}
	if kind == "env" && s.env == "" {
		s.env, s.file = s.file, ""
	}
	if s.id == "" {
		return s, fmt.Errorf("%q: secret missing ID", word)
	}
	return s, nil
}

// read returns the value. Without a source it is the variable named by the ID
// or, if there is none, the file.
func (s secretSource) read(e *env) ([]byte, error) {
	if s.env == "" && s.file == "" {
		if v, ok := lookupEnv(e, s.id); ok {
			return checkSize([]byte(v))
		}
		s.file = s.id
	}
	if s.env != "" {
		v, _ := lookupEnv(e, s.env)
		return checkSize([]byte(v))
	}
	f, err := os.Open(s.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.IsDir() {
		return nil, errors.Join(err, fmt.Errorf("%s is a directory: want a file", s.file))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, err
	}
	return checkSize(data)
}

func checkSize(value []byte) ([]byte, error) {
	if len(value) > maxSecret {
		return nil, errors.New("secret too big. max size 500KiB")
	}
	return value, nil
}

// openAgents opens the agents of --ssh flags.
func openAgents(e *env, words []string) (map[string]build.Agent, error) {
	out := map[string]build.Agent{}
	for _, w := range words {
		if w == "" {
			continue
		}
		id, list, given := strings.Cut(w, "=")
		if id == "" {
			id = "default"
		}
		if _, ok := out[id]; ok {
			return nil, fmt.Errorf("duplicate agent ID %q", id)
		}
		paths := strings.Split(list, ",")
		if !given || list == "" {
			socket, ok := lookupEnv(e, "SSH_AUTH_SOCK")
			if !ok || socket == "" {
				return nil, fmt.Errorf("%s: no SSH agent runs here (SSH_AUTH_SOCK is not set): give a socket or a key, %s=PATH", id, id)
			}
			paths = []string{socket}
		}
		for _, p := range paths {
			if strings.HasPrefix(p, "raw=") {
				return nil, fmt.Errorf("%s: raw sockets are not supported: an agent is only ever read", id)
			}
		}
		agent, err := sshagent.Open(paths...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		out[id] = agent
	}
	return out, nil
}
