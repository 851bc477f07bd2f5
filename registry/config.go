// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"io"

	"builder/image"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/regclient/regclient/types/descriptor"
)

// Config fetches manifest and config of the image that ref names for a
// platform (the zero value: this machine's), verified, and nothing else. No
// store is needed and nothing is kept.
func (c *Client) Config(ctx context.Context, ref image.Ref, platform image.Platform) (image.Image, error) {
	if platform.OS == "" {
		platform = image.HostPlatform()
	}
	var img image.Image
	err := c.eachEndpoint(ctx, ref, func(s *session) (err error) {
		img, err = s.image(ctx, ref, platform)
		return err
	})
	return img, c.opError("look at", ref, err)
}

func (s *session) image(ctx context.Context, ref image.Ref, platform image.Platform) (img image.Image, err error) {
	desc, data, err := s.get(ctx, ref)
	if err != nil {
		return img, err
	}
	if image.IsIndex(desc.MediaType) {
		if desc, err = chosen(data, platform); err != nil {
			return img, err
		}
		ref.Digest = desc.Digest
		if _, data, err = s.get(ctx, ref); err != nil {
			return img, err
		}
	}
	img.Desc = desc
	if img.Manifest, err = image.ParseManifest(data); err != nil {
		return img, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if data, err = s.small(ctx, ref, img.Manifest.Config); err != nil {
		return img, fmt.Errorf("config %s: %w", img.Manifest.Config.Digest, err)
	}
	img.Config, err = image.ParseConfig(data, img.Manifest)
	return img, err
}

// small fetches a blob of at most [image.MaxConfigSize] bytes.
func (s *session) small(ctx context.Context, ref image.Ref, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > image.MaxConfigSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", image.ErrInvalid, desc.Size, image.MaxConfigSize)
	}
	tctx, t := withTrace(ctx, desc.Size)
	r, err := s.reg.BlobGet(tctx, s.libRef(ref), descriptor.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size})
	if err != nil {
		return nil, s.explain(ctx, t, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, desc.Size+1))
	if err != nil {
		return nil, s.readError(ctx, t, err, int64(len(data)), desc.Size)
	}
	if int64(len(data)) != desc.Size || digest.FromBytes(data) != desc.Digest {
		return nil, fmt.Errorf("%w from %s: they are not those of %s", ErrWrongBytes, s.host, desc.Digest)
	}
	return data, nil
}
