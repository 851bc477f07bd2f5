// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"builder/buildcontext"
	"builder/cache"
	"builder/container"
	"builder/progress"
	"builder/snapshot"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// copyOp copies files of the build context, a stage or an image.
type copyOp struct {
	from  *stage // nil for the build context
	req   buildcontext.Request
	chown string
	link  bool

	sel     *buildcontext.Selection // what the key was computed from
	changed bool                    // the files changed between key and copy
}

// dispatchCopy makes the step of a COPY.
func (p *plan) dispatchCopy(st *stage, cmd command, c *instructions.CopyCommand) error {
	op := &copyOp{chown: c.Chown, link: c.Link}
	if len(cmd.sources) > 0 {
		op.from = cmd.sources[0]
		if !op.from.implicit && !op.from.dispatched {
			return fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", c.From, st.name)
		}
	}
	for _, src := range c.SourcePaths {
		if isRemote(src) {
			return fmt.Errorf("source %q can't be a URL for COPY: use ADD", src)
		}
	}
	op.req = buildcontext.Request{
		Sources: c.SourcePaths, Dest: st.state.abs(c.DestPath), Exclude: c.ExcludePatterns, Parents: c.Parents, Mode: c.Chmod,
	}
	flags := ""
	if c.Parents {
		flags = " --parents"
	}
	return p.addCopy(st, cmd, op, "COPY"+flags, c.SourcesAndDest)
}

// dispatchAdd makes the step of an ADD of local files.
func (p *plan) dispatchAdd(st *stage, cmd command, c *instructions.AddCommand) error {
	for _, src := range c.SourcePaths {
		if isRemote(src) {
			return fmt.Errorf("ADD of the remote source %q is not supported yet: fetch it in a RUN step, or put it into the build context", src)
		}
	}
	if c.Checksum != "" {
		return errors.New("checksum requires HTTP(S) or Git sources")
	}
	op := &copyOp{chown: c.Chown, link: c.Link}
	op.req = buildcontext.Request{
		Sources: c.SourcePaths, Dest: st.state.abs(c.DestPath), Exclude: c.ExcludePatterns, Mode: c.Chmod,
		Unpack: c.Unpack == nil || *c.Unpack,
	}
	return p.addCopy(st, cmd, op, "ADD", c.SourcesAndDest)
}

func (p *plan) addCopy(st *stage, cmd command, op *copyOp, line string, params instructions.SourcesAndDest) error {
	if op.chown != "" {
		owner, byName := parseChown(op.chown)
		if byName && op.link {
			return fmt.Errorf("--chown=%s: user and group names can't be resolved when used with --link, use numeric uid[:gid] instead", op.chown)
		}
		if byName && st.empty() {
			return fmt.Errorf("--chown=%s: there is no user or group of that name: the stage is empty", op.chown)
		}
		op.req.Owner = &owner
		line += " --chown=" + op.chown
	}
	if op.req.Mode != "" {
		line += " --chmod=" + op.req.Mode
	}
	for _, src := range params.SourcePaths {
		line += " " + src
	}
	for _, src := range params.SourceContents {
		op.req.Inline = append(op.req.Inline, buildcontext.Inline{Name: src.Path, Data: []byte(src.Data)})
		line += " <<" + src.Path
	}
	made := p.addStep(st, cmd, op)
	st.state.note(made, "%s %s # buildkit", line, params.DestPath)
	return nil
}

// isRemote reports whether a source of ADD is fetched: a URL, or git's short
// form user@host:path.
func isRemote(src string) bool {
	for _, scheme := range []string{"http://", "https://", "git://", "ssh://", "git@"} {
		if strings.HasPrefix(src, scheme) {
			return true
		}
	}
	return false
}

// parseChown reads user[:group]. Of a number alone the group has the same;
// names, and the group of a named user, are looked up when the step runs.
func parseChown(chown string) (owner buildcontext.Owner, byName bool) {
	user, group, hasGroup := strings.Cut(chown, ":")
	uid, ok := parseID(user)
	owner.UID, owner.GID = uid, uid
	byName = !ok
	if hasGroup {
		owner.GID, ok = parseID(group)
		byName = byName || !ok
	}
	return owner, byName
}

func parseID(s string) (uint32, bool) {
	if s == "root" {
		return 0, true
	}
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}

func (o *copyOp) kind() string { return "copy" }

func (o *copyOp) sources() []*stage {
	if o.from == nil || o.from.tree != nil {
		return nil
	}
	return []*stage{o.from}
}

func (o *copyOp) key(ctx context.Context, r *runner, s *step, h *cache.Hash) error {
	h.Add("chown", o.chown)
	h.Add("link", strconv.FormatBool(o.link))
	if o.changed && o.ownerByName() {
		// What was copied is not what the selection would digest: a key
		// that nothing else has.
		h.Add("unrepeatable", rand.Text())
		return nil
	}
	content, err := o.digest(ctx, r)
	if err != nil {
		return err
	}
	h.Add("content", content)
	return nil
}

