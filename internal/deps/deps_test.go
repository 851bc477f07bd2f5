// SPDX-License-Identifier: Apache-2.0

// Package deps holds the test that keeps the import graph of ARCHITECTURE.md
// true.
package deps

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "builder/"

// graph names, for each package, the packages of this module that it may
// import. A package that is missing here has to be drawn first.
var graph = map[string]string{
	"internal/sys":         "",
	"internal/atomicfile":  "",
	"internal/filelock":    "",
	"internal/secrets":     "",
	"internal/sshagent":    "",
	"internal/testutil":    "",
	"internal/deps":        "",
	"internal/owner":       "",
	"internal/userfiles":   "",
	"internal/names":       "",
	"internal/quickjson":   "",
	"internal/duplicate":   "",
	"internal/copytree":    "internal/owner internal/sys",
	"internal/bench":       "",
	"internal/join":        "",
	"internal/conformance": "",

	"internal/conformance/generate":     "",
	"internal/conformance/record":       "internal/conformance",
	"internal/conformance/recordchecks": "internal/conformance",

	"image":                         "internal/quickjson",
	"dockerfile":                    "",
	"bake":                          "",
	"progress":                      "",
	"mount":                         "internal/sys",
	"layer":                         "internal/owner internal/sys",
	"buildcontext":                  "layer internal/atomicfile internal/copytree internal/sys",
	"store":                         "image internal/atomicfile internal/filelock",
	"snapshot":                      "mount internal/atomicfile internal/duplicate internal/sys",
	"snapshot/snapshottest":         "snapshot internal/sys",
	"container":                     "mount internal/duplicate internal/owner internal/sys container/internal/startlimit",
	"container/internal/startlimit": "",
	"registry":                      "image store progress internal/atomicfile internal/filelock internal/sys internal/userfiles",
	"archive":                       "image store layer progress internal/atomicfile",
	"cache":                         "image store internal/atomicfile internal/filelock internal/sys",
	"remotecache":                   "image internal/atomicfile",
	"remote":                        "dockerfile progress store internal/atomicfile internal/filelock internal/sys",
	"rootfs":                        "image layer mount progress snapshot store internal/atomicfile internal/filelock internal/owner internal/sys",
	"build": "buildcontext cache cdi container dockerfile image layer mount progress remotecache rootfs snapshot store " +
		"internal/atomicfile internal/filelock internal/owner internal/secrets internal/sys",
	"network":       "internal/atomicfile internal/filelock internal/names internal/sys",
	"usernet":       "container network internal/filelock internal/sys",
	"usernet/stack": "network",
	"volume":        "layer internal/atomicfile internal/filelock internal/names internal/sys",
	"supervisor":    "container mount network snapshot store volume internal/atomicfile internal/filelock internal/names internal/quickjson internal/sys",
	"cdi":           "container mount",
	"userns":        "container",
	"cmd/builder":   "*",
}

// fences name packages of others that only some of ours may import.
var fences = map[string]string{
	"github.com/regclient/regclient": "registry",
	"github.com/moby/buildkit":       "dockerfile build",
	"github.com/spf13/pflag":         "cmd/builder",
	"golang.org/x/sys/unix":          "internal/sys internal/copytree internal/duplicate internal/owner mount container network layer snapshot snapshot/snapshottest buildcontext userns usernet usernet/stack",
	"github.com/moby/profiles":       "container",
	"github.com/moby/patternmatcher": "buildcontext",
	"github.com/klauspost/compress":  "layer",
	"golang.org/x/crypto/ssh":        "internal/sshagent",
	"golang.org/x/crypto/argon2":     "internal/secrets",

	"tags.cncf.io/container-device-interface": "cdi",

	"github.com/vishvananda/netlink": "network",
	"github.com/google/nftables":     "network",
	"golang.org/x/net":               "network",
	"gvisor.dev/gvisor":              "usernet/stack",

	"github.com/containerd/stargz-snapshotter": "layer",
	"github.com/BurntSushi/toml":               "registry",
	"github.com/hashicorp/hcl":                 "bake",
	"github.com/zclconf/go-cty":                "bake",
	"go.yaml.in/yaml":                          "bake",
}

func TestImports(t *testing.T) {
	const root = "../.."
	seen := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "examples" || (p != root && strings.HasPrefix(d.Name(), "."))) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		seen++
		checkFile(t, path.Dir(filepath.ToSlash(rel)), p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 30 {
		t.Errorf("only %d source files were found: the test looks in the wrong place", seen)
	}
}

func checkFile(t *testing.T, pkg, file string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	may, ok := graph[pkg]
	if !ok {
		t.Errorf("%s: package %s is not in the graph", file, pkg)
		return
	}
	for _, spec := range f.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if dep, own := strings.CutPrefix(imp, module); own && may != "*" && !slices.Contains(strings.Fields(may), dep) {
			t.Errorf("%s: %s may not import %s", file, pkg, dep)
		}
		for fenced, by := range fences {
			if (imp == fenced || strings.HasPrefix(imp, fenced+"/")) && !slices.Contains(strings.Fields(by), pkg) {
				t.Errorf("%s: only %s may import %s", file, by, fenced)
			}
		}
	}
}
