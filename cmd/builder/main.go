// SPDX-License-Identifier: Apache-2.0

// Command builder turns Dockerfiles into OCI images and runs them, without a
// daemon.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"builder/container"
	"builder/store"
	"builder/usernet"
	"builder/userns"

	"github.com/spf13/pflag"
)

// Exit codes. A run command ends with its process's own code instead, and
// with docker's 125, 126 and 127 where there was none.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	container.Init() // does not return in a container's first process
	userns.Init()
	whole := startedWhole()
	ctx, interrupts := catchInterrupts()
	e := &env{interrupts: interrupts, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	err := dispatch(ctx, e, os.Args[1:])
	if wantsWhole(err) && !whole { // else this file is one of the two alone
		interrupts.stop()
		if err = interrupts.err(); err == nil {
			err = becomeWhole()
		}
	}
	code := e.report(err)
	interrupts.stop()
	os.Exit(code)
}

// env is what a command knows of the process it runs in.
type env struct {
	stdin          *os.File
	stdout, stderr *os.File
	getenv         func(string) string
	tell           func(string) // of registries, with --verbose; nil: nobody

	interrupts *interrupts // nil for none

	root  string // --root
	debug bool   // --debug

	opened  *store.Store
	docker  *dockerConfig   // see [env.dockerConfig]
	usernet *usernet.Client // see networkBase

	// How requests to registries are repeated; 0 for the defaults.
	attempts int
	delay    time.Duration
}

// command is one subcommand.
type command struct {
	name  string
	args  string // as shown in usage
	short string
	run   runFunc // nil in the front program for one that only the whole one has
}

type runFunc func(ctx context.Context, e *env, args []string) error

