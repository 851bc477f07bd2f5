// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// words are the values of a flag that may be given several times. It is what pflag's
// StringArrayVar makes, which writes CSV for the default of every flag, given or not: for
// run's that takes longer than to start its process.
type words struct{ to *[]string }

// wordsVar defines a flag of several values, which are appended to what to points to.
func wordsVar(fs *pflag.FlagSet, to *[]string, name, usage string) {
	wordsVarP(fs, to, name, "", usage)
}

func wordsVarP(fs *pflag.FlagSet, to *[]string, name, short, usage string) {
	fs.VarP(words{to}, name, short, usage)
}

func (w words) Set(value string) error {
	*w.to = append(*w.to, value)
	return nil
}

func (w words) Type() string { return "stringArray" }

func (w words) String() string {
	if w.to == nil || len(*w.to) == 0 {
		return ""
	}
	return "[" + strings.Join(*w.to, ",") + "]"
}

// Append, Replace and GetSlice implement [pflag.SliceValue].

func (w words) Append(value string) error { return w.Set(value) }

func (w words) Replace(values []string) error { //nolint:unparam // the interface has it
	*w.to = values
	return nil
}

func (w words) GetSlice() []string { return slices.Clone(*w.to) }
