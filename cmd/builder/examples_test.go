// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"builder/internal/testutil"

	"go.yaml.in/yaml/v4"
)

// readYAML reads an example.
func readYAML(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../examples/ci", name))
	if err == nil {
		err = yaml.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// script runs what an example runs, with builder on the path.
func (w *workbench) script(text string, env ...string) result {
	w.t.Helper()
	self := program(w.t)
	bin := w.t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "builder")); err != nil {
		w.t.Fatal(err)
	}
	cmd := w.command()
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-e", "-c", text}
	cmd.Env = append(append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH")), env...)
	return w.finish(cmd)
}

// TestExamplesCI runs the scripts of the examples against a registry on
// loopback that wants a password: on a first machine and then on an empty one,
// where no step runs.
func TestExamplesCI(t *testing.T) {
	testutil.Require(t, "root", "git")
	host := startPrivate(t)
	var github struct {
		Jobs struct {
			Image struct {
				Env       map[string]string
				Container struct{ Image, Options string }
				Steps     []struct{ Uses, Name, If, Run string }
			}
		}
	}
	readYAML(t, "github-actions.yml", &github)
	var gitlab struct {
		Image struct {
			Variables map[string]string
			Script    []string
		}
	}
	readYAML(t, "gitlab-ci.yml", &gitlab)
	var job struct {
		Kind string
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct {
						SecurityContext struct{ Privileged bool } `yaml:"securityContext"`
						Command, Args   []string
						Env             []struct{ Name, Value string }
					}
				}
			}
		}
	}
	readYAML(t, "kubernetes-job.yaml", &job)
	if steps := github.Jobs.Image.Steps; len(steps) != 3 || !strings.Contains(github.Jobs.Image.Container.Options, "--privileged") {
		t.Fatalf("GitHub's example has other steps: %+v", steps)
	}
	if c := job.Spec.Template.Spec.Containers; job.Kind != "Job" || len(c) != 1 || !c[0].SecurityContext.Privileged || len(c[0].Env) != 4 {
		t.Fatalf("Kubernetes's example is another one: %+v", job)
	}
	for _, c := range []struct {
		name, script string
		env          []string
		login        bool // the example has none of its own
	}{
		{"github", github.Jobs.Image.Steps[2].Run, []string{"REGISTRY=" + host, "IMAGE=" + host + "/gh/app", "CACHE=" + host + "/gh/app/cache", "GITHUB_SHA=abc", "REGISTRY_USER=user", "REGISTRY_PASSWORD=secret"}, false},
		{"github, a change", github.Jobs.Image.Steps[1].Run, []string{"CACHE=" + host + "/gh/app/cache"}, true},
		{"gitlab", strings.Join(gitlab.Image.Script, "\n"), []string{"CI_REGISTRY=" + host, "CI_REGISTRY_IMAGE=" + host + "/gl/app", "CACHE=" + host + "/gl/app/cache", "CI_COMMIT_SHA=abc", "CI_REGISTRY_USER=user", "CI_REGISTRY_PASSWORD=secret"}, false},
		{"kubernetes", job.Spec.Template.Spec.Containers[0].Args[0], []string{"SOURCE=.", "IMAGE=" + host + "/k8s/app:main", "CACHE=" + host + "/k8s/app/cache"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newBench(t)
			w.t = t
			w.write("Dockerfile", "FROM test/base\nRUN head -c 1000 /dev/urandom > /random\nCOPY file /\n")
			w.write("file", "x")
			first := w
			for i, m := range []*workbench{first, first.twin()} {
				m.asUser()
				if c.login {
					if r := m.with("secret", "login", "-u", "user", "--password-stdin", host); r.code != 0 {
						t.Fatal(r.stderr)
					}
				}
				r := m.script(c.script, c.env...)
				if r.code != 0 {
					t.Fatalf("exit code %d\n%s", r.code, r.stderr)
				}
				if cached := strings.Count(r.stderr, "CACHED"); i == 1 && c.name != "github, a change" && cached < 3 {
					t.Errorf("on an empty machine %d of 3 lines are cached:\n%s", cached, r.stderr)
				}
			}
		})
	}
}

// TestExampleImage builds the image of builder itself, and runs it.
func TestExampleImage(t *testing.T) {
	w := newBench(t)
	out, err := exec.Command("go", "build", "-o", filepath.Join(w.dir, "builder"), ".").CombinedOutput()
	if err != nil {
		t.Fatalf("build builder: %v\n%s", err, out)
	}
	w.write("ca-certificates.crt", "certificates\n")
	dockerfile, err := filepath.Abs("../../examples/image/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	w.ok("build", "-t", "builder", "--target", "minimal", "-f", dockerfile, ".")
	if got := w.ok("run", "--rm", "builder", "version"); !strings.Contains(got, "OS/Arch:") {
		t.Errorf("builder in its image says %q", got)
	}
	if got := w.ok("inspect", "-f", "{{json .Config.Volumes}} {{json .Config.Entrypoint}}", "builder"); got != "{\"/var/lib/builder\":{}} [\"builder\"]\n" {
		t.Errorf("config %s", got)
	}
}
