// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"maps"
	"slices"

	"builder/image"
)

// Server is one of those that are asked for a name.
type Server struct {
	URL        string   // of the API; the scheme of a host that may speak both isn't known before it is asked
	Repository string   // that is asked for there
	Mirror     bool     // not the registry itself, or what stands for it
	For        string   // "digests" or "tags" if it is asked for these only
	Insecure   bool     // its certificate isn't checked
	CAs        []string // files of further authorities
	Headers    []string // names of headers that are sent
	From       string   // which file says so; "" for nobody
}

// Servers returns those that would be asked for a reference, in order, and
// touches no network. The error wraps [ErrBlocked] if none may be.
func (c *Client) Servers(ref image.Ref) ([]Server, error) {
	plan, err := c.plan(ref)
	if err != nil {
		return nil, err
	}
	var out []Server
	for _, e := range plan {
		c.trust(&e)
		s := Server{URL: "https://" + e.host + e.api, Repository: e.repository, Mirror: !e.origin, Insecure: c.insecure(e.host), CAs: e.cas, Headers: slices.Sorted(maps.Keys(e.header))}
		if e.plain {
			s.URL = "http://" + e.host + e.api
		}
		if s.Repository == "" {
			s.Repository = ref.Repository
			if e.prefix != "" {
				s.Repository = e.prefix + "/" + ref.Repository
			}
		}
		switch {
		case e.digestOnly:
			s.For = "digests"
		case e.tagOnly:
			s.For = "tags"
		}
		if e.from.File != "" {
			s.From = e.from.String()
		}
		out = append(out, s)
	}
	return out, nil
}
