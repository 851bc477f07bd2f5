// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"builder/dockerfile"
	"builder/image"
	"builder/progress"
)

// sink keeps what it is sent.
type sink struct{ events []progress.Event }

func (s *sink) Event(e progress.Event) { s.events = append(s.events, e) }

// TestPlatformsExpandAlone holds that the plans of two platforms share no
// instruction, and that only the first shows what the checks find.
func TestPlatformsExpandAlone(t *testing.T) {
	f, err := dockerfile.Parse("Dockerfile", []byte("# syntax=docker/dockerfile:2\nFROM base AS Upper\nARG TARGETARCH\nWORKDIR /$TARGETARCH\nCOPY in-$TARGETARCH out-$TARGETARCH\n"))
	if err != nil {
		t.Fatal(err)
	}
	amd, arm := image.Platform{OS: "linux", Architecture: "amd64"}, image.Platform{OS: "linux", Architecture: "arm64"}
	shown := &sink{}
	c := base()
	env := Env{Images: images{"base:latest": c}, Sink: shown, Now: time.Now}
	runners, err := planAll(t.Context(), env, Options{Dockerfile: f, Platforms: []image.Platform{amd, arm}})
	if err != nil {
		t.Fatal(err)
	}
	for i, arch := range []string{"amd64", "arm64"} {
		steps := runners[i].plan.target.steps
		dir := steps[0].op.(*workdirOp).dir
		req := steps[1].op.(*copyOp).parts[0].req
		if dir != "/"+arch || !slices.Equal(req.Sources, []string{"in-" + arch}) || req.Dest != "/"+arch+"/out-"+arch {
			t.Errorf("%s: directory %s, COPY of %q to %s", arch, dir, req.Sources, req.Dest)
		}
	}
	findings, notes := 0, 0
	for _, e := range shown.events {
		if e.Finding != nil {
			findings++
		}
		if e.Log != nil && strings.Contains(string(e.Log.Data), "newer than") {
			notes++
		}
	}
	if findings != 1 || notes != 1 {
		t.Errorf("%d findings and %d notes are shown, want one of each", findings, notes)
	}
}

// TestFindingsBeforeError holds that what was found is shown where planning
// fails, also because the checks say so.
func TestFindingsBeforeError(t *testing.T) {
	for source, want := range map[string]string{
		"FROM base AS Upper\nVOLUME $NOPE\n":        "VOLUME specified",
		"# check=error=true\nFROM base AS Upper\n":  "lint violation found for rules: StageNameCasing",
		"FROM base AS Upper\nCOPY --from=x:y:z a b": "x:y:z",
	} {
		f, err := dockerfile.Parse("Dockerfile", []byte(source))
		if err != nil {
			t.Fatal(err)
		}
		shown := &sink{}
		env := Env{Images: images{"base:latest": base()}, Sink: shown, Now: time.Now}
		_, err = Build(t.Context(), env, Options{Dockerfile: f})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error is %v, want %s", source, err, want)
		}
		if len(shown.events) == 0 || shown.events[0].Finding == nil || shown.events[0].Finding.Rule != "StageNameCasing" {
			t.Errorf("%q: shown are %+v", source, shown.events)
		}
	}
}

func TestSoundsSecret(t *testing.T) {
	for _, name := range []string{"KEY", "api_key", "apikey", "X_PASSWD_Y", "Auth", "credentials", "a__token"} {
		if !soundsSecret(name) {
			t.Errorf("%s is taken for harmless", name)
		}
	}
	for _, name := range []string{"", "_", "KEYS", "MYKEY", "PUBLIC_KEY", "token_file", "AUTH_VERSION", "PASSWORDS"} {
		if soundsSecret(name) {
			t.Errorf("%s is taken for a secret", name)
		}
	}
}

// TestOutlineCycle holds that ARGs which name each other come to an end.
func TestOutlineCycle(t *testing.T) {
	f, err := dockerfile.Parse("Dockerfile", []byte("ARG A=1\nARG B=$A\nARG A=$B\nARG A=x$A$B\nFROM base$A\n"))
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOutline(t.Context(), Env{Images: images{"basex11:latest": base()}}, Options{Dockerfile: f})
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Args) != 2 || o.Args[0].Name != "B" || o.Args[1].Name != "A" || o.Args[1].Value != "x11" {
		t.Errorf("arguments %+v", o.Args)
	}
}

// anyImage is a source that has every image.
type anyImage struct{}

func (anyImage) Image(context.Context, image.Ref, image.Platform, bool) (image.Image, error) {
	img := image.Image{Config: base()}
	img.Config.Config.OnBuild = []string{"ENV x $Y"}
	return img, nil
}

// FuzzCheck holds that checks and outline of any Dockerfile come to an end,
// with places that it has and rules that there are.
func FuzzCheck(f *testing.F) {
	f.Add("ARG A=$B\nFROM a:$A AS B\nENV k $v\nCMD x\nCMD y\nEXPOSE 1:2/TCP\nWORKDIR x\n")
	f.Add("FROM --platform=$TARGETPLATFORM a\nFROM --platform=linux/amd64 b AS c\nCOPY --from=c <<x $y\nx\n")
	f.Add("# check=experimental=all;error=true\n# x\nARG KEY\nFROM a\n# check=skip=all\nRUN --mount=type=secret,id=a true\nONBUILD CMD x\nFROM 0\n")
	f.Fuzz(func(t *testing.T, source string) {
		file, err := dockerfile.Parse("D", []byte(source))
		if err != nil {
			return
		}
		env, opts := Env{Images: anyImage{}}, Options{Dockerfile: file}
		found, _ := Check(t.Context(), env, opts)
		for _, w := range found {
			known := func(r dockerfile.Rule) bool { return r.Name == w.Rule }
			if lines := strings.Count(source, "\n") + 1; w.Start < 1 || w.End < w.Start || w.End > lines || !slices.ContainsFunc(dockerfile.Rules(), known) {
				t.Errorf("%+v, of %d lines", w, lines)
			}
		}
		o, err := NewOutline(t.Context(), env, opts)
		if err != nil {
			return
		}
		for _, a := range o.Args {
			if a.Name == "" || a.Start < 1 {
				t.Errorf("argument %+v", a)
			}
		}
	})
}
