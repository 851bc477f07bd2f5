// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"testing"

	"builder/network"
	"builder/store"
)

// TestConnectWhileOthersChange connects containers that don't run, which somebody
// else has renamed since they were looked up.
func TestConnectWhileOthersChange(t *testing.T) {
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cl := Client{Records: NewRecords(s)}
	c := Config{ID: NewID(), Name: "before", Endpoint: &network.Endpoint{Connections: []network.Connection{{Network: "one"}}}}
	lock, err := cl.Records.Create(&c, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	lock.Release()
	found, err := cl.Records.Find("before")
	if err != nil {
		t.Fatal(err)
	}
	if err := cl.Records.Rename(c, "after"); err != nil {
		t.Fatal(err)
	}
	check := func(networks ...string) {
		t.Helper()
		now, err := cl.Records.Find("after")
		if err != nil {
			t.Fatal(err)
		}
		ok := len(now.Endpoint.Connections) == len(networks)
		for i := 0; ok && i < len(networks); i++ {
			ok = now.Endpoint.Connections[i].Network == networks[i]
		}
		if !ok {
			t.Errorf("it is to be on %+v, want %v", now.Endpoint.Connections, networks)
		}
	}
	ctx := context.Background()
	if err := cl.Connect(ctx, found, network.Connection{Network: "two"}); err != nil {
		t.Fatal(err)
	}
	check("one", "two")
	if err := cl.Connect(ctx, found, network.Connection{Network: "two"}); err == nil {
		t.Error("it was connected twice")
	}
	if err := cl.Disconnect(ctx, found, "one"); err != nil {
		t.Fatal(err)
	}
	check("two")
	if err := cl.Disconnect(ctx, found, "one"); err == nil {
		t.Error("it was disconnected twice")
	}
	check("two")
}
