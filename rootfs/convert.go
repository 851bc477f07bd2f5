// SPDX-License-Identifier: Apache-2.0

//go:build !front

package rootfs

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"builder/image"
	"builder/internal/atomicfile"
	"builder/internal/filelock"
	"builder/layer"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Convert returns the layer of a blob that is in the store with the
// compression that the options say, and its blob in the store. A blob that has
// it already, at whatever level, is kept as it is; another one is made once for
// each set of options. Times are never changed. The diffID of the layer is the
// old one's, unless one of the two is eStargz.
//
// The error wraps [store.ErrCorrupt] if the blob is damaged.
func (r *RootFS) Convert(ctx context.Context, blob ocispec.Descriptor, diffID digest.Digest, opts layer.Options) (layer.Layer, error) {
	opts.Epoch, opts.Time = nil, nil
	kind, size, err := r.compression(blob)
	if err != nil {
		return layer.Layer{}, fmt.Errorf("convert layer %s: %w", blob.Digest, err)
	}
	if want := opts.Compression; kind == want || kind == layer.Gzip && want == "" {
		return layer.Layer{DiffID: diffID, Blob: blob}, nil
	}
	name := r.store.Path("converted", blob.Digest.Encoded()+"."+opts.Key())
	if l, ok := r.knownAt(name); ok {
		return l, nil
	}
	lock, err := r.store.Lock(ctx, "convert-"+blob.Digest.Encoded(), filelock.Exclusive, nil)
	if err != nil {
		return layer.Layer{}, err
	}
	defer lock.ReleaseAndRemove()
	if l, ok := r.knownAt(name); ok {
		return l, nil
	}
	l, err := r.convert(ctx, blob, size, opts)
	if err == nil && kind != layer.EStargz && opts.Compression != layer.EStargz && l.DiffID != diffID {
		err = fmt.Errorf("its content has diffID %s, the image's config says %s: %w", l.DiffID, diffID, image.ErrInvalid)
	}
	if err != nil {
		return layer.Layer{}, fmt.Errorf("convert layer %s: %w", blob.Digest, err)
	}
	data, err := json.Marshal(l)
	if err != nil {
		return l, err
	}
	return l, atomicfile.WriteMkdir(name, data, 0o600)
}

// compression tells how a blob is compressed, and how many bytes of it are the
// layer's tar: of eStargz not all.
func (r *RootFS) compression(blob ocispec.Descriptor) (layer.Compression, int64, error) {
	f, err := r.store.OpenBlobFile(blob)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	if end := layer.EStargzSize(f, blob.Size); end > 0 {
		return layer.EStargz, end, nil
	}
	plain, name, err := layer.Decompress(f)
	if err != nil {
		return "", 0, err
	}
	return layer.Compression(name), blob.Size, plain.Close()
}

// convert makes another blob of the first size bytes of one.
func (r *RootFS) convert(ctx context.Context, blob ocispec.Descriptor, size int64, opts layer.Options) (layer.Layer, error) {
	in, err := r.store.OpenBlob(blob)
	if err != nil {
		return layer.Layer{}, err
	}
	defer in.Close()
	plain, _, err := layer.Decompress(io.LimitReader(in, size))
	if err != nil {
		return layer.Layer{}, err
	}
	defer plain.Close()
	w, err := r.store.NewBlob()
	if err != nil {
		return layer.Layer{}, err
	}
	defer w.Abort()
	l, err := layer.Compress(ctx, w.File(), plain, opts)
	if err != nil {
		return l, err
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // which verifies it
		return l, err
	}
	return l, w.CommitFile(l.Blob)
}
