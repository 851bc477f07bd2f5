// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"builder/layer"
	"builder/snapshot"
)

// Squash commits a snapshot on base that holds what the snapshots ids, each
// one's parent being the one before it, change together. What one of them made
// and a later one removed is not in it. The snapshots stay.
func (r *RootFS) Squash(ctx context.Context, base snapshot.ID, ids []snapshot.ID) (snapshot.ID, error) {
	active, err := r.Prepare(ctx, base)
	if err != nil {
		return "", err
	}
	root, err := active.Mount()
	if err != nil {
		return "", errors.Join(err, Discard(active))
	}
	for _, id := range ids {
		if err = r.applyDiff(ctx, root, id); err != nil {
			err = fmt.Errorf("squash snapshot %s: %w", id, err)
			break
		}
	}
	if err = errors.Join(err, root.Close()); err != nil {
		return "", errors.Join(err, Discard(active))
	}
	id, err := active.Commit(ctx, "")
	if err != nil {
		return "", errors.Join(err, Discard(active))
	}
	return id, nil
}

// applyDiff repeats a snapshot's changes below root.
func (r *RootFS) applyDiff(ctx context.Context, root *os.File, id snapshot.ID) error {
	pr, pw := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		pw.CloseWithError(r.TarDiff(ctx, pw, id))
	}()
	_, err := layer.Apply(ctx, root, pr, layer.ApplyOptions{Plain: true})
	pr.CloseWithError(err)
	<-written
	return err
}
