// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"builder/internal/testutil"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestReferrers attaches files to an image and lists them, at Debian's registry,
// which has no referrers API, so that a tag stands for it; skopeo sees that tag.
func TestReferrers(t *testing.T) {
	testutil.Require(t, "skopeo")
	w := newBench(t)
	host := startRegistry(t)
	name := host + "/app:1"
	w.ok("tag", "test/base", name)
	w.ok("push", name)
	if got := w.ok("manifest", "referrers", "-q", name); got != "" {
		t.Errorf("before: %q", got)
	}
	w.write("sbom.json", `{"spdxVersion":"SPDX-2.3"}`)
	w.write("notes", "hello\n")
	w.write("again", "hello\n")
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	attach := []string{"manifest", "attach", "-q", "--artifact-type", "application/spdx+json", "--annotation", "by=test", name, "sbom.json:application/spdx+json", "notes", "again"}
	one := strings.TrimSpace(w.ok(attach...))
	if again := strings.TrimSpace(w.ok(attach...)); again != one {
		t.Errorf("the same again is %s and was %s", again, one)
	}
	two := strings.TrimSpace(w.ok("manifest", "attach", "-q", "--artifact-type", "text/x.notes", name, "notes"))
	if got, want := w.ok("manifest", "referrers", "--format", "{{.Digest}} {{.ArtifactType}} {{.Created}}", name),
		fmt.Sprintf("%s application/spdx+json 2001-09-09T01:46:40Z\n%s text/x.notes 2001-09-09T01:46:40Z\n", one, two); got != want {
		t.Errorf("listed:\n%swant\n%s", got, want)
	}
	if got := w.ok("manifest", "referrers", "-q", "--artifact-type", "text/x.notes", name); got != two+"\n" {
		t.Errorf("of one type: %s", got)
	}
	var doc ocispec.Manifest
	if err := json.Unmarshal([]byte(w.ok("manifest", "inspect", host+"/app@"+one)), &doc); err != nil {
		t.Fatal(err)
	}
	subject := doc.Subject
	if subject == nil || doc.ArtifactType != "application/spdx+json" || doc.Annotations["by"] != "test" || len(doc.Layers) != 3 ||
		doc.Layers[0].MediaType != "application/spdx+json" || doc.Layers[1].MediaType != "application/octet-stream" || doc.Layers[1].Annotations[ocispec.AnnotationTitle] != "notes" {
		t.Fatalf("attached is %+v", doc)
	}
	out, err := exec.Command("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+host+"/app:"+strings.Replace(subject.Digest.String(), ":", "-", 1)).Output()
	if err != nil || !strings.Contains(string(out), one) || !strings.Contains(string(out), two) {
		t.Errorf("the tag, by skopeo: %v\n%s", err, out)
	}
	// The image is what it was, and a pull of it brings none of that.
	w.ok("rmi", name)
	w.ok("pull", "-q", name)
	w.checkWhole()

	for _, c := range []struct {
		words []string
		args  []string
		code  int
	}{
		{[]string{"--artifact-type", "want a media type"}, []string{"attach", name, "notes"}, 2},
		{[]string{"KEY=VALUE"}, []string{"attach", "--artifact-type", "a/b", "--annotation", "x", name, "notes"}, 2},
		{[]string{"no regular file"}, []string{"attach", "--artifact-type", "a/b", name, "."}, 1},
		{[]string{"missing"}, []string{"attach", "--artifact-type", "a/b", name, "missing"}, 1},
		{[]string{"attach to", "not found"}, []string{"attach", "--artifact-type", "a/b", host + "/none:1", "notes"}, 1},
		{[]string{"list referrers of", "not found"}, []string{"referrers", host + "/none:1"}, 1},
	} {
		w.fails(c.code, c.words, append([]string{"manifest"}, c.args...)...)
	}
}

// TestReferrersAPI lists by a registry's referrers API, which a hostile one
// answers as it likes.
func TestReferrersAPI(t *testing.T) {
	w := newBench(t)
	upstream := startRegistry(t)
	w.ok("tag", "test/base", upstream+"/app:1")
	w.ok("push", upstream+"/app:1")
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: upstream})
	const digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	row := fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":9,"artifactType":"a/b"}`, digest)
	for _, c := range []struct {
		name, body, want string
		code, status     int
		paged            bool
	}{
		{"two, one doubled", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` + row + "," + row + `]}`, digest + "\n", 0, 0, false},
		{"no digest", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"a/b","digest":"x","size":1}]}`, "wrong bytes", 1, 0, false},
		{"endless", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","x":"` + strings.Repeat("a", 17<<20), "too long", 1, 0, false},
		{"pages", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` + row + `]}`, "sha256:" + strings.Repeat("b", 64) + "\n" + digest + "\n", 0, 0, true},
		{"no API", "", "", 0, 404, false},
		{"denied", "", "denied", 1, 403, false},
		{"broken", "", "answered 500", 1, 500, false},
		{"no index", "[]", "wrong bytes", 1, 0, false},
		{"no JSON", "<html>", "no JSON", 1, 0, false},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				pass.ServeHTTP(rw, r)
				return
			}
			rw.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
			if c.status != 0 {
				rw.WriteHeader(c.status)
			}
			if c.paged && r.URL.Query().Get("page") == "" {
				rw.Header().Set("Link", `</v2/app/referrers/x?page=2>; rel="next"`)
				fmt.Fprint(rw, strings.ReplaceAll(c.body, strings.Repeat("a", 64), strings.Repeat("b", 64)))
				return
			}
			fmt.Fprint(rw, c.body)
		}))
		r := w.run("manifest", "referrers", "-q", strings.TrimPrefix(srv.URL, "http://")+"/app:1")
		srv.Close()
		if r.code != c.code || !strings.Contains(r.stdout+r.stderr, c.want) || c.code == 0 && r.stdout != c.want {
			t.Errorf("%s: %d %s%.300s", c.name, r.code, r.stdout, r.stderr)
		}
	}
}