func (o *copyOp) ownerByName() bool {
	_, byName := parseChown(o.chown)
	return o.chown != "" && byName
}

// digest is the content of what is copied. That of a stage is a function of
// the stage's end and the request, and remembered.
func (o *copyOp) digest(ctx context.Context, r *runner) (string, error) {
	if o.from == nil || o.from.tree != nil || o.changed {
		return o.selectAndDigest(ctx, r)
	}
	return r.memo(ctx, o.from, o.req, func() (string, error) { return o.selectAndDigest(ctx, r) })
}

func (o *copyOp) selectAndDigest(ctx context.Context, r *runner) (string, error) {
	if o.sel == nil {
		sel, err := o.selection(ctx, r, o.req)
		if err != nil {
			return "", err
		}
		o.sel = sel
	}
	d, err := o.sel.Digest(ctx)
	return d.String(), err
}

func (o *copyOp) selection(ctx context.Context, r *runner, req buildcontext.Request) (*buildcontext.Selection, error) {
	tree, err := r.tree(ctx, o.from)
	if err != nil {
		return nil, err
	}
	return tree.Select(ctx, req)
}

func (o *copyOp) run(ctx context.Context, r *runner, s *step, active snapshot.Active) error {
	root, err := active.Mount()
	if err != nil {
		return err
	}
	defer root.Close()
	sel := o.sel
	if sel == nil || o.ownerByName() {
		req := o.req
		if o.ownerByName() {
			owner := r.lookupOwner(s, root, o.chown)
			req.Owner = &owner
		}
		if sel, err = o.selection(ctx, r, req); err != nil {
			return err
		}
	}
	res, err := sel.Copy(ctx, root, buildcontext.CopyOptions{Epoch: r.opts.Epoch})
	if err != nil {
		return err
	}
	o.changed = len(res.Changed) > 0
	return nil
}

// lookupOwner finds names of --chown in the image. A user that isn't there is
// root, and a group that isn't the user's own, as in BuildKit, but not
// silently.
func (r *runner) lookupOwner(s *step, root *os.File, chown string) buildcontext.Owner {
	owner, _ := parseChown(chown)
	user, group, hasGroup := strings.Cut(chown, ":")
	warn := func(err error) {
		text := fmt.Sprintf("owner %s: %v: as if it were not given\n", chown, err)
		r.event(s.name, progress.Event{Log: &progress.Log{Stream: progress.Warning, Data: []byte(text)}})
	}
	if _, ok := parseID(user); !ok {
		owner = buildcontext.Owner{}
		u, err := container.LookupUser(root, user, nil)
		if err != nil {
			warn(err)
		} else {
			owner.UID, owner.GID = u.UID, u.GID
		}
	}
	if !hasGroup {
		return owner
	}
	if gid, ok := parseID(group); ok {
		owner.GID = gid
		return owner
	}
	u, err := container.LookupUser(root, "0:"+group, nil)
	if err != nil {
		warn(err)
		return owner
	}
	owner.GID = u.GID
	return owner
}

// tree is what a COPY takes files from: the context, or a stage's end.
func (r *runner) tree(ctx context.Context, st *stage) (*buildcontext.Tree, error) {
	if files, err := r.files(st); files != nil || err != nil {
		return files, err
	}
	run := r.stages[st]
	run.mu.Lock()
	defer run.mu.Unlock()
	if run.tree != nil {
		return run.tree, nil
	}
	id, err := run.snap(ctx)
	if err != nil {
		return nil, err
	}
	root, err := r.env.RootFS.Snapshots().View(ctx, id)
	if err != nil {
		return nil, err
	}
	r.temp.add(root)
	tree, err := buildcontext.OpenFile(root, buildcontext.Options{KeepOwner: true})
	if err != nil {
		return nil, err
	}
	r.temp.add(tree)
	run.tree, run.root = tree, root
	return tree, nil
}

// memo remembers a digest of part of a stage's end between builds.
func (r *runner) memo(ctx context.Context, st *stage, req buildcontext.Request, digest func() (string, error)) (string, error) {
	run, err := r.wait(ctx, st)
	if err != nil {
		return "", err
	}
	h := cache.NewHash("digest of a stage's files")
	h.Add("stage", run.ident)
	h.AddList("source", req.Sources)
	h.AddList("exclude", req.Exclude)
	h.Add("request", fmt.Sprintf("%q %t %t %q %+v", req.Dest, req.Parents, req.Unpack, req.Mode, owner(req)))
	for _, f := range req.Inline {
		h.Add(f.Name, string(f.Data))
	}
	key := h.Sum()
	if d := r.env.Cache.Memo(key); d != "" {
		return d, nil
	}
	d, err := digest()
	if err != nil {
		return "", err
	}
	return d, r.env.Cache.SetMemo(key, d)
}

func owner(req buildcontext.Request) string {
	if req.Owner == nil {
		return "kept"
	}
	return fmt.Sprintf("%d:%d", req.Owner.UID, req.Owner.GID)
}
