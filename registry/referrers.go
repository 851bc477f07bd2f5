// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"builder/image"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits on what a registry says of referrers: bytes and answers.
const (
	maxReferrersBytes = 16 << 20
	maxReferrersPages = 1000
)

// errNoAPI says that a registry has no referrers API.
var errNoAPI = errors.New("no referrers API")

// Referrers lists the manifests that refer to what ref names as their subject:
// signatures, bills of material and the like. artifactType leaves only those
// of a type, "" all. A registry without the referrers API is asked for the tag
// that stands for it (distribution-spec, "Listing Referrers"). The list is
// empty if nothing refers to it.
func (c *Client) Referrers(ctx context.Context, ref image.Ref, artifactType string) (list []ocispec.Descriptor, err error) {
	err = c.eachEndpoint(ctx, ref, func(s *session) error {
		subject, _, err := s.head(ctx, ref)
		if err != nil {
			return err
		}
		r := referrers{session: s, client: c, ref: ref, seen: map[digest.Digest]bool{}}
		r.ref.Tag, r.ref.Digest = "", subject.Digest
		if err = r.byAPI(ctx, artifactType); errors.Is(err, errNoAPI) {
			err = r.byTag(ctx, artifactType)
		}
		list = r.list
		return err
	})
	return list, c.opError("list referrers of", ref, err)
}

// referrers is a question for those of one manifest.
type referrers struct {
	*session
	client *Client
	ref    image.Ref // by digest
	list   []ocispec.Descriptor
	seen   map[digest.Digest]bool
}

// add adds to the list what an answer has of a type.
func (r *referrers) add(manifests []ocispec.Descriptor, artifactType string) {
	for _, d := range manifests {
		if r.seen[d.Digest] || artifactType != "" && d.ArtifactType != artifactType {
			continue
		}
		r.seen[d.Digest] = true
		r.list = append(r.list, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType, Annotations: d.Annotations})
	}
}

// byTag asks for the tag that stands for the API.
func (r *referrers) byTag(ctx context.Context, artifactType string) error {
	tagged := r.ref
	tagged.Tag, tagged.Digest = r.ref.Digest.Algorithm().String()+"-"+r.ref.Digest.Encoded(), ""
	_, data, err := r.get(ctx, tagged)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	idx, err := image.ParseIndex(data)
	if err != nil {
		return fmt.Errorf("tag %s: %w", tagged.Tag, err)
	}
	r.add(idx.Manifests, artifactType)
	return nil
}

// byAPI asks for all pages of the API's answer.
func (r *referrers) byAPI(ctx context.Context, artifactType string) error {
	path := "referrers/" + r.ref.Digest.String()
	if artifactType != "" {
		path += "?artifactType=" + url.QueryEscape(artifactType)
	}
	req, err := r.request(ctx, r.client, r.ref, path)
	if err != nil {
		return err
	}
	left := int64(maxReferrersBytes)
	for range maxReferrersPages {
		data, next, err := r.page(ctx, req, left)
		if err != nil {
			return err
		}
		idx, err := image.ParseIndex(data)
		if err != nil {
			return fmt.Errorf("%w from %s: %w", ErrWrongBytes, r.host, err)
		}
		r.add(idx.Manifests, artifactType)
		if next == nil {
			return nil
		}
		left -= int64(len(data))
		req = req.Clone(ctx)
		req.URL = next
	}
	return fmt.Errorf("%w from %s: a list of referrers of more than %d pages", ErrWrongBytes, r.host, maxReferrersPages)
}

// page asks a question, again while the server fails, and returns the answer
// and where it goes on.
func (r *referrers) page(ctx context.Context, req *http.Request, most int64) (data []byte, next *url.URL, err error) {
	for attempt, delay := 1, r.client.opts.Delay; ; attempt, delay = attempt+1, 2*delay {
		data, next, err = r.ask(ctx, req, most)
		if err == nil || attempt == r.client.opts.Attempts || !errors.Is(err, ErrServer) {
			return data, next, err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

func (r *referrers) ask(ctx context.Context, req *http.Request, most int64) ([]byte, *url.URL, error) {
	tctx, t := withTrace(ctx, 0)
	client := &http.Client{Transport: r.client.roundTripper(ctx, r.session)}
	resp, err := client.Do(req.WithContext(tctx))
	if err != nil {
		return nil, nil, r.explain(ctx, t, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable:
		return nil, nil, errNoAPI
	default:
		return nil, nil, t.failure()
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%w: the list of referrers: %w", ErrServer, r.explain(ctx, t, err))
	case int64(len(data)) > most:
		return nil, nil, fmt.Errorf("%w from %s: the list of referrers is too long", ErrWrongBytes, r.host)
	case !json.Valid(data):
		return nil, nil, fmt.Errorf("%w from %s: the list of referrers is no JSON", ErrWrongBytes, r.host)
	}
	next, err := nextPage(resp)
	if err != nil {
		return nil, nil, fmt.Errorf("%w from %s: %w", ErrWrongBytes, r.host, err)
	}
	return data, next, nil
}

// nextPage is what an answer's Link names as the next (RFC 8288), nil for none.
// It must be at the same server.
func nextPage(resp *http.Response) (*url.URL, error) {
	for _, link := range resp.Header.Values("Link") {
		target, params, ok := strings.Cut(link, ">")
		target, bracket := strings.CutPrefix(strings.TrimSpace(target), "<")
		if !ok || !bracket || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			continue
		}
		next, err := resp.Request.URL.Parse(target)
		if err == nil && next.Host != resp.Request.URL.Host {
			err = fmt.Errorf("the next page is at %s", next.Host)
		}
		return next, err
	}
	return nil, nil
}
