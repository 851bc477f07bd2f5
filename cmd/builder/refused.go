// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// refusedFlag is a flag of docker, buildx, podman or buildah that people may try, and
// why builder doesn't take it.
type refusedFlag struct {
	name, short string
	why         string
	harmless    []string // values that ask for what is done anyway
}

// The lists name what to use instead, or that something is to come. None is ever
// accepted and ignored, but for values that change nothing.

var refusedByBuild = append([]refusedFlag{
	{name: "attest", why: "attestations are not supported yet"},
	{name: "provenance", why: "attestations are not supported yet", harmless: []string{"false"}},
	{name: "sbom", why: "attestations are not supported yet", harmless: []string{"false"}},
	{name: "policy", why: "source policies are not supported yet"},
	{name: "source-policy-file", why: "source policies are not supported yet"},
	{name: "builder", why: "there is no daemon to choose: builder builds in its own process", harmless: []string{"default"}},
	{name: "isolation", why: "every RUN has a container of its own, and there is no other way", harmless: []string{"default", "oci"}},
	{name: "runtime", why: "builder makes containers itself"},
	{name: "layers", why: "every instruction is cached; --no-cache runs all again, --squash makes one layer", harmless: []string{"true"}},
	{name: "rm", why: "nothing is left of a step but its result, which is kept", harmless: []string{"true", "false"}},
	{name: "force-rm", why: "no container is left of a step, failed or not", harmless: []string{"true", "false"}},
	{name: "format", why: "the image's format is a property of an output: -o type=image,oci-mediatypes=false is docker's", harmless: []string{"oci"}},
	{name: "manifest", why: "several values of --platform make an index: name it with -t"},
	{name: "all-platforms", why: "name the platforms with --platform"},
	{name: "userns", why: "RUN steps have no user namespace of their own; containers of builder run can have one"},
	{name: "cache-ttl", why: "results are kept until they are removed; --no-cache and --no-cache-filter run steps again"},
	{name: "compress", why: "the context is read in place, nothing is sent", harmless: []string{"true", "false"}},
	{name: "memory-reservation", why: "only hard limits are supported"},
	{name: "sign-by", why: "signing is not supported yet"},
	{name: "stdin", why: "RUN steps have no standard input: use a bind or secret mount"},
	{name: "squash-all", why: "--squash makes one layer of the steps, and the base's stay as they are"},
	{name: "jobs", why: "stages that don't need each other are built side by side"},
	{name: "http-proxy", why: "give --build-arg HTTP_PROXY and the like, or have them in docker's config file", harmless: []string{"false"}},
}, refusedOfImages...)

var refusedByRun = append([]refusedFlag{
	{name: "runtime", why: "builder runs containers itself"},
	{name: "isolation", why: "there is one way to run containers", harmless: []string{"default"}},
	{name: "kernel-memory", why: "the kernel has no such bound any more: use --memory"},
	{name: "cpu-rt-period", why: "no kernel with control groups of version 2 has such a bound"},
	{name: "cpu-rt-runtime", why: "no kernel with control groups of version 2 has such a bound"},
	{name: "storage-opt", why: "what a container writes has no bound of its own: use --read-only, and --tmpfs with a size"},
	{name: "link-local-ip", why: "add such an address in the container, with --cap-add NET_ADMIN"},
	{name: "use-api-socket", why: "there is no daemon, and no socket of one"},
	{name: "pod", why: "there are no pods: --network, --ipc and --pid container:NAME share what a pod shares"},
	{name: "rootfs", why: "make an image of the directory first: tar -C DIR -c . | builder import - NAME"},
	{name: "secret", why: "mount a file: -v FILE:/run/secrets/NAME:ro"},
	{name: "systemd", why: "give what it needs: --tmpfs /run --tmpfs /tmp --stop-signal SIGRTMIN+3", harmless: []string{"false"}},
	{name: "cgroups", why: "every container has a control group", harmless: []string{"enabled"}},
	{name: "sdnotify", why: "nothing tells systemd of a container's start", harmless: []string{"ignore"}},
	{name: "read-only-tmpfs", why: "name the directories: --tmpfs /run --tmpfs /tmp", harmless: []string{"false"}},
	{name: "rmi", why: "remove the image with builder rmi", harmless: []string{"false"}},
}, refusedOfImages...)

var refusedByNetwork = []refusedFlag{
	{name: "ipv4", why: "every network has IPv4 addresses", harmless: []string{"true"}},
	{name: "scope", why: "networks are of this machine", harmless: []string{"local"}},
	{name: "ipam-driver", why: "builder gives the addresses", harmless: []string{"default"}},
	{name: "ipam-opt", why: "builder gives the addresses: --subnet, --ip-range, --gateway and --aux-address say which"},
	{name: "config-from", why: "give the network its own settings"},
	{name: "config-only", why: "give each network its own settings", harmless: []string{"false"}},
	{name: "ingress", why: "there are no swarms", harmless: []string{"false"}},
	{name: "disable-dns", why: "names are resolved on every network but the default one", harmless: []string{"false"}},
}

// refusedGlobally are flags of docker's client before the command.
var refusedGlobally = []refusedFlag{
	{name: "host", short: "H", why: "there is no daemon to talk to: builder does it here"},
	{name: "context", short: "c", why: "there is no daemon to talk to: builder does it here", harmless: []string{"default"}},
	{name: "tls", why: "there is no daemon to talk to", harmless: []string{"false"}},
	{name: "tlsverify", why: "there is no daemon to talk to", harmless: []string{"false"}},
	{name: "tlscacert", why: "there is no daemon to talk to"},
	{name: "tlscert", why: "there is no daemon to talk to"},
	{name: "tlskey", why: "there is no daemon to talk to"},
}

// refusedOfImages are flags of commands that may ask a registry.
var refusedOfImages = []refusedFlag{
	{name: "os", why: "use --platform OS/ARCH"},
	{name: "arch", why: "use --platform OS/ARCH"},
	{name: "variant", why: "use --platform OS/ARCH/VARIANT"},
	{name: "disable-content-trust", why: "signatures of docker's content trust are not looked at", harmless: []string{"true"}},
	{name: "tls-verify", why: "name the registry in builder's configuration: docs/registries.md, insecure", harmless: []string{"true"}},
	{name: "authfile", why: "set REGISTRY_AUTH_FILE"},
	{name: "creds", why: "use builder login, or REGISTRY_AUTH_FILE"},
	{name: "cert-dir", why: "certificates are found where docker and podman have them: docs/registries.md"},
}

// refused is the value of such a flag.
type refused struct{ flag refusedFlag }

func (r refused) String() string { return "" }
func (r refused) Type() string   { return "" }
func (r refused) Set(v string) error {
	if slices.Contains(r.flag.harmless, strings.ToLower(v)) {
		return nil
	}
	return fmt.Errorf("not supported: %s", r.flag.why)
}

// addRefused declares flags that are refused, hidden from the help: those of a list that
// are named, or all.
func addRefused(fs *pflag.FlagSet, list []refusedFlag, names ...string) {
	for _, f := range list {
		if fs.Lookup(f.name) != nil || len(names) > 0 && !slices.Contains(names, f.name) {
			continue // supported after all, or not asked for
		}
		flag := fs.VarPF(refused{f}, f.name, f.short, "")
		flag.Hidden = true
		if slices.ContainsFunc(f.harmless, func(v string) bool { _, err := strconv.ParseBool(v); return err == nil }) {
			flag.NoOptDefVal = "true"
		}
	}
}
