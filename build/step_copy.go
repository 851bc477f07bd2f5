// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"builder/buildcontext"
	"builder/cache"
	"builder/container"
	"builder/progress"
	"builder/snapshot"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// copyOp is COPY and ADD: it copies from one tree of files after the other.
type copyOp struct {
	parts []*copyPart
	chown string
	link  bool // copied beside what is below; never with --chmod, as in BuildKit
}

// copyPart is what a copyOp takes from one tree: the build context's, a
// stage's, an image's, or one that is fetched.
type copyPart struct {
	from *stage     // nil for the build context
	url  *urlSource // instead
	req  buildcontext.Request

	sel     *buildcontext.Selection // what the key was computed from
	changed bool                    // the files changed between key and copy
}

// changed tells whether files changed between key and copy.
func (o *copyOp) changed() bool {
	return slices.ContainsFunc(o.parts, func(p *copyPart) bool { return p.changed })
}

// dispatchCopy makes the step of a COPY.
func (p *plan) dispatchCopy(st *stage, cmd command, c *instructions.CopyCommand) error {
	part := &copyPart{}
	if len(cmd.sources) > 0 {
		part.from = cmd.sources[0]
		if !part.from.implicit && !part.from.dispatched {
			return fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", c.From, st.name)
		}
	}
	for _, src := range c.SourcePaths {
		url, err := newURLSource(src)
		if err != nil {
			return err
		}
		if url != nil {
			return fmt.Errorf("source %q can't be a %s for COPY: use ADD", src, url.kind())
		}
		if part.from == nil {
			p.checkSource(st.state, "Copy", src)
		}
	}
	part.req = buildcontext.Request{
		Sources: c.SourcePaths, Dest: st.state.abs(c.DestPath), Exclude: c.ExcludePatterns, Parents: c.Parents, Mode: c.Chmod,
	}
	flags := ""
	if c.Parents {
		flags = " --parents"
	}
	part.addInline(c.SourceContents)
	return p.addCopy(st, cmd, &copyOp{parts: []*copyPart{part}, chown: c.Chown, link: c.Link && c.Chmod == ""}, "COPY"+flags, c.SourcesAndDest)
}

// addInline adds the files that the instruction itself holds.
func (p *copyPart) addInline(files []instructions.SourceContent) {
	for _, f := range files {
		p.req.Inline = append(p.req.Inline, buildcontext.Inline{Name: f.Path, Data: []byte(f.Data)})
	}
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
		for _, part := range op.parts {
			part.req.Owner = &owner
		}
		line += " --chown=" + op.chown
	}
	if mode := op.parts[0].req.Mode; mode != "" {
		if err := buildcontext.CheckMode(mode); err != nil {
			return err
		}
		line += " --chmod=" + mode
	}
	for _, src := range params.SourcePaths {
		line += " " + src
	}
	for _, src := range params.SourceContents {
		line += " <<" + src.Path
	}
	made := p.addStep(st, cmd, op)
	st.state.note(made, "%s %s # buildkit", line, params.DestPath)
	return nil
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
	var stages []*stage
	for _, p := range o.parts {
		if p.from != nil && p.from.tree == nil {
			stages = append(stages, p.from)
		}
	}
	return stages
}

func (o *copyOp) key(ctx context.Context, r *runner, s *step, h *cache.Hash) error {
	h.Add("chown", o.chown)
	h.Add("link", strconv.FormatBool(o.link))
	if o.changed() && o.ownerByName() {
		// What was copied is not what the selection would digest: a key
		// that nothing else has.
		h.Add("unrepeatable", rand.Text())
		return nil
	}
	for _, p := range o.parts {
		content, err := p.digest(ctx, r, s)
		if err != nil {
			return err
		}
		h.Add("content", content)
	}
	return nil
}

func (o *copyOp) ownerByName() bool {
	_, byName := parseChown(o.chown)
	return o.chown != "" && byName
}

