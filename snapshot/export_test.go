// SPDX-License-Identifier: Apache-2.0

package snapshot

// NewCopies is NewOverlay where nothing can be mounted.
func NewCopies(root string) (*Overlay, error) { return newOverlay(root, true) }
