// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"fmt"

	"builder/container"
)

// addCDI adds to a container what the specifications in a directory, "" for the usual
// ones, say of the devices of --device and --gpus.
func addCDI(spec *container.Spec, dir string, devices, gpus []string) (flag string, err error) {
	registry := cdiRegistry(dir)
	var named []string
	for _, of := range []struct {
		flag, hint string
		names      []string
	}{{"device", "", devices}, {"gpus", ": make one, as by \"nvidia-ctk cdi generate\"", gpus}} {
		for _, w := range of.names {
			found, err := registry.Find(w)
			if err == nil && len(found) == 0 {
				err = fmt.Errorf("no CDI specification has the device %s%s", w, of.hint)
			}
			if err != nil {
				return of.flag, err
			}
			named = append(named, found...)
		}
	}
	edits, err := registry.Edits(named)
	if err != nil {
		return "device", err
	}
	spec.Env = append(spec.Env, edits.Env...)
	spec.Devices = append(spec.Devices, edits.Devices...)
	spec.Mounts = append(spec.Mounts, edits.Mounts...)
	spec.GroupAdd = append(spec.GroupAdd, edits.Groups...)
	return "", nil
}