func commands() []command {
	return []command{
		{"build", "[OPTIONS] PATH | -", "build an image from a Dockerfile", runBuild},
		{"bake", "[OPTIONS] [TARGET...]", "build the targets of a docker-bake or compose file", runBake},
		{"run", "[OPTIONS] IMAGE [COMMAND] [ARG...]", "run a command in a new container", runRun},
		{"images", "[OPTIONS] [REPOSITORY[:TAG]]", "list images", runImages},
		{"inspect", "[OPTIONS] NAME [NAME...]", "show everything known about containers, images, networks and volumes", runInspect},
		{"history", "[OPTIONS] IMAGE", "show how an image came to be", runHistory},
		{"tree", "[OPTIONS] IMAGE", "show an image's layers and the images on the way to it", runTree},
		{"diff", "[OPTIONS] CONTAINER | IMAGE [IMAGE]", "show what a container has changed, or in which paths an image differs from another, or from itself before its last layer", runDiff},
		{"tag", "SOURCE TARGET [TARGET...]", "give an image more names", runTag},
		{"login", "[SERVER[/REPOSITORY]]", "keep a user name and password for a registry", runLogin},
		{"logout", "[SERVER[/REPOSITORY]]", "forget them", runLogout},
		{"untag", "IMAGE [NAME...]", "take names away from an image", runUntag},
		{"rmi", "[OPTIONS] IMAGE [IMAGE...]", "remove images", runRmi},
		{"pull", "[OPTIONS] NAME[:TAG|@DIGEST]", "fetch an image from a registry", runPull},
		{"push", "[OPTIONS] NAME[:TAG]", "send an image to a registry", runPush},
		{"manifest", "create [OPTIONS] LIST [IMAGE...] | add [OPTIONS] LIST IMAGE... | annotate [OPTIONS] LIST [IMAGE] | remove LIST IMAGE... | inspect [OPTIONS] [LIST] NAME | exists LIST | push [OPTIONS] LIST [NAME] | rm LIST... | referrers [OPTIONS] NAME | attach [OPTIONS] NAME FILE[:TYPE]...", "make images for several platforms out of images; list and attach what refers to an image", runManifest},
		{"load", "[OPTIONS]", "load images from an OCI or docker archive", runLoad},
		{"save", "[OPTIONS] IMAGE [IMAGE...]", "write images to an archive", runSave},
		{"export", "[OPTIONS] CONTAINER", "write the files of a container as a tar", runExport},
		{"import", "[OPTIONS] FILE|- [REPOSITORY[:TAG]]", "make an image of a root file system's tar", runImport},
		{"context", "ls [OPTIONS] PATH|URL|-", "show what a build context holds", runContext},
		{"debug", "[OPTIONS] [ID] [COMMAND [ARG...]] | ls | rm ID...", "run a command in what a failed step left", runDebug},
		{"create", "[OPTIONS] IMAGE [COMMAND] [ARG...]", "make a container that is started later", runCreate},
		{"start", "[OPTIONS] CONTAINER [CONTAINER...]", "start containers that don't run", runStart},
		{"stop", "[OPTIONS] CONTAINER [CONTAINER...]", "stop containers", runStop},
		{"restart", "[OPTIONS] CONTAINER [CONTAINER...]", "stop containers and start them again", runRestart},
		{"kill", "[OPTIONS] CONTAINER [CONTAINER...]", "send a signal to containers", runKill},
		{"pause", "CONTAINER [CONTAINER...]", "stop the processes of containers until unpause", runPause},
		{"unpause", "CONTAINER [CONTAINER...]", "let paused containers go on", runUnpause},
		{"update", "[OPTIONS] CONTAINER [CONTAINER...]", "change what containers may use", runUpdate},
		{"stats", "[OPTIONS] [CONTAINER...]", "show what running containers use", runStats},
		{"top", "CONTAINER [PS OPTIONS]", "show the processes of a container", runTop},
		{"wait", "CONTAINER [CONTAINER...]", "wait for the end of containers and print their exit codes", runWait},
		{"exec", "[OPTIONS] CONTAINER COMMAND [ARG...]", "run a command in a running container", runExec},
		{"attach", "[OPTIONS] CONTAINER", "connect to a running container's streams", runAttach},
		{"logs", "[OPTIONS] CONTAINER", "show what a container has written", runLogs},
		{"events", "[OPTIONS]", "show what happens to containers", runEvents},
		{"ps", "[OPTIONS]", "list containers", runPs},
		{"cp", "[OPTIONS] CONTAINER:PATH PATH|- | PATH|- CONTAINER:PATH", "copy files from or to a container", runCp},
		{"commit", "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]", "make an image of what a container has changed", runCommit},
		{"rename", "CONTAINER NAME", "give a container another name", runRename},
		{"rm", "[OPTIONS] CONTAINER [CONTAINER...]", "remove containers", runRm},
		{"port", "CONTAINER [PORT[/udp]]", "show which ports of this machine lead to a container", runPort},
		{"network", "ls [OPTIONS] | create [OPTIONS] NAME | rm NAME... | inspect [OPTIONS] NAME... | connect [OPTIONS] NAME CONTAINER | disconnect NAME CONTAINER | prune [OPTIONS]", "make and see networks of containers", runNetwork},
		{"volume", "ls [OPTIONS] | create [OPTIONS] [NAME] | rm NAME... | inspect [OPTIONS] NAME... | prune [OPTIONS]", "make and see directories that outlive containers", runVolume},
		{"mount", "[IMAGE...]", "mount the file systems of images, to be read, or list the mounts", runMount},
		{"unmount", "IMAGE...", "unmount them", runUnmount},
		{"info", "[NAME]", "show what there is here, or which servers are asked for a name", runInfo},
		{"container", "COMMAND | prune", "the commands about containers by docker's second names, and prune", runGroup("container")},
		{"image", "COMMAND", "the commands about images by docker's second names", runGroup("image")},
		{"system", "COMMAND", "df, events, info and prune by docker's second names", runGroup("system")},
		{"buildx", "COMMAND", "build, bake, df (du) and prune by docker's second names", runGroup("buildx")},
		{"builder", "COMMAND", "build and prune by docker's second names", runGroup("builder")},
		{"generate", "systemd [OPTIONS] [CONTAINER...]", "write units of systemd: one that starts containers with the machine, or one for each container", runGenerate},
		{"doctor", "[OPTIONS]", "probe what steps and containers need here, and say how to get what is missing", runDoctor},
		{"df", "[OPTIONS]", "show what takes how much disk", runDf},
		{"prune", "[OPTIONS]", "remove what nothing needs", runPrune},
		{"version", "", "show the version", runVersion},
		{"monitor", "", "", runMonitor}, // these are started by others
		{"usernet", "", "", runUsernet},
		{"hold-terminal", "", "", runHoldTerminal},
	}
}

