// SPDX-License-Identifier: Apache-2.0

// Package names says what containers, networks and volumes may be called.
package names

import "strings"

// Valid says whether a text is a name as docker has them: letters, digits, "_", "." and
// "-", of which the last three don't begin it. docker wants two characters at least.
func Valid(text string) bool {
	const first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return text != "" && strings.ContainsRune(first, rune(text[0])) && strings.Trim(text, first+"_.-") == ""
}
