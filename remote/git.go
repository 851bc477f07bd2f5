// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"builder/dockerfile"
	"builder/internal/filelock"
	"builder/internal/sys"
	"builder/progress"
)

// gitObject is what a reference was found to mean.
type gitObject struct {
	ref    string // full name, as refs/heads/main, or the object's ID
	id     string // of a commit, or of an annotated tag
	commit string // that an annotated tag leads to, where known
}

var (
	hexDigits  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-fA-F]+$`) })
	wholeID    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`) })
	headBranch = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^ref: refs/heads/(\S+)\tHEAD$`) })
)

// ResolveGit returns what identifies the content of a reference: its commit,
// and what of it is taken. The server is asked, but for a whole commit ID.
func (c *Client) ResolveGit(ctx context.Context, ref dockerfile.GitRef, tell func(progress.Event)) (string, error) {
	o, err := c.resolveGit(ctx, ref, tell)
	if err != nil {
		return "", err
	}
	id := o.id
	switch {
	case keepsGitDir(ref):
		id = fmt.Sprintf("%s %s with .git of %s", o.id, o.ref, redact(ref.Remote))
	case o.commit != "":
		id = o.commit
	}
	if ref.Subdir != "" {
		id += ":" + ref.Subdir
	}
	if !submodules(ref) {
		id += " without submodules"
	}
	if ref.CommitTime {
		id += " with the commit's time"
	}
	return id, nil
}

func keepsGitDir(ref dockerfile.GitRef) bool {
	return ref.KeepGitDir != nil && *ref.KeepGitDir && ref.Subdir == ""
}

func submodules(ref dockerfile.GitRef) bool { return ref.Submodules == nil || *ref.Submodules }

func (c *Client) resolveGit(ctx context.Context, ref dockerfile.GitRef, tell teller) (*gitObject, error) {
	if ref.Checksum != "" && !hexDigits().MatchString(ref.Checksum) {
		return nil, fmt.Errorf("invalid checksum %q for a Git repository: want a commit ID in hexadecimal digits", ref.Checksum)
	}
	if ref.FetchByCommit && !wholeID().MatchString(ref.Ref) {
		if !wholeID().MatchString(ref.Checksum) {
			return nil, fmt.Errorf("fetch-by-commit needs a whole commit ID as checksum or ref, not %q", ref.Checksum)
		}
		o := &gitObject{ref: ref.Ref, id: ref.Checksum}
		switch {
		case ref.Ref == "":
			o.ref = ref.Checksum
		case !strings.HasPrefix(ref.Ref, "refs/"):
			o.ref = "refs/heads/" + ref.Ref
		}
		return o, nil
	}
	o := &gitObject{ref: ref.Ref, id: ref.Ref}
	if !wholeID().MatchString(ref.Ref) {
		var err error
		o, err = once(ctx, c, "git "+ref.Remote+"#"+ref.Ref, func() (*gitObject, error) { return c.listRemote(ctx, ref, tell) })
		if err != nil {
			return nil, fmt.Errorf("git repository %s: %w", redact(ref.Remote), err)
		}
	}
	if !strings.HasPrefix(o.id, ref.Checksum) && !strings.HasPrefix(o.commit, ref.Checksum) {
		is := o.id
		if o.commit != "" {
			is += " or " + o.commit
		}
		return nil, fmt.Errorf("git repository %s: expected %q to be commit %s, and it is %s", redact(ref.Remote), ref.Ref, ref.Checksum, is)
	}
	return o, nil
}

// listRemote asks the server what a reference means. Of a branch and a tag
// with the same name the branch counts.
func (c *Client) listRemote(ctx context.Context, ref dockerfile.GitRef, tell teller) (*gitObject, error) {
	g, remote, err := c.gitCommand(ref.Remote, tell)
	if err != nil {
		return nil, err
	}
	args := []string{"ls-remote", "--", remote, ref.Ref, ref.Ref + "^{}"}
	if ref.Ref == "" {
		args = []string{"ls-remote", "--symref", "--", remote, "HEAD"}
	}
	out, err := g.run(ctx, gitArgs{}, args...)
	if err != nil {
		return nil, err
	}
	ids := map[string]string{}
	head := ""
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if m := headBranch().FindStringSubmatch(line); m != nil {
			head = "refs/heads/" + m[1]
			continue
		}
		if id, name, _ := strings.Cut(line, "\t"); wholeID().MatchString(id) {
			ids[name] = id
		}
	}
	if ref.Ref == "" {
		if head == "" || ids["HEAD"] == "" {
			return nil, errors.New("it has no default branch: name one after #")
		}
		return &gitObject{ref: head, id: ids["HEAD"]}, checkRefName(head)
	}
	tag := "refs/tags/" + strings.TrimPrefix(ref.Ref, "refs/tags/")
	for _, name := range []string{"refs/" + strings.TrimPrefix(ref.Ref, "refs/"), "refs/heads/" + strings.TrimPrefix(ref.Ref, "refs/heads/"), tag} {
		if id := ids[name]; id != "" {
			o := &gitObject{ref: name, id: id}
			if name == tag {
				o.commit = ids[tag+"^{}"]
			}
			return o, checkRefName(name)
		}
	}
	return nil, fmt.Errorf("there is no branch or tag %q", ref.Ref)
}

// checkRefName refuses a name that git would take for more than a name
// (gitcheckref(1)).
func checkRefName(name string) error {
	if strings.ContainsAny(name, ":*?[\\^~ \x7f") || strings.Contains(name, "..") ||
		strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("invalid ref name %q", name)
	}
	return nil
}

// FetchGit puts the tree of a reference, as [Client.ResolveGit] found it, into
// the new directory dir, which must be on the file system of the state
// directory. Files have the modes that git gives them, less the umask 022; the
// files called .git by which submodules find their repositories are left out
// unless .git is kept.
func (c *Client) FetchGit(ctx context.Context, ref dockerfile.GitRef, dir string, tell func(progress.Event)) error {
	o, err := c.resolveGit(ctx, ref, tell)
	if err != nil {
		return err
	}
	if err := c.fetchGit(ctx, ref, o, dir, tell); err != nil {
		return fmt.Errorf("fetch git repository %s: %w", redact(ref.Remote), err)
	}
	return nil
}

func (c *Client) fetchGit(ctx context.Context, ref dockerfile.GitRef, o *gitObject, dir string, tell teller) error {
	r, err := c.gitRepository(ref, o, tell)
	if err != nil {
		return err
	}
	lock, err := c.store.Lock(ctx, "git-"+filepath.Base(r.dir), filelock.Exclusive, func() {
		tell.log("waiting for another build that fetches it")
	})
	if err != nil {
		return err
	}
	defer lock.ReleaseAndRemove()
	if r.temp, err = c.store.TempDir(); err != nil {
		return err
	}
	sys.Touch(r.dir)
	fresh, err := r.open(ctx)
	if err != nil {
		return err
	}
	tree, err := r.bring(ctx)
	if err != nil && !fresh && ctx.Err() == nil {
		tree, err = r.bringAnew(ctx, err)
	}
	if err == nil && ref.Subdir != "" {
		tree, err = subdir(tree, ref.Subdir)
	}
	if err != nil {
		return err
	}
	return os.Rename(tree, dir)
}

// gitRepository is the bare repository that keeps what was fetched from a
// remote, locked. Objects and the repositories of submodules stay in it.
type gitRepository struct {
	git    *gitCommand
	remote string // without credentials
	dir    string
	temp   string
	tries  int
	ref    dockerfile.GitRef
	object *gitObject
}

func (c *Client) gitRepository(ref dockerfile.GitRef, o *gitObject, tell teller) (*gitRepository, error) {
	g, remote, err := c.gitCommand(ref.Remote, tell)
	if err != nil {
		return nil, err
	}
	name := nameOf(fmt.Sprintf("%s %d", remote, len(o.id)))
	return &gitRepository{git: g, remote: remote, dir: c.store.Path("cache", "git", name), ref: ref, object: o}, nil
}

func (r *gitRepository) run(ctx context.Context, args ...string) (string, error) {
	return r.git.run(ctx, gitArgs{dir: r.dir}, args...)
}

// open makes the repository if it isn't there, and then says so.
func (r *gitRepository) open(ctx context.Context) (fresh bool, err error) {
	// config is the last file that is written here.
	config, err := os.ReadFile(filepath.Join(r.dir, "config"))
	if err == nil && strings.Contains(string(config), "[remote ") {
		return false, nil
	}
	if err := errors.Join(os.RemoveAll(r.dir), os.MkdirAll(r.dir, 0o700)); err != nil {
		return false, err
	}
	init := []string{"init", "-q", "--bare", "--template="}
	if len(r.object.id) == 64 {
		init = append(init, "--object-format=sha256")
	}
	if _, err := r.run(ctx, init...); err != nil {
		return false, err
	}
	// Relative URLs of submodules are relative to this.
	_, err = r.run(ctx, "config", "remote.origin.url", r.remote)
	return true, err
}

// bring fetches the object and returns a directory with its tree.
func (r *gitRepository) bring(ctx context.Context) (string, error) {
	// What a killed git left.
	for _, name := range []string{"shallow.lock", "config.lock"} {
		if err := removeIfThere(filepath.Join(r.dir, name)); err != nil {
			return "", err
		}
	}
	if err := r.fetch(ctx); err != nil {
		return "", err
	}
	return r.checkout(ctx)
}

// bringAnew is bring with a new repository: what is kept may be damaged or in
// the way of what the remote has become. If that fails too the old one stays.
func (r *gitRepository) bringAnew(ctx context.Context, why error) (string, error) {
	r.git.tell.log(fmt.Sprintf("%v: trying again without what is kept of it", why))
	old := filepath.Join(r.temp, "old")
	if err := os.Rename(r.dir, old); err != nil {
		return "", errors.Join(why, err)
	}
	_, err := r.open(ctx)
	if err == nil {
		var tree string
		if tree, err = r.bring(ctx); err == nil {
			return tree, nil
		}
	}
	return "", errors.Join(err, os.RemoveAll(r.dir), os.Rename(old, r.dir))
}

// fetch brings the object, unless it is there.
func (r *gitRepository) fetch(ctx context.Context) error {
	id := r.object.id
	if r.has(ctx, id) {
		return nil
	}
	byName := !wholeID().MatchString(r.object.ref) && !r.ref.FetchByCommit
	if byName {
		// The name under which it is kept tells the server next time what
		// is here already.
		spec := r.object.ref + ":refs/builder/" + nameOf(r.object.ref)
		if err := r.fetchShallow(ctx, spec); err != nil {
			return err
		}
	}
	// It has no name, or that has just got another meaning. Most servers give
	// out what is asked for by ID.
	var err error
	if !r.has(ctx, id) {
		err = r.fetchShallow(ctx, id)
	}
	if !r.has(ctx, id) && ctx.Err() == nil && !r.ref.FetchByCommit {
		args := []string{"fetch", "-q", "--tags", "--force"}
		if _, err := os.Lstat(filepath.Join(r.dir, "shallow")); err == nil {
			args = append(args, "--unshallow")
		}
		_, err = r.run(ctx, append(args, r.remote, "+refs/heads/*:refs/remotes/origin/*")...)
	}
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !r.has(ctx, id):
		return fmt.Errorf("it has no commit %s", id)
	}
	return nil
}

// fetchShallow fetches one thing without its history, or with it from a server
// that can't do that.
func (r *gitRepository) fetchShallow(ctx context.Context, spec string) error {
	_, err := r.run(ctx, "fetch", "-q", "--depth=1", "--no-tags", "--force", "--", r.remote, spec)
	var failed *gitError
	if errors.As(err, &failed) && (strings.Contains(failed.stderr, "shallow") || strings.Contains(failed.stderr, "--depth")) {
		_, err = r.run(ctx, "fetch", "-q", "--no-tags", "--force", "--", r.remote, spec)
	}
	return err
}

// has tells whether a commit, or a tag of one, is in the repository.
func (r *gitRepository) has(ctx context.Context, id string) bool {
	_, err := r.run(ctx, "cat-file", "-e", id+"^{commit}")
	return err == nil
}

// checkout makes a directory with the tree.
func (r *gitRepository) checkout(ctx context.Context) (string, error) {
	r.tries++
	top := filepath.Join(r.temp, "tree"+strconv.Itoa(r.tries))
	if err := errors.Join(os.Mkdir(top, 0o700), os.Chmod(top, 0o755)); err != nil { // whatever the umask
		return "", err
	}
	at := gitArgs{dir: r.dir, workTree: top, index: filepath.Join(r.temp, "index"+strconv.Itoa(r.tries))}
	var err error
	if keepsGitDir(r.ref) {
		at = gitArgs{dir: filepath.Join(top, ".git"), workTree: top}
		err = r.clone(ctx, at)
	} else {
		_, err = r.git.run(ctx, at, "read-tree", "--reset", "-u", r.object.id)
	}
	if err == nil && submodules(r.ref) {
		err = r.addSubmodules(ctx, at)
	}
	if err == nil && r.ref.CommitTime {
		err = r.setTimes(ctx, top)
	}
	return top, err
}

// clone makes a repository beside the tree that has nothing but the object,
// and nothing that tells of this machine.
func (r *gitRepository) clone(ctx context.Context, at gitArgs) error {
	const fetched = "refs/builder/checkout"
	if _, err := r.run(ctx, "update-ref", fetched, r.object.id); err != nil {
		return err
	}
	init := []string{"init", "-q", "--template="}
	if len(r.object.id) == 64 {
		init = append(init, "--object-format=sha256")
	}
	spec := fetched
	if !wholeID().MatchString(r.object.ref) {
		spec += ":" + r.object.ref
	}
	local := at
	local.local = true
	for _, step := range []struct {
		at   gitArgs
		args []string
	}{
		{at, init},
		{local, []string{"fetch", "-q", "-u", "--depth=1", "--no-tags", "--", "file://" + r.dir, spec}},
		{at, []string{"checkout", "-q", "FETCH_HEAD"}},
		{at, []string{"remote", "add", "origin", r.remote}},
		{at, []string{"reflog", "expire", "--all", "--expire=now"}},
	} {
		if _, err := r.git.run(ctx, step.at, step.args...); err != nil {
			return err
		}
	}
	return removeIfThere(filepath.Join(at.dir, "FETCH_HEAD"))
}

// addSubmodules fetches the submodules, and theirs.
func (r *gitRepository) addSubmodules(ctx context.Context, at gitArgs) error {
	if _, err := os.Lstat(filepath.Join(at.workTree, ".gitmodules")); err != nil {
		return nil //nolint:nilerr // it has none
	}
	update := []string{"submodule", "--quiet", "update", "--init", "--recursive"}
	if _, err := r.git.run(ctx, at, append(update, "--depth=1")...); err != nil {
		// A commit that is no branch's last one may not be had alone.
		if ctx.Err() != nil {
			return err
		}
		if _, again := r.git.run(ctx, at, update...); again != nil {
			return fmt.Errorf("submodules: %w", err)
		}
	}
	if keepsGitDir(r.ref) {
		return nil
	}
	return filepath.WalkDir(at.workTree, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == ".git" && !e.IsDir() {
			err = os.Remove(name)
		}
		return err
	})
}

// time is the commit's.
func (r *gitRepository) time(ctx context.Context) (time.Time, error) {
	out, err := r.run(ctx, "log", "-1", "--format=%ct", r.object.id+"^{commit}")
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("time of commit %s: %w", r.object.id, err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// setTimes gives every file the commit's time.
func (r *gitRepository) setTimes(ctx context.Context, top string) error {
	at, err := r.time(ctx)
	if err != nil {
		return err
	}
	var names []string
	err = filepath.WalkDir(top, func(name string, _ fs.DirEntry, err error) error {
		names = append(names, name)
		return err
	})
	if err != nil {
		return err
	}
	// Directories after what is in them.
	for _, name := range slices.Backward(names) {
		if err := sys.SetTime(name, at); err != nil {
			return err
		}
	}
	return nil
}

// subdir finds a directory below top. No link is followed to it.
func subdir(top, name string) (string, error) {
	dir := top
	for part := range strings.SplitSeq(name, "/") {
		dir = filepath.Join(dir, part)
		fi, err := os.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("it has no directory %q", name)
		case err != nil:
			return "", err
		case !fi.IsDir():
			return "", fmt.Errorf("%q leads through %q, which is not a directory", name, part)
		}
	}
	return dir, nil
}