// usageError is a command line that can't be understood.
type usageError struct {
	msg  string
	hint string
}

func (e *usageError) Error() string { return e.msg }

// Hint is what to type instead.
func (e *usageError) Hint() string { return e.hint }

// exitError ends the process with a code; the message, if any, has been shown.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func dispatch(ctx context.Context, e *env, args []string) error {
	global := pflag.NewFlagSet("builder", pflag.ContinueOnError)
	global.SetInterspersed(false)
	global.SetOutput(io.Discard)
	global.StringVar(&e.root, "root", "", "state directory")
	global.BoolVarP(&e.debug, "debug", "D", false, "tell more")
	version := global.BoolP("version", "v", false, "show the version")
	config := global.String("config", "", "directory of docker's config file, as DOCKER_CONFIG has it")
	level := global.StringP("log-level", "l", "info", "debug is --debug; the others change nothing")
	addRefused(global, refusedGlobally)
	err := global.Parse(args)
	rest := global.Args()
	switch {
	case errors.Is(err, pflag.ErrHelp) || (err == nil && !*version && len(rest) == 0) || (len(rest) == 1 && rest[0] == "help"):
		fmt.Fprint(e.stdout, usage())
		return nil
	case err != nil:
		return &usageError{msg: err.Error(), hint: "builder --help lists the commands and flags"}
	case !slices.Contains([]string{"debug", "info", "warn", "error", "fatal"}, *level):
		return &usageError{msg: fmt.Sprintf("--log-level %q: want debug, info, warn, error or fatal", *level)}
	case *version:
		return runVersion(ctx, e, nil)
	}
	e.debug = e.debug || *level == "debug"
	if getenv := e.getenv; *config != "" {
		e.getenv = func(name string) string {
			if name == "DOCKER_CONFIG" {
				return *config
			}
			return getenv(name)
		}
	}
	if rest[0] == "help" {
		rest = []string{rest[1], "--help"}
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == rest[0] })
	if i < 0 {
		return &usageError{msg: fmt.Sprintf("unknown command %q%s", rest[0], didYouMean(rest[0], all)), hint: "builder --help lists the commands"}
	}
	if all[i].run == nil {
		return errWhole
	}
	if entersNamespace(rest[0], rest[1:]) {
		err := e.enterNamespace(ctx)
		if !goesWithout(rest[0], err) {
			return err
		}
		if rest[0] == "build" || rest[0] == "bake" {
			e.warn(fmt.Sprintf("%v: RUN steps get no namespaces, no /proc and no network of their own, and files are copied where they would be mounted (docs/rootless.md, In a container)", err))
		}
	}
	defer e.close()
	return all[i].run(ctx, e, rest[1:])
}

func didYouMean(name string, all []command) string {
	for _, c := range all {
		if strings.HasPrefix(c.name, name) || strings.HasPrefix(name, c.name) {
			return fmt.Sprintf(" (did you mean %q?)", c.name)
		}
	}
	return ""
}

func usage() string {
	var b strings.Builder
	b.WriteString("builder turns Dockerfiles into OCI images and runs them.\n\n")
	b.WriteString("Usage: builder [--root DIR] [--config DIR] [--debug] COMMAND [OPTIONS] [ARGS]\n\n")
	b.WriteString("  builder build -t app .      build the Dockerfile here\n")
	b.WriteString("  builder run --rm -it app    run what was built\n\nCommands:\n")
	for _, c := range commands() {
		if c.short == "" {
			continue
		}
		fmt.Fprintf(&b, "  %-9s %s\n", c.name, c.short)
	}
	b.WriteString("\nbuilder COMMAND --help tells more of a command.\n")
	b.WriteString("State is kept in /var/lib/builder, or where --root or BUILDER_ROOT says.\n")
	b.WriteString("--config and DOCKER_CONFIG say where docker's config file is, if not in ~/.docker.\n")
	b.WriteString("Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted; run ends with the\n")
	b.WriteString("process's own code, or 125 builder failed, 126 not executable, 127 not found.\n")
	return b.String()
}

