// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"fmt"
	"strings"

	"builder/build"

	"github.com/tonistiigi/go-csvvalue"
)

// parseAllow reads --allow flags.
func parseAllow(words []string) (build.Allow, error) {
	a := build.Allow{Devices: map[string]string{}}
	for _, w := range words {
		key, value, hasValue := strings.Cut(w, "=")
		if hasValue && key != "device" {
			return a, fmt.Errorf("unknown entitlement %s", w)
		}
		switch key {
		case "":
		case "security.insecure":
			a.Insecure = true
		case "network.host":
			a.NetworkHost = true
		case "secret.leak":
			a.SecretLeak = true
		case allowLocalDelete: // the outputs ask for it
		case "device":
			if value == "" {
				a.AllDevices = true
				continue
			}
			if err := allowDevice(a.Devices, value); err != nil {
				return a, err
			}
		default:
			return a, fmt.Errorf("unknown entitlement %s: want security.insecure, network.host, device[=NAME], secret.leak or %s", w, allowLocalDelete)
		}
	}
	return a, nil
}

// allowDevice reads NAME[,alias=ALIAS].
func allowDevice(devices map[string]string, value string) error {
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return fmt.Errorf("device=%s: %w", value, err)
	}
	name, alias := fields[0], ""
	for _, field := range fields[1:] {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			return fmt.Errorf("invalid device config %q", field)
		}
		if k != "alias" {
			return fmt.Errorf("unknown device config key %q", k)
		}
		alias = v
	}
	if name == "" {
		return fmt.Errorf("device=%s names no device", value)
	}
	if alias != "" {
		devices[alias] = name
	} else {
		devices[name] = ""
	}
	return nil
}
