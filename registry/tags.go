// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"

	"builder/image"

	"github.com/regclient/regclient/scheme"
)

// Limits on a repository's list of tags: how many are asked for at a time, and
// how many bytes the answers may have together.
const (
	tagsAtATime  = 1000
	maxTagsBytes = 16 << 20
)

// Tags are the tags of a repository, each once and valid, in the order in which
// the registry lists them. Of ref only the name counts.
func (c *Client) Tags(ctx context.Context, ref image.Ref) ([]string, error) {
	ref.Tag, ref.Digest = "", ""
	var tags []string
	err := c.eachEndpoint(ctx, ref, func(s *session) (err error) {
		tags, err = s.tags(ctx, ref)
		return err
	})
	return tags, c.opError("list tags of", ref, err)
}

func (s *session) tags(ctx context.Context, ref image.Ref) ([]string, error) {
	tctx, t := withTrace(ctx, 0)
	t.most = maxTagsBytes
	var tags []string
	seen := map[string]bool{}
	last := ""
	for {
		page, err := s.reg.TagList(tctx, s.libRef(ref), scheme.WithTagLimit(tagsAtATime), scheme.WithTagLast(last))
		if err != nil {
			return nil, s.explain(ctx, t, err)
		}
		before := len(tags)
		for _, tag := range page.Tags {
			// A tag is hostile until it is one.
			if r, err := image.ParseRef(ref.Name() + ":" + tag); err != nil || r.Tag != tag || r.Name() != ref.Name() {
				return nil, fmt.Errorf("%w from %s: %q is no tag", ErrWrongBytes, s.host, tag)
			}
			if !seen[tag] {
				seen[tag] = true
				tags = append(tags, tag)
			}
		}
		if len(page.Tags) < tagsAtATime || len(tags) == before {
			return tags, nil
		}
		last = tags[len(tags)-1]
	}
}
