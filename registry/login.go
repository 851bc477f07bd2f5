// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"

	"builder/image"

	"github.com/regclient/regclient/types/ref"
)

// Login asks a registry whether it takes a credential, which is kept nowhere.
// The error wraps [ErrDenied] if it doesn't.
func (c *Client) Login(ctx context.Context, registry string, cred Credential) error {
	endpoints, err := c.endpoints(ctx, image.Ref{Registry: registry})
	if err != nil {
		return err
	}
	s := c.openWith(ctx, registry, endpoints[len(endpoints)-1], cred)
	tctx, t := withTrace(ctx, 0)
	if _, err := s.reg.Ping(tctx, ref.Ref{Scheme: "reg", Registry: registry}); err != nil {
		return fmt.Errorf("log in to %s: %w", registry, s.explain(ctx, t, err))
	}
	return nil
}
