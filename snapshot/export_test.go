// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"maps"
	"slices"
)

// NewCopies is NewOverlay where nothing can be mounted.
func NewCopies(root string) (*Overlay, error) { return newOverlay(root, true) }

// KnownDirs are the directories that are known of a snapshot's tree.
func (o *Overlay) KnownDirs(id ID) []string {
	for _, k := range o.kept {
		if k.id == id {
			return slices.Sorted(maps.Keys(k.tree.dirs))
		}
	}
	return nil
}