// flags makes the flag set of a command.
func flags(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.SortFlags = true
	return fs
}

// otherNames lets flags be given by further names too.
func otherNames(fs *pflag.FlagSet, names map[string]string) {
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(first(names[name], name))
	})
}

// parse parses a command's arguments and checks how many are left; most is -1
// for any number. With --help it prints the usage and returns pflag.ErrHelp.
func (e *env) parse(fs *pflag.FlagSet, args []string, least, most int) ([]string, error) {
	cmd := commandNamed(fs.Name())
	err := fs.Parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintf(e.stdout, "Usage: builder %s %s\n\n%s.\n", cmd.name, cmd.args, upperFirst(cmd.short))
		if u := flagUsages(fs, e.outputWidth()); u != "" {
			fmt.Fprintf(e.stdout, "\nOptions:\n%s", u)
		}
		return nil, err
	}
	hint := fmt.Sprintf("builder %s --help", cmd.name)
	if err != nil {
		return nil, &usageError{msg: fmt.Sprintf("%s: %s", cmd.name, err), hint: hint}
	}
	if n := fs.NArg(); n < least || (most >= 0 && n > most) {
		return nil, &usageError{msg: fmt.Sprintf("%s: %d arguments given; usage: builder %s %s", cmd.name, n, cmd.name, cmd.args), hint: hint}
	}
	return fs.Args(), nil
}

func commandNamed(name string) command {
	all := commands()
	return all[slices.IndexFunc(all, func(c command) bool { return c.name == name })]
}

func upperFirst(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// store opens the state directory once.
func (e *env) store() (*store.Store, error) {
	if e.opened != nil {
		return e.opened, nil
	}
	if e.interrupts != nil {
		<-e.interrupts.caught
	}
	s, err := store.Open(e.stateDir())
	if err != nil {
		return nil, err
	}
	e.opened = s
	if q, err := e.quota(); err == nil { // what it says that is wrong, commands that write say
		s.KeepFree(q.minFree)
	}
	return s, nil
}

// stateDir is where images, caches and containers are kept.
func (e *env) stateDir() string {
	if e.root != "" {
		return e.root
	}
	if dir := e.getenv("BUILDER_ROOT"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/builder"
	}
	if dir := e.getenv("XDG_DATA_HOME"); dir != "" {
		return dir + "/builder"
	}
	return e.getenv("HOME") + "/.local/share/builder"
}

func (e *env) close() {
	if e.opened == nil {
		return
	}
	if err := e.opened.Close(); err != nil {
		fmt.Fprintf(e.stderr, "builder: close state directory: %v\n", err)
	}
}

// report prints what a command ended with and maps it to an exit code.
func (e *env) report(err error) int {
	var exit *exitError
	var usage *usageError
	var own *codedError
	coded := errors.As(err, &own)
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return 0
	case errors.As(err, &exit):
		return exit.code
	case errors.Is(err, context.Canceled) && !coded:
		fmt.Fprintln(e.stderr, "builder: interrupted")
		return exitInterrupted
	}
	e.explain(err)
	var hinter interface{ Hint() string }
	if errors.As(err, &hinter) && hinter.Hint() != "" {
		fmt.Fprintf(e.stderr, "hint: %s\n", hinter.Hint())
	}
	switch {
	case coded:
		return own.code
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailure
}

// explain prints an error, after what it is about if that is known.
func (e *env) explain(err error) {
	e.showSource(err)
	fmt.Fprintf(e.stderr, "builder: %v\n", err)
}
