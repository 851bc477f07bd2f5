// SPDX-License-Identifier: Apache-2.0

// Package userfiles says where files of a user are that more than one part reads.
package userfiles

import "path/filepath"

// DockerConfig is the name of docker's config file, "" if nothing says where that is.
// getenv is os.Getenv.
func DockerConfig(getenv func(string) string) string {
	if dir := getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json")
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".docker", "config.json")
	}
	return ""
}
