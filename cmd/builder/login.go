// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"builder/image"
	"builder/registry"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// loginOptions are the flags of login and logout.
type loginOptions struct {
	user, password string
	stdin          bool
	show           bool
	all            bool
	authFile       string
	insecure       bool
}

// maxPassword is the most bytes that a password may have.
const maxPassword = 64 << 10

func runLogin(ctx context.Context, e *env, args []string) error {
	fs := flags("login")
	var o loginOptions
	fs.StringVarP(&o.user, "username", "u", "", "user `NAME`")
	fs.StringVarP(&o.password, "password", "p", "", "password or token; others see it in the list of processes: better --password-stdin")
	fs.BoolVar(&o.stdin, "password-stdin", false, "read the password from standard input")
	fs.BoolVar(&o.show, "get-login", false, "print the user name that is kept, and log in nowhere")
	fs.BoolVar(&o.insecure, "insecure", false, "the registry may speak http, or have any certificate")
	o.addFile(fs)
	rest, err := e.parse(fs, args, 0, 1)
	if err != nil {
		return err
	}
	server, repository, err := loginServer(rest)
	if err != nil {
		return err
	}
	f, err := o.open(e)
	if err != nil {
		return err
	}
	if o.show {
		c, ok, err := f.Get(ctx, server, repository)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("not logged in to %s", rest0(rest, server))
		}
		fmt.Fprintln(e.stdout, c.User)
		return nil
	}
	client, err := e.registry(func(opts *registry.Options) {
		opts.AuthFiles = []string{}
		if o.insecure {
			opts.Insecure = append(opts.Insecure, server)
		}
	})
	if err != nil {
		return err
	}
	if !o.stdin && o.user == "" && !fs.Changed("password") {
		done, err := e.loginAgain(ctx, client, f, server, repository)
		if done || err != nil {
			return err
		}
	}
	cred, err := o.ask(e, fs)
	if err != nil {
		return err
	}
	if cred, err = client.Login(ctx, server, cred); err != nil {
		return err
	}
	if err := f.Put(ctx, server, repository, cred); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, "Login Succeeded")
	return nil
}

// loginAgain tries the credentials that are kept. It is not done where there are none,
// or the registry doesn't take them.
func (e *env) loginAgain(ctx context.Context, client *registry.Client, f *registry.AuthFile, server, repository string) (done bool, err error) {
	cred, ok, err := f.Get(ctx, server, repository)
	if err != nil || !ok {
		return false, err
	}
	fmt.Fprintln(e.stderr, "Authenticating with existing credentials...")
	_, err = client.Login(ctx, server, cred)
	if errors.Is(err, registry.ErrDenied) {
		e.warn(fmt.Sprintf("the credentials that are kept are not taken: %v", err))
		return false, nil
	}
	if err != nil {
		return false, err
	}
	fmt.Fprintln(e.stdout, "Login Succeeded")
	return true, nil
}

func rest0(rest []string, server string) string {
	if len(rest) > 0 {
		return rest[0]
	}
	return server
}

func (o *loginOptions) addFile(fs *pflag.FlagSet) {
	fs.StringVar(&o.authFile, "authfile", "", "`FILE` of the credentials (default REGISTRY_AUTH_FILE, or docker's config.json)")
}

// open reads the file in which credentials are kept.
func (o *loginOptions) open(e *env) (*registry.AuthFile, error) {
	name := o.authFile
	if name == "" {
		files := registry.AuthFiles(e.getenv)
		name = files[0]
		if e.getenv("REGISTRY_AUTH_FILE") == "" && e.getenv("DOCKER_CONFIG") == "" && e.getenv("HOME") == "" {
			return nil, errors.New("there is no place for credentials: HOME is not set; say --authfile")
		}
	}
	return registry.ReadAuthFile(name)
}

