// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"builder/internal/quickjson"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParsePlatform(t *testing.T) {
	host := HostPlatform()
	for in, want := range map[string]string{
		"linux/amd64": "linux/amd64", "linux/x86_64": "linux/amd64", "x86-64": "linux/amd64", "linux/amd64/v1": "linux/amd64",
		"linux/amd64/v3": "linux/amd64/v3", "aarch64": "linux/arm64", "linux/arm64/v8": "linux/arm64", "linux/arm64/8": "linux/arm64",
		"linux/arm": "linux/arm/v7", "linux/arm/7": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6", "armhf": "linux/arm/v7", "armel": "linux/arm/v6",
		"i686": "linux/386", "Linux/AMD64": "linux/amd64", "windows/amd64": "windows/amd64",
		"local": FormatPlatform(host), "linux": FormatPlatform(host), "linux/s390x": "linux/s390x",
	} {
		got, err := ParsePlatform(in)
		if err != nil || FormatPlatform(got) != want {
			t.Errorf("ParsePlatform(%q) = %s, %v, want %s", in, FormatPlatform(got), err, want)
		}
	}
	for _, in := range []string{"", "/", "linux/", "a/b/c/d", "linux/amd 64", "linux/amd64,linux/arm64", "lin\nux", "1", "given", "arm46"} {
		if got, err := ParsePlatform(in); err == nil {
			t.Errorf("ParsePlatform(%q) = %v", in, got)
		}
	}
}

func descs(platforms ...string) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, s := range platforms {
		var d ocispec.Descriptor
		switch s {
		case "none":
		case "attestation":
			d.Platform = &Platform{OS: "linux", Architecture: "amd64"}
			d.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
		default:
			parts := append(strings.Split(s, "/"), "", "")
			d.Platform = &Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
		}
		out = append(out, d)
	}
	return out
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		want string
		have []string
		i    int
	}{
		{"linux/amd64", []string{"linux/arm64", "linux/amd64"}, 1},
		{"linux/amd64", []string{"linux/amd64", "linux/amd64"}, 0},
		{"linux/amd64", []string{"none", "attestation", "windows/amd64", "linux/386"}, -1},
		{"linux/amd64", []string{"attestation", "linux/amd64"}, 1},
		{"linux/amd64", []string{"linux/amd64/v2", "linux/amd64"}, 1},
		{"linux/amd64", []string{"linux/amd64/v2"}, -1},
		{"linux/amd64", []string{"linux/amd64/v1"}, 0},
		{"linux/amd64/v3", []string{"linux/amd64", "linux/amd64/v4", "linux/amd64/v2"}, 2},
		{"linux/amd64/v3", []string{"linux/amd64", "linux/amd64/v4", "linux/amd64/v3", "linux/amd64/v2"}, 2},
		{"linux/amd64/v3", []string{"linux/amd64"}, 0},
		{"linux/arm/v7", []string{"linux/arm/v5", "linux/arm/v6", "linux/arm/v8"}, 1},
		{"linux/arm/v6", []string{"linux/arm/v7"}, -1},
		{"linux/arm/v6", []string{"linux/arm"}, -1},
		{"linux/arm", []string{"linux/arm/v6", "linux/arm/v7"}, 1},
		{"linux/arm64", []string{"linux/arm64/v8"}, 0},
		{"linux/arm64", []string{"linux/arm64/v9", "linux/arm64"}, 1},
		{"linux/arm64/v9", []string{"linux/arm64/v8.2", "linux/arm64"}, 0},
		{"linux/riscv64", []string{"linux/riscv64/strange"}, -1},
		{"linux/riscv64/strange", []string{"linux/riscv64", "linux/riscv64/strange"}, 1},
		{"linux/amd64", nil, -1},
	} {
		want, err := ParsePlatform(tt.want)
		if err != nil {
			t.Fatal(err)
		}
		if got := Match(descs(tt.have...), want); got != tt.i {
			t.Errorf("Match(%v, %s) = %d, want %d", tt.have, tt.want, got, tt.i)
		}
	}
}

func TestSamePlatform(t *testing.T) {
	for _, tt := range []struct {
		a, b Platform
		want bool
	}{
		{Platform{OS: "linux", Architecture: "x86_64"}, Platform{OS: "linux", Architecture: "amd64", Variant: "v1"}, true},
		{Platform{OS: "linux", Architecture: "arm"}, Platform{OS: "linux", Architecture: "arm", Variant: "7"}, true},
		{Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, Platform{OS: "linux", Architecture: "arm"}, false},
		{Platform{OS: "linux", Architecture: "amd64"}, Platform{OS: "windows", Architecture: "amd64"}, false},
	} {
		if got := SamePlatform(tt.a, tt.b); got != tt.want {
			t.Errorf("SamePlatform(%v, %v) = %t", tt.a, tt.b, got)
		}
	}
}

