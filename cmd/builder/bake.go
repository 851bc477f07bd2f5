// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/bake"
	"builder/image"

	"github.com/spf13/pflag"
)

// bakeOptions are the flags of builder bake.
type bakeOptions struct {
	files, sets, vars, allow []string

	callFlags

	print, load, push, noCache, quiet bool

	pull, list, progress, metadataFile string
}

func (o *bakeOptions) addFlags(fs *pflag.FlagSet) {
	wordsVarP(fs, &o.files, "file", "f", "build definition, - for standard input; may be repeated (default compose.yaml, docker-bake.hcl and their like)")
	wordsVar(fs, &o.sets, "set", "override an attribute, `TARGET.KEY=VALUE`; TARGET may have wildcards, += adds to a list")
	wordsVar(fs, &o.vars, "var", "set a variable, `NAME=VALUE`")
	wordsVar(fs, &o.allow, "allow", "let targets do what they ask for: network.host, security.insecure, device[=NAME], ssh, fs.read=PATH, fs.write=PATH, fs=PATH")
	fs.BoolVar(&o.print, "print", false, "show what would be built, as JSON, and don't build")
	fs.StringVar(&o.list, "list", "", "list `targets|variables[,format=json]` and don't build")
	o.callFlags.addFlags(fs)
	fs.BoolVar(&o.load, "load", false, "put the images into the image store too, the same as --set=*.load=true")
	fs.BoolVar(&o.push, "push", false, "push the images, the same as --set=*.push=true")
	fs.BoolVar(&o.noCache, "no-cache", false, "run every step again")
	fs.StringVar(&o.pull, "pull", "", "when to ask the registry for base images, of every target: always (the meaning of --pull alone), missing or never")
	fs.Lookup("pull").NoOptDefVal = "always"
	fs.StringVar(&o.progress, "progress", "auto", "how progress is shown: auto, plain, tty, quiet or rawjson")
	fs.StringVar(&o.metadataFile, "metadata-file", "", "write what was built to a `FILE`, as JSON")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "show nothing but the targets' names and their images' IDs")
	addRefused(fs, refusedByBuild, "attest", "builder", "policy", "provenance", "sbom")
}

func runBake(ctx context.Context, e *env, args []string) error {
	fs := flags("bake")
	var o bakeOptions
	o.addFlags(fs)
	targets, err := e.parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	if len(targets) > 0 && bake.IsRemote(targets[0]) {
		return &usageError{msg: fmt.Sprintf("bake: %s: definitions elsewhere are not supported yet", targets[0]),
			hint: "fetch it, and run builder bake there"}
	}
	if o.print && o.list != "" {
		return &usageError{msg: "bake: --print and --list exclude each other", hint: "builder bake --help"}
	}
	cfg, err := o.parse(e)
	if err != nil {
		return err
	}
	if o.list != "" {
		return listBake(e.stdout, o.list, cfg)
	}
	call, err := o.callFlags.resolve()
	if err == nil && call != nil && call.format == "sarif" {
		err = errors.New("bake has no format sarif: check one Dockerfile at a time, with builder build")
	}
	if err != nil {
		return &usageError{msg: fmt.Sprintf("bake: --call: %v", err), hint: "builder bake --help"}
	}
	def, err := cfg.Resolve(targets, o.overrides(call))
	if err != nil {
		return err
	}
	if epoch := e.getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		for _, t := range def.Targets {
			if t.Args["SOURCE_DATE_EPOCH"] == nil {
				t.SetArg("SOURCE_DATE_EPOCH", epoch)
			}
		}
	}
	if o.print {
		return printJSON(e.stdout, def)
	}
	return o.build(ctx, &bakery{e: e, opts: &o, call: call, def: def, targets: map[string]*bakeTarget{}})
}

// overrides are those of --set and of the flags that stand for one.
func (o *bakeOptions) overrides(call *call) []string {
	sets := slices.Clone(o.sets)
	for _, f := range []struct {
		given bool
		set   string
	}{
		{o.push, "*.push=true"}, {o.load, "*.load=true"}, {o.noCache, "*.no-cache=true"},
	} {
		if f.given {
			sets = append(sets, f.set)
		}
	}
	if call != nil {
		sets = append(sets, "*.call="+call.name)
	}
	return sets
}

// parse reads and merges the definition files.
func (o *bakeOptions) parse(e *env) (*bake.Config, error) {
	files, err := o.readFiles(e)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for _, v := range o.vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, &usageError{msg: fmt.Sprintf("bake: --var %q: want NAME=VALUE", v), hint: "builder bake --help"}
		}
		vars[name] = value
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	opts := bake.Options{
		Builtins: map[string]string{"BAKE_CMD_CONTEXT": "cwd://", "BAKE_LOCAL_PLATFORM": image.FormatPlatform(image.HostPlatform())},
		Vars:     vars, ReadFile: os.ReadFile, Home: home, Now: time.Now,
	}
	off, err := e.truth("BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP")
	if err != nil {
		return nil, err
	}
	if !off {
		opts.Env = func(name string) (string, bool) { return lookupEnv(e, name) }
	}
	return bake.Parse(files, opts)
}

// truth is a variable of the environment that switches something on.
func (e *env) truth(name string) (bool, error) {
	v := strings.TrimSpace(e.getenv(name))
	if v == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("environment: %s=%q: want true or false", name, v)
	}
	return on, nil
}

// readFiles reads the files that are named, by -f or BUILDX_BAKE_FILE, or those
// of the usual names that are there.
func (o *bakeOptions) readFiles(e *env) ([]bake.File, error) {
	if relative, err := e.truth("BUILDX_BAKE_FILE_RELATIVE_PATHS"); err != nil || relative {
		return nil, errors.Join(err, errors.New("environment: BUILDX_BAKE_FILE_RELATIVE_PATHS is not supported: paths are relative to the current directory"))
	}
	names := o.files
	if len(names) == 0 {
		sep := e.getenv("BUILDX_BAKE_PATH_SEPARATOR")
		if sep == "" {
			sep = string(os.PathListSeparator)
		}
		for name := range strings.SplitSeq(e.getenv("BUILDX_BAKE_FILE"), sep) {
			if name = strings.TrimSpace(name); name != "" {
				names = append(names, name)
			}
		}
	}
	usual := len(names) == 0
	if usual {
		names = bake.DefaultFiles()
	}
	var files []bake.File
	for _, name := range names {
		name = strings.TrimPrefix(name, "cwd://")
		data, err := readDefinition(e.stdin, name)
		if usual && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read build definition: %w", err)
		}
		files = append(files, bake.File{Name: name, Data: data})
	}
	if len(files) == 0 {
		dir, err := filepath.Abs(".")
		if err != nil {
			return nil, err
		}
		return nil, &usageError{msg: fmt.Sprintf("bake: there is no build definition in %s", dir),
			hint: "name one with -f; looked for: " + strings.Join(names, ", ")}
	}
	return files, nil
}

// readDefinition reads a file, or standard input, up to a little more than a
// definition may have.
func readDefinition(stdin io.Reader, name string) ([]byte, error) {
	const most = 2 << 20
	if name == "-" {
		return io.ReadAll(io.LimitReader(stdin, most))
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}