// loginServer reads SERVER[/REPOSITORY].
func loginServer(words []string) (server, repository string, err error) {
	if len(words) == 0 {
		return image.DefaultRegistry, "", nil
	}
	word := words[0]
	for _, scheme := range []string{"https://", "http://"} {
		word = strings.TrimPrefix(word, scheme)
	}
	server, repository, _ = strings.Cut(strings.TrimSuffix(word, "/"), "/")
	switch {
	case server == "index.docker.io" || server == "registry-1.docker.io":
		server, repository = image.DefaultRegistry, ""
	case words[0] != word && (repository == "v1" || repository == "v2"):
		repository = "" // the address of the API
	}
	ref, err := image.ParseRef(server + "/" + repository + "x")
	if err != nil || ref.Registry != server && server != image.DefaultRegistry || strings.ContainsAny(repository, ":@") {
		return "", "", &usageError{msg: fmt.Sprintf("%q is no registry: want HOST[:PORT], or HOST[:PORT]/REPOSITORY for one repository of it", words[0])}
	}
	return server, repository, nil
}

// ask finds the user name and the password where the flags say, or asks for
// them.
func (o *loginOptions) ask(e *env, fs *pflag.FlagSet) (c registry.Credential, err error) {
	usage := func(text string) error { return &usageError{msg: "login: " + text, hint: "builder login --help"} }
	switch {
	case o.stdin && fs.Changed("password"):
		return c, usage("--password and --password-stdin can't be given together")
	case o.stdin && o.user == "":
		return c, usage("--password-stdin needs --username")
	case fs.Changed("password"):
		fmt.Fprintln(e.stderr, "builder: warning: a password in --password is seen by everybody in the list of processes: use --password-stdin")
	case !o.stdin && !term.IsTerminal(int(e.stdin.Fd())):
		return c, usage("standard input is no terminal to ask for a password: use --password-stdin")
	}
	c.User, c.Password = o.user, o.password
	if o.stdin {
		data, err := io.ReadAll(io.LimitReader(e.stdin, maxPassword+1))
		if err != nil {
			return c, fmt.Errorf("read password: %w", err)
		}
		if len(data) > maxPassword {
			return c, fmt.Errorf("the password has more than %d bytes", maxPassword)
		}
		c.Password = strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	}
	if c.User == "" {
		fmt.Fprint(e.stderr, "Username: ")
		line, err := bufio.NewReader(io.LimitReader(e.stdin, maxPassword)).ReadString('\n')
		if err != nil {
			return c, fmt.Errorf("read user name: %w", err)
		}
		c.User = strings.TrimRight(line, "\r\n")
	}
	if c.Password == "" && !o.stdin && !fs.Changed("password") {
		fmt.Fprint(e.stderr, "Password: ")
		data, err := term.ReadPassword(int(e.stdin.Fd()))
		fmt.Fprintln(e.stderr)
		if err != nil {
			return c, fmt.Errorf("read password: %w", err)
		}
		c.Password = string(data)
	}
	switch {
	case c.User == "" || c.Password == "":
		return c, errors.New("user name and password must not be empty")
	case strings.ContainsAny(c.User, ":\x00\r\n") || strings.ContainsAny(c.Password, "\x00\r\n"):
		return c, errors.New("a user name has no colon, and neither it nor the password a line break")
	}
	return c, nil
}

func runLogout(ctx context.Context, e *env, args []string) error {
	fs := flags("logout")
	var o loginOptions
	fs.BoolVarP(&o.all, "all", "a", false, "of all registries")
	o.addFile(fs)
	rest, err := e.parse(fs, args, 0, 1)
	if err != nil {
		return err
	}
	if o.all && len(rest) > 0 {
		return &usageError{msg: "logout: --all leaves no registry to name"}
	}
	server, repository, err := loginServer(rest)
	if err != nil {
		return err
	}
	f, err := o.open(e)
	if err != nil {
		return err
	}
	if o.all {
		for _, key := range f.Registries() {
			if server, repository, err = loginServer([]string{key}); err != nil {
				return err
			}
			if _, err := f.Remove(ctx, server, repository); err != nil {
				return err
			}
		}
		fmt.Fprintln(e.stdout, "Removed login credentials for all registries")
		return nil
	}
	removed, err := f.Remove(ctx, server, repository)
	if err != nil {
		return err
	}
	if !removed {
		fmt.Fprintf(e.stdout, "Not logged in to %s\n", rest0(rest, server))
		return nil
	}
	fmt.Fprintf(e.stdout, "Removing login credentials for %s\n", rest0(rest, server))
	return nil
}
