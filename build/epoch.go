// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/buildcontext"
	"builder/dockerfile"
	"builder/image"
	"builder/progress"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

const epochArg = "SOURCE_DATE_EPOCH"

// resolveEpoch finds the time of SOURCE_DATE_EPOCH: a build argument or the
// default of a global ARG. It is in seconds since 1970, or says whose time it
// is: "context" the build context's, the name of a named context that one's,
// the name of a stage that of the source which the stage ADDs. The ARG then
// has the seconds as its value, and none where there is no time.
func (p *plan) resolveEpoch(ctx context.Context, env Env) error {
	value, given := p.opts.Args[epochArg]
	if !given {
		value, _ = p.args.Get(epochArg)
	}
	if value != "" {
		at, err := p.epochOf(ctx, env, value)
		if err != nil {
			return p.file.At(nil, fmt.Errorf("%s=%q: %w", epochArg, value, err))
		}
		p.opts.Epoch = at
	}
	if p.opts.Edits.Timestamp != nil {
		p.opts.Epoch = p.opts.Edits.Timestamp
	}
	text := ""
	if p.opts.Epoch != nil {
		text = strconv.FormatInt(p.opts.Epoch.Unix(), 10)
	}
	if given {
		p.opts.Args = maps.Clone(p.opts.Args)
		p.opts.Args[epochArg] = text
		if text == "" {
			delete(p.opts.Args, epochArg)
		}
	}
	if _, ok := p.args.Get(epochArg); ok {
		p.args.Set(epochArg, text)
	}
	p.opts.Images = slices.Clone(p.opts.Images)
	for i := range p.opts.Images {
		form := &p.opts.Images[i]
		if form.Epoch == nil {
			form.Epoch = &Epoch{p.opts.Epoch}
		}
		form.Layer.Epoch, form.Layer.Time = form.Epoch.Time, p.opts.Edits.Timestamp
		if form.KeepTimes {
			form.Layer.Epoch, form.Layer.Time = nil, nil
		}
	}
	return nil
}

// epochOf is the time that a value stands for, nil for none.
func (p *plan) epochOf(ctx context.Context, env Env, value string) (*time.Time, error) {
	if sec, err := strconv.ParseInt(value, 10, 64); err == nil && sec >= 0 {
		t := time.Unix(sec, 0).UTC()
		return &t, nil
	}
	if value == "context" {
		return timeOf(ctx, env, p.opts.ContextURL)
	}
	if open := p.namedContext(value, image.HostPlatform()); open != nil {
		src, err := open(ctx, image.HostPlatform())
		if err != nil {
			return nil, err
		}
		return timeOf(ctx, env, src.URL)
	}
	for _, st := range p.file.Stages {
		if strings.EqualFold(st.Name, value) {
			u, err := p.epochSource(st)
			if err != nil {
				return nil, p.file.At(st.Location, err)
			}
			return u.time(ctx, env)
		}
	}
	return nil, errors.New(`want seconds since 1970, "context", or the name of a named context or a stage`)
}

// epochSource is what a stage that only says a time ADDs: it is FROM scratch
// and has one remote ADD, and ARGs for it.
func (p *plan) epochSource(st instructions.Stage) (*urlSource, error) {
	if base, _, err := p.expand.Word(st.BaseName, p.args); err != nil || base != "scratch" {
		return nil, fmt.Errorf("the stage %q of %s must be FROM scratch", st.Name, epochArg)
	}
	env := p.args.Clone()
	var source *urlSource
	for _, cmd := range st.Commands {
		switch c := cmd.(type) {
		case *instructions.ArgCommand:
			if err := p.setArgs(env, c); err != nil {
				return nil, err
			}
		case *instructions.AddCommand:
			u, err := p.epochAdd(env, c)
			if err == nil && (u == nil || source != nil) {
				err = fmt.Errorf("the stage %q of %s must have exactly one ADD of one remote source", st.Name, epochArg)
			}
			if err != nil {
				return nil, err
			}
			source = u
		default:
			return nil, fmt.Errorf("the stage %q of %s can't have %s, only ARG and a remote ADD", st.Name, epochArg, strings.ToUpper(c.Name()))
		}
	}
	if source == nil {
		return nil, fmt.Errorf("the stage %q of %s has no remote ADD", st.Name, epochArg)
	}
	return source, nil
}

// setArgs declares ARGs as BuildKit does where it looks for a time.
func (p *plan) setArgs(env *image.Env, c *instructions.ArgCommand) error {
	for _, arg := range c.Args {
		v, ok := p.opts.Args[arg.Key]
		if !ok {
			if arg.Value == nil {
				continue
			}
			var err error
			if v, _, err = p.expand.Word(*arg.Value, env); err != nil {
				return err
			}
		}
		env.Set(arg.Key, v)
	}
	return nil
}

// epochAdd is the source of an ADD, nil unless it is one that is remote.
func (p *plan) epochAdd(env *image.Env, c *instructions.AddCommand) (*urlSource, error) {
	if len(c.SourcePaths) != 1 || len(c.SourceContents) > 0 {
		return nil, nil
	}
	src, _, err := p.expand.Word(c.SourcePaths[0], env)
	if err != nil {
		return nil, err
	}
	flags := *c
	if flags.Checksum, _, err = p.expand.Word(c.Checksum, env); err != nil {
		return nil, err
	}
	u, err := newURLSource(src)
	if u == nil || err != nil {
		return nil, err
	}
	return u, u.setFlags(&flags)
}

// timeOf is the time of what is at a URL, nil if it has none or there is no
// URL.
func timeOf(ctx context.Context, env Env, url string) (*time.Time, error) {
	if url == "" {
		return nil, nil
	}
	git, err := dockerfile.ParseGitRef(url)
	if err != nil {
		return nil, err
	}
	u := &urlSource{url: url, git: git}
	return u.time(ctx, env)
}

// time is that of the commit; of a file the one that its server gives, or else
// of the youngest file in it, if it is an archive.
func (u *urlSource) time(ctx context.Context, env Env) (*time.Time, error) {
	if env.Remote == nil {
		return nil, errors.New("this build can't fetch")
	}
	dir, err := env.Store.TempDir()
	if err != nil {
		return nil, err
	}
	tell := func(progress.Event) {}
	name := filepath.Join(dir, "source")
	if u.git != nil {
		ref, none := *u.git, false
		ref.CommitTime, ref.Submodules, ref.KeepGitDir, ref.Subdir = true, &none, nil, ""
		err = env.Remote.FetchGit(ctx, ref, name, tell)
	} else {
		err = env.Remote.FetchFile(ctx, u.url, u.checksum, name, tell)
	}
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	at := fi.ModTime().UTC()
	if at.Unix() != 0 { // else the server said nothing
		return &at, nil
	}
	return youngest(ctx, name, filepath.Join(dir, "unpacked"))
}

// youngest is the latest time of a regular file in an archive, which is
// unpacked into a new directory; nil if it is none.
func youngest(ctx context.Context, archive, dir string) (*time.Time, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if buildcontext.ExtractTar(ctx, f, dir) != nil {
		return nil, context.Cause(ctx) // no archive
	}
	var latest *time.Time
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err == nil && (latest == nil || fi.ModTime().After(*latest)) {
			at := fi.ModTime().UTC()
			latest = &at
		}
		return err
	})
	return latest, err
}
