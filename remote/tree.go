// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"builder/dockerfile"
	"builder/internal/filelock"
	"builder/internal/sys"
	"builder/progress"
)

// OpenGit returns a directory that has the tree of a reference, as
// [Client.FetchGit] makes it. It is kept for later builds, so it must not be
// written to. It stays at least until the client is closed. Of a reference, and
// of a repository's commits that are named by their IDs, the last tree is kept;
// the directory that it is in is always the same.
func (c *Client) OpenGit(ctx context.Context, ref dockerfile.GitRef, tell func(progress.Event)) (string, error) {
	id, err := c.ResolveGit(ctx, ref, tell)
	if err != nil {
		return "", err
	}
	name := ref.Ref
	if wholeID().MatchString(name) {
		name = "a commit"
	}
	slot := fmt.Sprintf("%s#%s:%s %t %t %t", ref.Remote, name, ref.Subdir, keepsGitDir(ref), submodules(ref), ref.CommitTime)
	t := keptTree{
		dir: c.store.Path("cache", "trees", nameOf(slot)),
		// Nothing of it is flushed to disk, so it counts for this boot only.
		name: nameOf(id + " " + sys.BootID()),
	}
	for {
		lock, err := c.lockTree(ctx, t.name, filelock.Shared)
		if err != nil {
			return "", err
		}
		if t.exists() {
			sys.Touch(t.dir)
			c.mu.Lock()
			c.trees = append(c.trees, lock)
			c.mu.Unlock()
			return t.path(), nil
		}
		if err := lock.Release(); err != nil {
			return "", err
		}
		if err := c.makeTree(ctx, t, ref, tell); err != nil {
			return "", err
		}
	}
}

// Close gives up the trees that were opened. What is left over of a client is
// removed with the store's temporary files.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, lock := range c.trees {
		errs = append(errs, lock.Release())
	}
	c.trees = nil
	return errors.Join(errs...)
}

// keptTree is a tree in the directory of its reference.
type keptTree struct{ dir, name string }

func (t keptTree) path() string { return filepath.Join(t.dir, t.name) }

func (t keptTree) exists() bool {
	_, err := os.Lstat(t.path())
	return err == nil
}

func (c *Client) lockTree(ctx context.Context, name string, mode filelock.Mode) (*filelock.Lock, error) {
	return c.store.Lock(ctx, "tree-"+name, mode, nil)
}

// makeTree fetches a tree, unless another build just did, and removes the other
// trees of the reference that no build uses.
func (c *Client) makeTree(ctx context.Context, t keptTree, ref dockerfile.GitRef, tell func(progress.Event)) error {
	lock, err := c.lockTree(ctx, t.name, filelock.Exclusive)
	if err != nil {
		return err
	}
	defer lock.Release()
	if t.exists() {
		return nil
	}
	temp, err := c.store.TempDir()
	if err != nil {
		return err
	}
	made := filepath.Join(temp, "tree")
	if err := c.FetchGit(ctx, ref, made, tell); err != nil {
		return err
	}
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	if err := os.Rename(made, t.path()); err != nil {
		return err
	}
	return c.removeOtherTrees(t)
}

func (c *Client) removeOtherTrees(t keptTree) error {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == t.name {
			continue
		}
		lock, err := filelock.TryAcquire(c.store.Path("locks", "tree-"+e.Name()), filelock.Exclusive)
		if errors.Is(err, filelock.ErrLocked) {
			continue // in use
		}
		if err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(filepath.Join(t.dir, e.Name())), lock.ReleaseAndRemove()); err != nil {
			return err
		}
	}
	return nil
}
