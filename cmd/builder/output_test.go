// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"builder/build"
	"builder/image"
	"builder/layer"

	"github.com/google/go-cmp/cmp"
)

// resolveOutputs reads flags of build as far as outputs go.
func resolveOutputs(t *testing.T, args ...string) (*buildRequest, error) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	e := &env{stdin: null, stdout: null, stderr: null, getenv: func(string) string { return "" }}
	fs := flags("build")
	var o buildOptions
	o.addFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o.request(e, ".")
}

func name(t *testing.T, s string) imageName {
	t.Helper()
	n, err := parseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestParseOutputs(t *testing.T) {
	t.Chdir(t.TempDir())
	at := time.Unix(7, 0).UTC()
	yes := true
	arm := image.Platform{OS: "linux", Architecture: "arm64"}
	app, other := name(t, "app:1"), name(t, "reg.example/other")
	for _, tt := range []struct {
		args []string
		want []output
	}{
		{nil, []output{{kind: "image"}}},
		{[]string{"-o", ""}, []output{{kind: "image"}}},
		{[]string{"-t", "app:1"}, []output{{kind: "image", names: []imageName{app}}}},
		{[]string{"--load"}, []output{{kind: "image"}}},
		{[]string{"-o", "out"}, []output{{kind: "local", dest: "out"}}},
		{[]string{"-o", "./a=b/"}, []output{{kind: "local", dest: "a=b"}}},
		{[]string{"-o", "-"}, []output{{kind: "tar", dest: "-"}}},
		{[]string{"-o", "type=tar"}, []output{{kind: "tar", dest: "-"}}},
		{[]string{"-o", "type=oci"}, []output{{kind: "oci", dest: "-"}}},
		{[]string{"-o", " TYPE=oci,Dest=a.tar"}, []output{{kind: "oci", dest: "a.tar"}}},
		{[]string{"-o", `type=local,"dest=a,b"`}, []output{{kind: "local", dest: "a,b"}}},
		{[]string{"-o", "type=local,dest=x,mode=Delete,platform-split=true"}, []output{{kind: "local", dest: "x", delete: true, split: &yes}}},
		{[]string{"-o", "type=local,dest=..,mode=delete", "--allow", "buildx.local.delete"}, []output{{kind: "local", dest: "..", delete: true}}},
		{[]string{"-o", "type=cacheonly"}, []output{{kind: "cacheonly"}}},
		{[]string{"-o", "type=docker"}, []output{{kind: "docker"}}},
		{[]string{"-o", "type=docker", "--load"}, []output{{kind: "docker"}}},
		{[]string{"-o", "type=docker,dest=d.tar", "--load"}, []output{{kind: "docker", dest: "d.tar"}, {kind: "image"}}},
		{[]string{"-o", "type=oci,tar=false,dest=d"}, []output{{kind: "oci", dest: "d", dir: true}}},
		{[]string{"-o", "type=image,store=false", "--load"}, []output{{kind: "image", unnamed: true}, {kind: "image"}}},
		{[]string{"-t", "app:1", "--push"}, []output{{kind: "image", names: []imageName{app}, push: true}}},
		{[]string{"-t", "app:1", "--push", "-o", "out"}, []output{{kind: "local", dest: "out"}, {kind: "image", names: []imageName{app}, push: true}}},
		{[]string{"-t", "app:1", "--push", "-o", "type=image,compression=zstd,compression-level=3"}, []output{{
			kind: "image", names: []imageName{app}, push: true, form: build.ImageOptions{Layer: layer.Options{Compression: layer.Zstd, Level: 3}},
		}}},
		{[]string{"-o", `type=registry,"name=app:1,reg.example/other"`}, []output{{kind: "image", names: []imageName{app, other}, push: true}}},
		{[]string{"-t", "app:1", "-o", "type=oci,dest=x,name=reg.example/other"}, []output{{kind: "oci", dest: "x", names: []imageName{app}}}},
		{[]string{"-o", "type=image,name=reg.example/other,push=,push-by-digest=true,registry.insecure=,name-canonical=1"}, []output{{
			kind: "image", names: []imageName{other}, push: true, byDigest: true, insecure: true, canonical: true,
		}}},
		{[]string{"-o", "type=image,dangling-name-prefix=reg.example/d,danging-name-empty-only=true,unpack=true"}, []output{{
			kind: "image", dangling: "reg.example/d", danglingOnly: true, unpack: true,
		}}},
		{[]string{"-o", "type=image,compression-level=0"}, []output{{kind: "image", form: build.ImageOptions{Layer: layer.Options{Level: layer.StoreOnly}}}}},
		{[]string{"-o", "type=image,compression-level=0,compression=zstd"}, []output{{kind: "image", form: build.ImageOptions{Layer: layer.Options{Compression: layer.Zstd}}}}},
		{[]string{"-o", "type=image,compression=estargz,force-compression=true"}, []output{{
			kind: "image", form: build.ImageOptions{Layer: layer.Options{Compression: layer.EStargz}, ForceCompression: true},
		}}},
		{[]string{"-o", "type=image,oci-mediatypes=false,prefer-nondist-layers=true"}, []output{{
			kind: "image", form: build.ImageOptions{DockerTypes: true, KeepNondistributable: true},
		}}},
		{[]string{"-o", "type=image,source-date-epoch=7"}, []output{{
			kind: "image", epoch: &build.Epoch{Time: &at}, form: build.ImageOptions{Epoch: &build.Epoch{Time: &at}},
		}}},
		{[]string{"-o", "type=image,rewrite-timestamp=false", "-o", "type=tar,source-date-epoch=", "-o", "type=local,dest=x,source-date-epoch=7"}, []output{
			{kind: "image", form: build.ImageOptions{KeepTimes: true}, rewrite: new(bool)}, {kind: "tar", dest: "-", epoch: &build.Epoch{}},
			{kind: "local", dest: "x", epoch: &build.Epoch{Time: &at}},
		}},
		{[]string{"--platform", "linux/amd64,linux/arm64", "-o", "type=image,annotation.a=1,annotation-index.b=2,annotation-manifest-descriptor[linux/arm64].c=3=4"}, []output{{
			kind: "image", form: build.ImageOptions{Annotations: []build.Annotation{
				{Key: "a", Value: "1"}, {Kind: "index", Key: "b", Value: "2"}, {Kind: "manifest-descriptor", Platform: &arm, Key: "c", Value: "3=4"},
			}},
		}}},
		{[]string{"--platform", "linux/amd64,linux/arm64", "--annotation", "a=1", "--annotation", "index,manifest[linux/arm64]:b:c=2"}, []output{{
			kind: "image", form: build.ImageOptions{Annotations: []build.Annotation{
				{Key: "a", Value: "1"}, {Kind: "index", Key: "b:c", Value: "2"}, {Kind: "manifest", Platform: &arm, Key: "b:c", Value: "2"},
			}},
		}}},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			req, err := resolveOutputs(t, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			var got []output
			for _, o := range req.outputs {
				o.number, o.multi = 0, false
				got = append(got, *o)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(output{}, imageName{})); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestForms: what outputs want alike is made once.
func TestForms(t *testing.T) {
	t.Chdir(t.TempDir())
	req, err := resolveOutputs(t, "-o", "type=image", "-o", "type=oci,dest=a", "-o", "type=oci,dest=b,compression=zstd", "-o", "c",
		"-o", "type=docker,dest=d,compression=zstd", "-o", "type=image,annotation.x=y", "-o", "type=image,annotation.x=y", "-o", "type=image,annotation.x=z")
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, o := range req.outputs {
		if o.isImage() {
			numbers = append(numbers, o.number)
		}
	}
	if diff := cmp.Diff([]int{0, 0, 1, 1, 2, 2, 3}, numbers); diff != "" || len(req.opts.Images) != 4 || !req.opts.Files {
		t.Errorf("%d forms, files %t, outputs' numbers (-want +got)\n%s", len(req.opts.Images), req.opts.Files, diff)
	}
	if req, err := resolveOutputs(t, "-o", "type=cacheonly"); err != nil || len(req.opts.Images) != 0 || req.opts.Files {
		t.Errorf("cacheonly wants %+v (%v)", req.opts, err)
	}
}

// TestWrongOutputs is the table of what is refused, with what the message
// says.
func TestWrongOutputs(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{"file", "sub/file"} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(t.TempDir(), "link"); err != nil {
		t.Fatal(err)
	}
	const two = "--platform=linux/amd64,linux/arm64"
	for _, tt := range []struct {
		args string
		want string
	}{
		{"-o type=nope", `--output: "type=nope": type "nope" is not supported: want image, registry, oci, docker, local, tar or cacheonly`},
		{"-o type=", `it has no type`},
		{"-o dest=x,compression=gzip", `it has no type`},
		{"-o type=oci,dest", `"dest": want NAME=VALUE`},
		{`-o type=oci,"dest=x`, `extraneous or missing " in quoted-field`},
		{"-o type=oci,colour=red", `option "colour" is not known`},
		{"-o type=image,dest=x", `type=image takes no dest`},
		{"-o type=registry,dest=x", `type=image takes no dest`},
		{"-o type=cacheonly,dest=x", `type=cacheonly takes no dest`},
		{"-o type=local", `type=local: it needs a directory as dest`},
		{"-o type=local,dest=-", `a directory can't go to standard output`},
		{"-o type=oci,tar=false", `type=oci: it needs a directory as dest`},
		{"-o type=docker,tar=false,dest=-", `a directory can't go to standard output`},
		{"-o type=local,dest=file", `dest "file" is a file, not a directory`},
		{"-o type=oci,dest=sub", `dest "sub" is a directory, not a file`},
		{"-o type=tar,dest=file/x", `not a directory`},
		{"-o type=oci,tar=maybe", `tar: "maybe": want true or false`},
		{"-o type=image,push=yes", `push: "yes": want true or false`},
		{"-o type=image,oci-mediatypes=", `oci-mediatypes: "": want true or false`},
		{"-o type=oci,push=true", `type=oci has no option "push", which is for type=image`},
		{"-o type=tar,mode=copy", `type=tar has no option "mode", which is for type=local`},
		{"-o type=image,mode=copy", `type=image has no option "mode"`},
		{"-o type=local,dest=x,compression=gzip", `type=local has no option "compression", which is for type=image, oci, docker`},
		{"-o type=tar,name=x", `type=tar has no option "name"`},
		{"-o type=local,dest=x,mode=move", `mode: "move": want copy or delete`},
		{"-o type=local,dest=.,mode=delete", `mode=delete: dest "." is not below the working directory`},
		{"-o type=local,dest=../x,mode=delete", `is not below the working directory`},
		{"-o type=local,dest=link/x,mode=delete", `is not below the working directory`},
		{"-o type=local,dest=/,mode=delete", `is not below the working directory`},
		{"-o type=local,dest=x,platform-split=", `platform-split: "": want true or false`},
		{"-o type=tar,platform-split=true", `platform-split: a tar has a directory for each of several platforms, and none for one`},
		{two + " -o type=tar,platform-split=false", `platform-split: a tar has`},
		{"-o type=image,compression=lz4", `compression: "lz4": want gzip, zstd, estargz or uncompressed`},
		{"-o type=image,compression-level=x", `compression-level: "x": want a number from 0`},
		{"-o type=image,compression-level=-1", `compression-level: "-1": want a number from 0`},
		{"-o type=image,compression-level=10", `compression level 10 of gzip is not within 0 to 9`},
		{"-o type=image,compression=zstd,compression-level=23", `compression level 23 of zstd is not within 0 to 22`},
		{"-o type=image,compression=uncompressed,compression-level=1", `compression level 1 of uncompressed`},
		{"-o type=image,compression=estargz,oci-mediatypes=false", `estargz layers need OCI media types`},
		{"-o type=image,force-compression=2", `force-compression: "2": want true or false`},
		{"-o type=image,source-date-epoch=x", `source-date-epoch: "x": want seconds since 1970`},
		{"-o type=image,rewrite-timestamp=x", `rewrite-timestamp: "x": want true or false`},
		{"-o type=image,name=UPPER", `name: invalid image reference "UPPER"`},
		{"-o type=image,name=", `name: invalid image reference ""`},
		{"-o type=image,dangling-name-prefix=a:1", `dangling-name-prefix: "a:1": want a name without tag and digest`},
		{"-o type=registry", `an image that is pushed needs a name`},
		{"-o type=image,push=true", `an image that is pushed needs a name`},
		{"--push", `an image that is pushed needs a name`},
		{"-t a -o type=image,push-by-digest=true", `push-by-digest is set, but nothing is pushed`},
		{"-t a -o type=image,registry.insecure=true", `registry.insecure is set, but nothing is pushed`},
		{"-t a:1 -o type=image,push=true,push-by-digest=true", `a:1 has a tag and can't be pushed by digest`},
		{two + " -o type=docker,dest=x", `type=docker: it holds one platform: use type=oci for several`},
		{two + " -o type=docker,tar=false,dest=x", `type=docker: it holds one platform`},
		{"-o type=image,attestation-inline=true", `option "attestation-inline" is not supported: no attestations are made`},
		{"-o type=local,dest=x,attestation-prefix=a", `option "attestation-prefix" is not supported`},
		{"-o type=oci,oci-artifact=false", `option "oci-artifact" is not supported`},
		{"-o type=docker,context=x", `option "context" is not supported: there is no docker engine`},
		{"-o type=local,dest=x,annotation.a=b", `type=local has no annotations`},
		{"-o type=image,annotation-layer.a=b", `unknown annotation type "layer"`},
		{"-o type=image,annotation-index.a=b", `annotation a is for an index, and a build for one platform makes none`},
		{"-o type=image,annotation-manifest[linux/s390x].a=b", `annotation a is for linux/s390x, which is not built`},
		{"-o type=image,annotation[x/y/z/w].a=b", `platform`},
		{two + " -o type=image,oci-mediatypes=false,annotation-index.a=b", `docker's media types have none for`},
		{"--annotation a", `--annotation: "a": want KEY=VALUE`},
		{"--annotation layer:a=b", `--annotation: unknown annotation type "layer"`},
		{"--annotation manifest[:a=b", `--annotation: "manifest[": want a type`},
		{"--annotation index:a=b", `annotation a is for an index`},
		{"--annotation a=b -o out", `--annotation: no output is an image`},
		{"-o - -o type=oci", `only one output can go to standard output`},
		{"-o type=oci,dest=x -o type=docker,dest=./x", `two outputs have the same dest "x"`},
		{"-q -o -", `--quiet prints the image's ID to standard output`},
		{"--iidfile id -o out", `--iidfile needs outputs that are images`},
		{"--iidfile id -o type=cacheonly", `--iidfile needs outputs that are images`},
		{"-t a@sha256:0000000000000000000000000000000000000000000000000000000000000000", `has a digest`},
		{"-t A", `--tag: invalid image reference "A"`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			_, err := resolveOutputs(t, strings.Fields(tt.args)...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// FuzzParseOutput: whatever is read can be asked about.
func FuzzParseOutput(f *testing.F) {
	for _, s := range []string{"out", "-", "type=image,push=true,name=a", `type=oci,"dest=a,b",compression-level=0`, "type=local,dest=x,annotation-index[linux/amd64].a=b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := parseOutput(s)
		if err != nil {
			return
		}
		if o.isImage() == o.isFiles() && o.kind != "cacheonly" {
			t.Errorf("%q is %s, an image %t, files %t", s, o.kind, o.isImage(), o.isFiles())
		}
		if o.form.Layer.Level == noLevel {
			t.Errorf("%q: a mark is left as the level", s)
		}
	})
}

func FuzzParseAnnotation(f *testing.F) {
	for _, s := range []string{"a=b", "index:a=b", "manifest[linux/amd64],index-descriptor:a:b=c=d", ":=", "[x]:a="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseAnnotation(s)
		for _, a := range list {
			if _, value, _ := strings.Cut(s, "="); err == nil && a.Value != value {
				t.Errorf("%q: value %q", s, a.Value)
			}
		}
	})
}
