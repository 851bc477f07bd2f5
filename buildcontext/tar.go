// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"context"
	"fmt"
	"io"
	"os"

	"builder/internal/copytree"
	"builder/layer"

	"golang.org/x/sys/unix"
)

// ExtractTar unpacks a tar stream, plain or compressed with gzip, bzip2, xz or
// zstd, into the directory dir, as for a build context on stdin. Owners are
// those of the archive, so that the tree is to be opened with KeepOwner. The
// archive is taken as hostile: nothing outside dir is written, whatever its
// names and links say. After an error dir holds part of it.
func ExtractTar(ctx context.Context, r io.Reader, dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("extract build context to %q: %w", dir, err)
	}
	root := os.NewFile(uintptr(fd), dir)
	defer root.Close()
	plain, err := decompress(r)
	if err != nil {
		return fmt.Errorf("extract build context: %w", err)
	}
	defer plain.Close()
	if _, err := copytree.Untar(ctx, root, plain, nil); err != nil {
		return fmt.Errorf("extract build context: %w", err)
	}
	return nil
}

func decompress(r io.Reader) (io.ReadCloser, error) {
	plain, _, err := layer.Decompress(r)
	return plain, err
}
