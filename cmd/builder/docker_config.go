// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"builder/internal/userfiles"
)

// dockerConfig is what the config file of docker's client says, besides credentials.
type dockerConfig struct {
	// Proxies are for builds and containers: those of docker's daemons by their
	// addresses, and "default".
	Proxies map[string]struct {
		HTTPProxy, HTTPSProxy, NoProxy, FTPProxy, AllProxy string
	}
	DetachKeys string // as --detach-keys
	// PruneFilters are further --filter of the commands of the name prune.
	PruneFilters []string

	// As --format.
	ImagesFormat, NetworksFormat, PsFormat, StatsFormat, VolumesFormat string
}

// dockerConfig reads docker's config file. One that can't be read says nothing, and is
// told of.
func (e *env) dockerConfig() dockerConfig {
	if e.docker != nil {
		return *e.docker
	}
	e.docker = &dockerConfig{}
	name := userfiles.DockerConfig(e.getenv)
	if name == "" {
		return *e.docker
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return *e.docker
	}
	var read dockerConfig
	if err == nil {
		err = json.Unmarshal(data, &read)
	}
	if err != nil {
		e.warn(fmt.Sprintf("%s: nothing is read but credentials: %v", name, err))
		return *e.docker
	}
	e.docker = &read
	return read
}

// pruneFilters are the filters of a prune, with those of docker's config file. A label
// that is asked for is stronger than the file's wish to keep it, and the other way.
func (e *env) pruneFilters(given []string) []string {
	all := slices.Clone(given)
	for _, f := range e.dockerConfig().PruneFilters {
		name, value, ok := strings.Cut(f, "=")
		opposite := map[string]string{"label": "label!", "label!": "label"}[name]
		if ok && !slices.Contains(given, opposite+"="+value) {
			all = append(all, f)
		}
	}
	return all
}

// configuredProxies are the proxies that docker's config file has, by the names of their
// variables.
func (e *env) configuredProxies() map[string]string {
	p := e.dockerConfig().Proxies["default"]
	out := map[string]string{"HTTP_PROXY": p.HTTPProxy, "HTTPS_PROXY": p.HTTPSProxy, "NO_PROXY": p.NoProxy, "FTP_PROXY": p.FTPProxy, "ALL_PROXY": p.AllProxy}
	for name, value := range out {
		if value == "" {
			delete(out, name)
		}
	}
	return out
}