// digest is the content of what is copied. That of a stage is a function of
// the stage's end and the request, and remembered; so is that of what is
// fetched, which needs no fetching then.
func (p *copyPart) digest(ctx context.Context, r *runner, s *step) (string, error) {
	compute := func() (string, error) { return p.selectAndDigest(ctx, r, s) }
	switch {
	case p.changed, p.url == nil && (p.from == nil || p.from.tree != nil):
		return compute()
	case p.url != nil:
		id, err := p.url.resolve(ctx, r, s)
		if err != nil {
			return "", err
		}
		return r.memo(ctx, filesName{here: id, everywhere: id, told: true}, p.req, compute)
	}
	run, err := r.wait(ctx, p.from)
	if err != nil {
		return "", err
	}
	return r.memo(ctx, run.name(), p.req, compute)
}

func (p *copyPart) selectAndDigest(ctx context.Context, r *runner, s *step) (string, error) {
	if p.sel == nil {
		sel, err := p.selection(ctx, r, s, p.req)
		if err != nil {
			return "", err
		}
		p.sel = sel
	}
	d, err := p.sel.Digest(ctx)
	return d.String(), err
}

func (p *copyPart) selection(ctx context.Context, r *runner, s *step, req buildcontext.Request) (*buildcontext.Selection, error) {
	var tree *buildcontext.Tree
	var err error
	if p.url != nil {
		tree, err = p.url.fetch(ctx, r, s)
	} else {
		tree, err = r.tree(ctx, p.from)
	}
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
	var owner *buildcontext.Owner
	if o.ownerByName() {
		found := r.lookupOwner(s, root, o.chown)
		owner = &found
	}
	for _, p := range o.parts {
		if err := p.copy(ctx, r, s, root, owner); err != nil {
			return err
		}
	}
	return nil
}

// copy copies to the root of a container. owner, if not nil, is whose the
// copies are.
func (p *copyPart) copy(ctx context.Context, r *runner, s *step, root *os.File, owner *buildcontext.Owner) error {
	sel := p.sel
	if sel == nil || owner != nil {
		req := p.req
		if owner != nil {
			req.Owner = owner
		}
		var err error
		if sel, err = p.selection(ctx, r, s, req); err != nil {
			return err
		}
	}
	res, err := sel.Copy(ctx, root, buildcontext.CopyOptions{Epoch: r.opts.Epoch})
	if err != nil {
		return err
	}
	p.changed = len(res.Changed) > 0
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

// memo remembers a digest of part of some files between builds: of a stage's
// end, or of what was fetched.
func (r *runner) memo(ctx context.Context, files filesName, req buildcontext.Request, digest func() (string, error)) (d string, err error) {
	key, shared := memoKey(files.here, req), memoKey(files.everywhere, req)
	if d = r.env.Cache.Memo(key); d == "" && files.told {
		d, err = r.importMemo(ctx, files, shared)
	}
	if d == "" && err == nil {
		if d, err = digest(); err == nil {
			err = r.env.Cache.SetMemo(key, d)
		}
	}
	if err == nil {
		r.exports.note(files.everywhere, shared, d)
	}
	return d, err
}

// importMemo returns what another build remembered, which then is remembered
// here too, with that it is known.
func (r *runner) importMemo(ctx context.Context, files filesName, key cache.Key) (string, error) {
	if d := r.env.Cache.Memo(key); d != "" {
		return d, nil
	}
	d := r.imports.value(ctx, key)
	if d == "" {
		return "", nil
	}
	if step, ok := strings.CutPrefix(files.everywhere, "step "); ok {
		known := []cache.Key{endKey(cache.Key(step))}
		for _, key := range files.way {
			known = append(known, wayKey(key))
		}
		for _, key := range known {
			if err := r.env.Cache.SetMemo(key, "known"); err != nil {
				return "", err
			}
		}
	}
	return d, r.env.Cache.SetMemo(key, d)
}

func memoKey(files string, req buildcontext.Request) cache.Key {
	h := cache.NewHash("digest of files")
	h.Add("files", files)
	h.AddList("source", req.Sources)
	h.AddList("exclude", req.Exclude)
	h.Add("request", fmt.Sprintf("%q %t %t %q %+v", req.Dest, req.Parents, req.Unpack, req.Mode, owner(req)))
	for _, f := range req.Inline {
		h.Add(f.Name, string(f.Data))
	}
	return h.Sum()
}

func owner(req buildcontext.Request) string {
	if req.Owner == nil {
		return "kept"
	}
	return fmt.Sprintf("%d:%d", req.Owner.UID, req.Owner.GID)
}
