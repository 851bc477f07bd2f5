// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"builder/internal/testutil"
)

func TestGitSSH(t *testing.T) {
	server := testutil.NewSSHServer(t)
	git := testutil.NewGitServer(t)
	git.Repository(t, "a").Commit("file", "one")
	socket := server.Agent(t)
	url := fmt.Sprintf("ssh://%s@127.0.0.1:%s%s/a.git", server.User, server.Port, git.Dir)
	asked := ""
	with := func(socket string, hosts []string) Options {
		return Options{KnownHosts: hosts, AgentSocket: func(id string) (string, error) {
			asked = id
			if socket == "" {
				return "", errors.New("no agent was given")
			}
			return socket, nil
		}}
	}
	for name, hosts := range map[string][]string{"known": server.KnownHosts(t, "host"), "unknown": nil} {
		checkFile(t, mustFetch(t, newStore(t), with(socket, hosts), url), "file", "one")
		if asked != "default" {
			t.Errorf("%s: the agent %q was asked for", name, asked)
		}
	}
	for name, c := range map[string]struct {
		opts Options
		want string
	}{
		"other key": {with(socket, server.KnownHosts(t, "other")), "ssh-keygen -R"},
		"no agent":  {with("", nil), ""},
		"none":      {Options{}, "--ssh default"},
	} {
		_, err := fetch(t, newStore(t), c.opts, url)
		var hint interface{ Hint() string }
		if err == nil || c.want != "" && (!errors.As(err, &hint) || !strings.Contains(hint.Hint(), c.want)) {
			t.Errorf("%s: %v, want the hint %q", name, err, c.want)
		}
	}
}