func TestParseManifest(t *testing.T) {
	const good = `{"schemaVersion":2,"config":{"digest":"` + aDigest + `","size":1},"layers":[{"digest":"` + aDigest + `","size":2}]}`
	if _, err := ParseManifest([]byte(good)); err != nil {
		t.Errorf("good manifest: %v", err)
	}
	many := strings.Repeat(`{"digest":"`+aDigest+`","size":2},`, MaxLayers)
	for in, want := range map[string]string{
		``: "JSON", `[]`: "cannot unmarshal", `null`: "schema version 0", `{}`: "schema version 0",
		strings.Replace(good, `:2,`, `:1,`, 1):                                           "schema version 1",
		strings.Replace(good, `"size":1`, `"size":-1`, 1):                                "negative",
		strings.Replace(good, aDigest, "sha256:../../x", 1):                              "digest",
		strings.Replace(good, aDigest, "sha512:"+strings.Repeat("0", 128), 1):            "only sha256",
		strings.Replace(good, aDigest, "", 1):                                            "digest",
		strings.Replace(good, `"layers":[`, `"layers":[`+many, 1):                        "at most",
		strings.Replace(good, `{`, `{"manifests":[],`, 1):                                `field "manifests"`,
		strings.Replace(good, `{`, `{"Manifests":[],`, 1):                                `field "manifests"`,
		strings.Replace(good, `{`, `{"mediaType":"`+ocispec.MediaTypeImageIndex+`",`, 1): "it says that it is",
		strings.Replace(good, `{`, `{"mediaType":7,`, 1):                                 "cannot unmarshal",
		strings.Replace(good, `{`, `{"manifests":[],"manifests":null,`, 1):               `field "manifests"`,
	} {
		if _, err := ParseManifest([]byte(in)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseManifest(%.80s): %v, want %q", in, err, want)
		}
	}
}

func TestParseIndex(t *testing.T) {
	const good = `{"schemaVersion":2,"manifests":[{"digest":"` + aDigest + `","size":1}]}`
	for _, in := range []string{good, `{}`, strings.Replace(good, `{`, `{"mediaType":"`+MediaTypeDockerManifestList+`","layers":null,`, 1)} {
		if _, err := ParseIndex([]byte(in)); err != nil {
			t.Errorf("ParseIndex(%s): %v", in, err)
		}
	}
	for in, want := range map[string]string{
		``:                                     "JSON",
		strings.Replace(good, aDigest, "x", 1): "digest",
		strings.Replace(good, `{`, `{"layers":[],`, 1):                                      `field "layers"`,
		strings.Replace(good, `{`, `{"config":{},`, 1):                                      `field "config"`,
		strings.Replace(good, `{`, `{"mediaType":"`+ocispec.MediaTypeImageManifest+`",`, 1): "it says that it is",
	} {
		if _, err := ParseIndex([]byte(in)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseIndex(%s): %v, want %q", in, err, want)
		}
	}
}

func TestParseConfig(t *testing.T) {
	m := ocispec.Manifest{Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerGzip}}}
	config := Config{}
	config.Config.Shell = []string{"/bin/bash", "-c"}
	config.Config.OnBuild = []string{"RUN x"}
	config.RootFS.DiffIDs = []digest.Digest{aDigest}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig(data, m)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config, got); diff != "" {
		t.Errorf("docker's extensions: (-want +got)\n%s", diff)
	}
	artifact := ocispec.Manifest{Layers: []ocispec.Descriptor{{MediaType: "application/x"}}}
	if _, err := ParseConfig(data, artifact); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "artifact") {
		t.Errorf("artifact: %v", err)
	}
	if _, err := ParseConfig(data, ocispec.Manifest{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("fewer layers: %v", err)
	}
	if _, err := ParseConfig([]byte(strings.Replace(string(data), aDigest, "sha256:x", 1)), m); !errors.Is(err, ErrInvalid) {
		t.Errorf("bad diffID: %v", err)
	}
}

func FuzzParseDocuments(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"` + aDigest + `","size":1},"layers":[{"digest":"` + aDigest + `","size":2}]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"` + aDigest + `","size":1,"platform":{"os":"linux","architecture":"arm"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, manifestErr := ParseManifest(data)
		idx, indexErr := ParseIndex(data)
		if manifestErr == nil && indexErr == nil {
			t.Errorf("%q is a manifest of %d layers and an index of %d manifests", data, len(m.Layers), len(idx.Manifests))
		}
		if indexErr == nil {
			Match(idx.Manifests, HostPlatform())
		}
		ParseConfig(data, m)
	})
}

