// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
	"builder/internal/testutil"
)

// server is a registry of the distribution project on a loopback port, with
// its storage in a temporary directory.
type server struct {
	host string // 127.0.0.1:port
	user *url.Userinfo
}

// startServer starts a registry that ends with the test. extra is added to its
// configuration.
func startServer(t *testing.T, extra string) *server {
	t.Helper()
	testutil.Require(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{host: l.Addr().String()}
	l.Close()
	dir := t.TempDir()
	conf := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}
http: {addr: %q}
%s`, filepath.Join(dir, "storage"), s.host, extra)
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", file)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("registry's log:\n%s", log.String())
		}
	})
	for range 1000 {
		if resp, err := http.Get("http://" + s.host + "/v2/"); err == nil {
			resp.Body.Close()
			return s
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("registry at %s doesn't answer", s.host)
	return nil
}

func (s *server) ref(t *testing.T, name string) image.Ref { return mustRef(t, s.host+"/"+name) }

func mustRef(t *testing.T, name string) image.Ref {
	t.Helper()
	r, err := image.ParseRef(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *server) do(t *testing.T, method, url, contentType string, body []byte) *http.Response {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if s.user != nil {
		password, _ := s.user.Password()
		req.SetBasicAuth(s.user.Username(), password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s: %s", method, url, resp.Status, data)
	}
	return resp
}

func (s *server) pushBlob(t *testing.T, repo, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	resp := s.do(t, "POST", fmt.Sprintf("http://%s/v2/%s/blobs/uploads/", s.host, repo), "", nil)
	at, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	q := at.Query()
	q.Set("digest", desc.Digest.String())
	at.RawQuery = q.Encode()
	s.do(t, "PUT", at.String(), "application/octet-stream", data)
	return desc
}

func (s *server) pushManifest(t *testing.T, repo, tag string, mediaType string, doc any) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if tag == "" {
		tag = desc.Digest.String()
	}
	s.do(t, "PUT", fmt.Sprintf("http://%s/v2/%s/manifests/%s", s.host, repo, tag), mediaType, data)
	return desc
}

// spec is an image to push.
type spec struct {
	seed     uint64
	layers   int
	size     int // of each layer's one file
	docker   bool
	platform image.Platform
}

func (sp spec) types() (manifest, config, layer string) {
	if sp.docker {
		return image.MediaTypeDockerManifest, image.MediaTypeDockerConfig, image.MediaTypeDockerLayerGzip
	}
	return ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip
}

// push pushes a random image and returns its manifest's descriptor.
func (s *server) push(t *testing.T, repo, tag string, sp spec) (ocispec.Descriptor, ocispec.Manifest) {
	t.Helper()
	manifestType, configType, layerType := sp.types()
	if sp.platform.OS == "" {
		sp.platform = image.HostPlatform()
	}
	conf := image.Config{}
	conf.Platform = sp.platform
	conf.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifestType}
	for i := range sp.layers {
		blob, diffID := randomLayer(t, sp.seed*1000+uint64(i), sp.size)
		m.Layers = append(m.Layers, s.pushBlob(t, repo, layerType, blob))
		conf.RootFS.DiffIDs = append(conf.RootFS.DiffIDs, diffID)
	}
	data, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	m.Config = s.pushBlob(t, repo, configType, data)
	return s.pushManifest(t, repo, tag, manifestType, m), m
}

// randomLayer makes a layer of one file of bytes that don't compress.
func randomLayer(t *testing.T, seed uint64, size int) (blob []byte, diffID digest.Digest) {
	t.Helper()
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	data := make([]byte, size)
	rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	rnd.Read(data)
	if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("file-%d", seed), Mode: 0o644, Size: int64(size)}); err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Close()
	z := gzip.NewWriter(&packed)
	z.Write(plain.Bytes())
	z.Close()
	return packed.Bytes(), digest.FromBytes(plain.Bytes())
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
