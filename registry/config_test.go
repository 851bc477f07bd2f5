// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"testing"

	"builder/image"
)

func TestConfig(t *testing.T) {
	srv := startServer(t, "")
	_, own, foreign := pushIndex(t, srv, "multi", "1", image.HostPlatform())
	for _, tt := range []struct {
		platform image.Platform
		want     string
	}{{image.Platform{}, own.Digest.String()}, {*foreign.Platform, foreign.Digest.String()}} {
		img, err := testClient().Config(t.Context(), srv.ref(t, "multi:1"), tt.platform)
		if err != nil {
			t.Fatal(err)
		}
		if img.Desc.Digest.String() != tt.want || len(img.Config.RootFS.DiffIDs) != len(img.Manifest.Layers) || len(img.Manifest.Layers) == 0 {
			t.Errorf("manifest %s, want %s; %d layers, config %+v", img.Desc.Digest, tt.want, len(img.Manifest.Layers), img.Config)
		}
	}
	if _, err := testClient().Config(t.Context(), srv.ref(t, "nosuch:1"), image.Platform{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("error is %v", err)
	}
	if _, err := testClient().Config(t.Context(), srv.ref(t, "multi:1"), image.Platform{OS: "linux", Architecture: "riscv64"}); !errors.Is(err, ErrNoPlatform) {
		t.Errorf("error is %v", err)
	}
	if _, err := testClient().Config(t.Context(), mustRef(t, "127.0.0.1:1/x"), image.Platform{}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("error is %v", err)
	}
}