// FuzzQuickJSON reads documents in the quick way and by encoding/json: with the same
// result and the same error.
func FuzzQuickJSON(f *testing.F) {
	const config = `{"created":"2026-11-28T10:00:00.5Z","author":"a","architecture":"amd64","os":"linux","os.features":["x"],"variant":"v8","rootfs":{"type":"layers","diff_ids":["` + aDigest + `"]},
		"history":[{"created":"2026-11-28T10:00:00Z","created_by":"x","empty_layer":true},{}],
		"config":{"User":"1:2","ExposedPorts":{"80/tcp":{}},"Env":["A=b","C=\u00fc<"],"Entrypoint":null,"Cmd":[],"Volumes":{"/v":{}},"WorkingDir":"/","Labels":{"a":"b","a":"c","\u0061":"d"},
		"Healthcheck":{"Test":["CMD","x"],"Interval":30000000000,"Retries":3},"Shell":["/bin/sh"],"OnBuild":["RUN x"],"ArgsEscaped":true,"StopSignal":"9"}}`
	const index = `{"schemaVersion":2,"mediaType":"m","artifactType":"t","manifests":[{"mediaType":"m","digest":"` + aDigest + `","size":12,"urls":["u"],"data":"AQI=",
		"annotations":{"k":"v"},"platform":{"architecture":"arm64","os":"linux","os.version":"1","os.features":["f"],"variant":"v8"},"artifactType":"x"}],"subject":null,"annotations":{}}`
	for _, s := range []string{
		config, index, "{}", "null", "[]", "", `{"a":`, `1`, `"x"`, ` { "schemaVersion" : 2 , "layers" : [ ] } `,
		`{"schemaVersion":2,"SchemaVersion":3}`, `{"SCHEMAVERSION":3}`, `{"schemaVersion":2.0}`, `{"schemaVersion":1e3}`, `{"schemaVersion":"2"}`, `{"schemaVersion":99999999999999999999}`, `{"schemaVersion":-0}`,
		`{"manifests":[{"size":1},{"digest":"d"}],"manifests":[{"size":3}]}`, `{"manifests":{}}`, `{"manifests":[1]}`, `{"manifests":[null,{}]}`, `{"layers":[[]]}`,
		`{"config":{"digest":"d"},"config":{"size":1}}`, `{"config":{"Env":["a"],"env":["b","c"]}}`, `{"config":{"Volumes":{"/a":{"x":[1,{"y":"}\""}]}}}}`, `{"config":{"Volumes":{"/a":1}}}`,
		`{"\u0063onfig":{"User":"x"}}`, `{"config":{"U\u017fer":"x"}}`, `{"config":{"uſer":"x"}}`, `{"config":{"User":"\ud800","WorkingDir":"\n\\\""}}`, "{\"config\":{\"User\":\"\xff\"}}",
		`{"config":{"Healthcheck":{"Interval":"1s"}}}`, `{"created":null,"config":null,"rootfs":null}`, `{"created":"yesterday"}`, `{"created":1}`, `{"config":{"Labels":{"a":1}}}`, `{"unknown":{"a":[1,2,"]"]},"os":"x"}`,
		`{"os":"a","os":"b"}`, `{"config":{"":{}},"":1}`, `{"os":null,"os":"b"}`, `{"os":"b","os":null}`, `{"config":{"ArgsEscaped":"x"}}`, `{"config":{"ArgsEscaped":false,"ArgsEscaped":true}}`, `{"subject":{"size":1}}`, `{"Versioned":{"schemaVersion":1}}`, `{"Platform":{"os":"x"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if fields := tokenFields(data); json.Valid(data) {
			var got []string
			err := quickjson.Fields(data, func(name string, value []byte) error {
				got = append(got, name, string(value))
				return nil
			})
			if err != nil || !slices.Equal(got, fields) {
				t.Errorf("%q has fields %q, %v, want %q", data, got, err, fields)
			}
		}
		for _, fresh := range []func() any{func() any { return new(ocispec.Index) }, func() any { return new(ocispec.Manifest) }, func() any { return new(Config) }} {
			got, want := fresh(), fresh()
			gotErr, wantErr := quickjson.Unmarshal(data, got), json.Unmarshal(data, want)
			if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) || !reflect.DeepEqual(got, want) {
				t.Errorf("%q as %T:\n%+v, %v\nwant %+v, %v", data, got, got, gotErr, want, wantErr)
			}
		}
	})
}

// tokenFields are the fields of an object, and their values.
func tokenFields(data []byte) (fields []string) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return nil
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil
		}
		fields = append(fields, key.(string), string(value))
	}
	return fields
}
