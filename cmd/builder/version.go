// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// versionInfo is what version shows, and what its --format can.
type versionInfo struct {
	Version   string
	GitCommit string
	Modified  bool // the sources had changes that were not committed
	Built     string
	GoVersion string
	Os        string
	Arch      string
}

// versionRow is the same with docker's names for both ends, which are one here.
type versionRow struct {
	versionInfo
	Client, Server versionInfo
}

// version reads what the Go tool wrote into the binary.
func version() versionInfo {
	goVersion, _, _ := strings.Cut(runtime.Version(), "-X:") // which names experiments, of which the front program has one
	v := versionInfo{Version: "unknown", GoVersion: goVersion, Os: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = info.Main.Version
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.GitCommit = truncate(s.Value, 12)
		case "vcs.time":
			v.Built = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func runVersion(_ context.Context, e *env, args []string) error {
	fs := flags("version")
	format := fs.StringP("format", "f", "", "a Go template, or `json`")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	v := version()
	if *format != "" {
		return table{format: *format}.print(e.stdout, []any{versionRow{v, v, v}})
	}
	fmt.Fprintf(e.stdout, "builder\n Version:    %s\n Go version: %s\n OS/Arch:    %s/%s\n", v.Version, v.GoVersion, v.Os, v.Arch)
	if v.GitCommit != "" {
		changed := ""
		if v.Modified {
			changed = " (with changes)"
		}
		fmt.Fprintf(e.stdout, " Git commit: %s%s\n Committed:  %s\n", v.GitCommit, changed, v.Built)
	}
	return nil
}
