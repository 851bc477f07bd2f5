// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"builder/image"

	"github.com/regclient/regclient/types/ref"
)

// maxTokenAnswer is how many bytes of a token server's answer are looked at.
const maxTokenAnswer = 1 << 20

// Login asks a registry whether it takes a credential, which is kept nowhere,
// and returns what to keep: the credential, or an identity token in the place
// of its password where the registry's token server gives one that works
// (distribution's docs/spec/auth/token.md, offline_token). The error wraps
// [ErrDenied] if the registry doesn't take it.
func (c *Client) Login(ctx context.Context, registry string, cred Credential) (Credential, error) {
	origin, err := c.origin(ctx, image.Ref{Registry: registry})
	if err != nil {
		return cred, err
	}
	try := func(cred Credential, offline *offline) error {
		s := c.openWith(ctx, registry, origin, cred)
		s.offline = offline
		tctx, t := withTrace(ctx, 0)
		_, err := s.reg.Ping(tctx, ref.Ref{Scheme: "reg", Registry: registry})
		if err != nil {
			err = s.explain(ctx, t, err)
		}
		return err
	}
	var got offline
	if err := try(cred, &got); err != nil {
		return cred, fmt.Errorf("log in to %s: %w", registry, err)
	}
	if got.token == "" || cred.Password == "" {
		return cred, nil
	}
	// Some servers give tokens that they then don't take.
	if token := (Credential{User: cred.User, IdentityToken: got.token}); try(token, nil) == nil {
		return token, nil
	}
	return cred, ctx.Err()
}

// offline has the requests of a session for tokens ask for one that lasts, too.
type offline struct{ token string }

// ask adds the question to a request that has none.
func (o *offline) ask(req *http.Request) {
	if o == nil || req.Method != http.MethodGet {
		return
	}
	u := *req.URL
	query := u.Query()
	query.Set("offline_token", "true")
	u.RawQuery = query.Encode()
	req.URL = &u
}

// read looks into the answer, which stays as it is.
func (o *offline) read(resp *http.Response) {
	if o == nil || resp.StatusCode != http.StatusOK {
		return
	}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	var answer struct {
		RefreshToken string `json:"refresh_token"`
	}
	if json.Unmarshal(data, &answer) == nil && answer.RefreshToken != "" {
		o.token = answer.RefreshToken
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(data), resp.Body), resp.Body}
}
