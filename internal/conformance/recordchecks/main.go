// SPDX-License-Identifier: Apache-2.0

// Command recordchecks asks BuildKit for the checks, outline and targets of
// every Dockerfile in testdata/checks and writes down what it says, as
// expect.json beside it. It needs buildx with a builder that reaches this
// machine's loopback addresses: the base images, of which testdata/checks has
// the configs, are served there.
//
//	go run ./internal/conformance/recordchecks -buildx buildx -builder NAME -peer VERSION [-only REGEXP]
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"builder/internal/conformance"
)

func main() {
	r := recorder{}
	flag.StringVar(&r.buildx, "buildx", "buildx", "the program")
	flag.StringVar(&r.builder, "builder", "", "the builder that it uses")
	flag.StringVar(&r.peer, "peer", "", "name and version of the BuildKit that answers")
	corpus := flag.String("corpus", "testdata/checks", "directory of the corpus")
	only := flag.String("only", "", "record the cases whose name matches this")
	flag.Parse()
	log.SetFlags(0)
	if err := r.record(*corpus, *only); err != nil {
		log.Fatalln("recordchecks:", err)
	}
}

type recorder struct {
	buildx, builder, peer string
	host                  string // of the base images
}

func (r *recorder) record(corpus, only string) error {
	filter, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	images, err := conformance.ConfigRegistry(filepath.Join(corpus, "images.json"))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()          //nolint:errcheck // nothing was written
	go http.Serve(l, images) //nolint:errcheck,gosec // it ends with the listener
	r.host = l.Addr().String()
	cases, err := conformance.Cases(corpus)
	if err != nil {
		return err
	}
	for _, c := range cases {
		if !filter.MatchString(c.Name) {
			continue
		}
		if err := r.one(c); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return nil
}

// one records a case.
func (r *recorder) one(c conformance.Case) error {
	dir, err := os.MkdirTemp("", "recordchecks")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"Dockerfile", "Dockerfile.dockerignore"} {
		data, err := os.ReadFile(filepath.Join(c.Dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		data = bytes.ReplaceAll(data, []byte("registry.test/"), []byte(r.host+"/"))
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	calls := conformance.Calls{Recorded: r.peer}
	if calls.Check, err = r.call(c, dir, "check"); err != nil {
		return err
	}
	// The peer's targets call crashes where a check directive is not at the top.
	for name, call := range map[string]**conformance.Call{"outline": &calls.Outline, "targets": &calls.Targets} {
		if strings.HasPrefix(c.Name, name) || c.Name == "fine" {
			got, err := r.call(c, dir, name)
			if err != nil {
				return err
			}
			*call = &got
		}
	}
	data, err := json.MarshalIndent(calls, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Dir, "expect.json"), append(data, '\n'), 0o644)
}

func (r *recorder) call(c conformance.Case, dir, name string) (call conformance.Call, err error) {
	out, status, err := r.run(c, dir, name+",format=json")
	if err != nil {
		return call, err
	}
	call.Status = status
	if len(out) == 0 {
		return call, nil
	}
	if call.Result, err = conformance.CallResult(out); err != nil {
		return call, err
	}
	if name != "check" {
		out, _, err = r.run(c, dir, name)
		call.Text = string(out)
	}
	return call, err
}

func (r *recorder) run(c conformance.Case, dir, call string) (stdout []byte, status int, err error) {
	args := append([]string{"build", "--builder", r.builder, "--progress=quiet", "--call=" + call}, c.Args...)
	cmd := exec.Command(r.buildx, append(args, dir)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, 0, err
	}
	return bytes.ReplaceAll(out, []byte(r.host+"/"), []byte("registry.test/")), cmd.ProcessState.ExitCode(), nil
}
