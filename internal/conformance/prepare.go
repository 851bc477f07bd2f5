// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Work is a case made ready to be built.
type Work struct {
	Dir     string   // has ctx, Dockerfile and what lies beside
	Args    []string // flags, --file among them if it is needed
	Context string   // a directory, a URL, or "-" for standard input
	Stdin   string   // the file that standard input comes from, "" for none
	Output  string   // what --output says but for dest

	url string
}

// Prepare fills a new directory with what the case is built from. Modes are
// 0755 and 0644 and times are fixed, whatever the checkout made of them,
// except where setup.sh says otherwise. Words are replaced: @WORK@ by the
// directory, @BASE@ by that of the base images, @HTTP@ by the address below
// which the server has the files of DIR/http and, below git/, the repositories
// of DIR/git, and @AGENT@ by the socket of an ssh agent.
//
// If the context is "-", standard input is DIR/http/context.tar, or the
// Dockerfile where that is not there.
func (c Case) Prepare(dir, base string, server *Server) (*Work, error) {
	w := &Work{Dir: dir, url: server.Add(c.Name, dir)}
	words := strings.NewReplacer("@WORK@", dir, "@BASE@", base, "@HTTP@", w.url, "@AGENT@", server.Agent)
	for _, a := range c.Args {
		w.Args = append(w.Args, words.Replace(a))
	}
	w.Context, w.Output = words.Replace(c.Context), words.Replace(c.Output)
	if err := c.fill(dir, words); err != nil {
		return nil, fmt.Errorf("copy files of %s: %w", c.Name, err)
	}
	setup, err := filepath.Abs(filepath.Join(c.Dir, "setup.sh"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("sh", "-eu", "-c", finish, setup)
	cmd.Dir = filepath.Join(dir, "ctx")
	cmd.Env = append(os.Environ(), setupEnv...)
	cmd.Env = append(cmd.Env, "HTTP="+w.url, "BASE="+base)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("set up %s: %w\n%s", c.Name, err, out)
	}
	w.place()
	return w, nil
}

// place finds where the Dockerfile is and what standard input is.
func (w *Work) place() {
	own := filepath.Join(w.Dir, "Dockerfile")
	_, err := os.Stat(own)
	named := slices.ContainsFunc(w.Args, func(a string) bool { return strings.HasPrefix(a, "--file=") })
	if err == nil && !named && filepath.IsAbs(w.Context) {
		w.Args = append(w.Args, "--file="+own)
	}
	if slices.Contains(w.Args, "--file=-") {
		w.Stdin = own
	}
	if w.Context == "-" {
		w.Stdin = filepath.Join(w.Dir, "http", "context.tar")
		if _, err := os.Stat(w.Stdin); err != nil {
			w.Stdin = own
		}
	}
}

// setupEnv makes commits come out the same everywhere.
var setupEnv = []string{
	"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_AUTHOR_NAME=author", "GIT_AUTHOR_EMAIL=author@example.org",
	"GIT_COMMITTER_NAME=committer", "GIT_COMMITTER_EMAIL=committer@example.org",
	"GIT_AUTHOR_DATE=1200000000 +0000", "GIT_COMMITTER_DATE=1200000000 +0000",
}

// finish runs setup.sh and gives a fixed time to all that was made just now
// and not dated by it.
const finish = `umask 022
if [ -e "$0" ]; then . "$0"; fi
find .. -newermt 2020-01-01 -print0 | sort -rz | xargs -0r touch -hd @1234567890`

func (c Case) fill(dir string, words *strings.Replacer) error {
	ctx := filepath.Join(dir, "ctx")
	if err := os.MkdirAll(ctx, 0o755); err != nil {
		return err
	}
	if err := copyFiles(filepath.Join(c.Dir, "ctx"), ctx); err != nil {
		return err
	}
	if err := copyFiles(filepath.Join(c.Dir, "work"), dir); err != nil {
		return err
	}
	for _, name := range []string{"Dockerfile", "Dockerfile.dockerignore"} {
		data, err := os.ReadFile(filepath.Join(c.Dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(words.Replace(string(data))), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// copyFiles copies a tree, if it is there, into a directory.
func copyFiles(from, to string) error {
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dest := filepath.Join(to, strings.TrimPrefix(path, from))
		info, err := d.Info()
		switch {
		case err != nil || path == from:
			return err
		case d.IsDir():
			return os.MkdirAll(dest, 0o755)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, dest)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(dest, data, 0o600); err != nil {
			return err
		}
		return os.Chmod(dest, 0o644|info.Mode().Perm()&0o100|info.Mode().Perm()&0o100>>3|info.Mode().Perm()&0o100>>6)
	})
}

// Load reads what the build wrote. Where the image names the server, it has
// the word @HTTP@.
func (w *Work) Load(file string, bases []*Image) (*Image, error) {
	read := Load
	if strings.HasPrefix(w.Output, "type=tar") {
		read = LoadTree
	}
	img, err := read(file, bases)
	if err == nil {
		img.hide(w.url, "@HTTP@")
	}
	return img, err
}

// Hide has words for what is different in each run: the server's address and
// the directory.
func (w *Work) Hide(text string) string {
	return strings.NewReplacer(w.url, "@HTTP@", w.Dir, "@WORK@").Replace(text)
}

// URL is the address of the case's files.
func (w *Work) URL() string { return w.url }
