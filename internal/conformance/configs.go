// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
)

// configs is a registry of images of which nobody asks for the layers: by
// path, what is answered.
type configs map[string]answer

type answer struct {
	mediaType string
	data      []byte
}

type blobDescriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

// ConfigRegistry serves the images whose configs a file has, by their names,
// under every tag. They have a layer, but it can't be fetched.
func ConfigRegistry(file string) (http.Handler, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var images map[string]json.RawMessage
	if err := json.Unmarshal(data, &images); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	r := configs{}
	for name, config := range images {
		const configType, layerType = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"
		const manifestType = "application/vnd.oci.image.manifest.v1+json"
		manifest, err := json.Marshal(map[string]any{
			"schemaVersion": 2, "mediaType": manifestType,
			"config": r.add(name+"/blobs/", configType, config),
			"layers": []blobDescriptor{{layerType, digest(nil), 0}},
		})
		if err != nil {
			return nil, err
		}
		r.add(name+"/manifests/", manifestType, manifest)
		r[name+"/manifests/latest"] = answer{manifestType, manifest}
	}
	return r, nil
}

func (r configs) add(path, mediaType string, data []byte) blobDescriptor {
	r[path+digest(data)] = answer{mediaType, data}
	return blobDescriptor{mediaType, digest(data), len(data)}
}

func (r configs) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path := req.URL.Path
	if path == "/v2/" {
		return
	}
	name, kind, _ := strings.Cut(strings.TrimPrefix(path, "/v2/"), "/")
	if tag, ok := strings.CutPrefix(kind, "manifests/"); ok && !strings.HasPrefix(tag, "sha256:") {
		kind = "manifests/latest"
	}
	doc, ok := r[name+"/"+kind]
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", doc.mediaType)
	w.Header().Set("Docker-Content-Digest", digest(doc.data))
	w.Header().Set("Content-Length", strconv.Itoa(len(doc.data)))
	if req.Method != http.MethodHead {
		w.Write(doc.data) //nolint:errcheck // the client notices
	}
}
