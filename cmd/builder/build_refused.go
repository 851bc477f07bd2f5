// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// refusedFlag is a flag of docker buildx build or buildah build that people
// may try, and why builder doesn't take it.
type refusedFlag struct {
	name, short string
	why         string
	harmless    []string // values that ask for what is done anyway
}

// refusedFlags name what to use instead, or that something is to come. None is
// ever accepted and ignored, but for values that change nothing.
var refusedFlags = []refusedFlag{
	{name: "attest", why: "attestations are not supported yet"},
	{name: "provenance", why: "attestations are not supported yet", harmless: []string{"false"}},
	{name: "sbom", why: "attestations are not supported yet", harmless: []string{"false"}},
	{name: "policy", why: "source policies are not supported yet"},
	{name: "source-policy-file", why: "source policies are not supported yet"},
	{name: "builder", why: "there is no daemon to choose: builder builds in its own process", harmless: []string{"default"}},
	{name: "isolation", why: "every RUN has a container of its own, and there is no other way", harmless: []string{"default", "oci"}},
	{name: "runtime", why: "builder makes containers itself"},
	{name: "layers", why: "every instruction is cached; --no-cache runs all again, --squash makes one layer", harmless: []string{"true"}},
	{name: "rm", why: "nothing is left of a step that is done; of a failed one, builder debug has the files", harmless: []string{"true"}},
	{name: "force-rm", why: "nothing is left of a step that is done; builder debug rm removes failed ones", harmless: []string{"false"}},
	{name: "format", why: "the image's format is a property of an output: -o type=image,oci-mediatypes=false is docker's", harmless: []string{"oci"}},
	{name: "manifest", why: "several values of --platform make an index: name it with -t"},
	{name: "all-platforms", why: "name the platforms with --platform"},
	{name: "os", why: "use --platform OS/ARCH"},
	{name: "arch", why: "use --platform OS/ARCH"},
	{name: "variant", why: "use --platform OS/ARCH/VARIANT"},
	{name: "userns", why: "RUN steps have no user namespace of their own; containers of builder run can have one"},
	{name: "cache-ttl", why: "results are kept until they are removed; --no-cache and --no-cache-filter run steps again"},
	{name: "compress", why: "the context is read in place, nothing is sent", harmless: []string{"false"}},
	{name: "memory-reservation", why: "only hard limits are supported"},
	{name: "sign-by", why: "signing is not supported yet"},
	{name: "stdin", why: "RUN steps have no standard input: use a bind or secret mount"},
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

// addRefused declares the flags that are refused, hidden from the help.
func addRefused(fs *pflag.FlagSet) { addRefusedOf(fs, nil) }

// addRefusedOf declares those that are named, or all.
func addRefusedOf(fs *pflag.FlagSet, names []string) {
	for _, f := range refusedFlags {
		if fs.Lookup(f.name) != nil || names != nil && !slices.Contains(names, f.name) {
			continue // supported after all, or not asked for
		}
		flag := fs.VarPF(refused{f}, f.name, f.short, "")
		flag.Hidden = true
		if slices.ContainsFunc(f.harmless, func(v string) bool { _, err := strconv.ParseBool(v); return err == nil }) {
			flag.NoOptDefVal = "true"
		}
	}
}
