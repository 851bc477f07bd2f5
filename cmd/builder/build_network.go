// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"sync"

	"builder/build"
	"builder/internal/sys"
	"builder/network"
	"builder/store"
	"builder/supervisor"
)

// buildNetworks gives RUN steps network namespaces. One that a step has done
// with is the next one's, so a build without steps side by side makes one.
type buildNetworks struct {
	networks *network.Networks
	fallback func() string // the network of builds that name none

	mu   sync.Mutex
	idle map[string][]*network.Attachment // by network
	all  []*network.Attachment
}

// buildNetworks are those of the state directory, for the builds of one command.
func (e *env) buildNetworks(s *store.Store) *buildNetworks {
	return &buildNetworks{
		networks: e.records(s).Networks(),
		fallback: sync.OnceValue(func() string {
			if !sys.MayMount() {
				return "host" // no namespace can be made either
			}
			return e.defaultNetwork(s, "host")
		}),
	}
}

// Join implements build.Networks.
func (b *buildNetworks) Join(_ context.Context, name string) (build.Link, error) {
	if name == "default" {
		name = b.fallback()
	}
	if name == "host" {
		return build.Link{}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var att *network.Attachment
	if have := b.idle[name]; len(have) > 0 {
		att = have[len(have)-1]
		b.idle[name] = have[:len(have)-1]
	} else {
		var err error
		att, err = b.networks.Attach(network.Endpoint{
			Container: supervisor.ProcessID(), Connections: []network.Connection{{Network: name}},
		}, nil)
		if err != nil {
			return build.Link{}, err
		}
		b.all = append(b.all, att)
	}
	return build.Link{NetNS: att.Namespace(), DNS: att.DNS, Gateway: att.Gateway(), Release: func(used bool) error {
		if used {
			return att.Close()
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.idle == nil {
			b.idle = map[string][]*network.Attachment{}
		}
		b.idle[name] = append(b.idle[name], att)
		return nil
	}}, nil
}

// close ends all that were made. No step may run any more.
func (b *buildNetworks) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, att := range b.all {
		errs = append(errs, att.Close())
	}
	b.all, b.idle = nil, nil
	return errors.Join(errs...)
}
