// SPDX-License-Identifier: Apache-2.0

package supervisor

import "testing"

// TestAfterEnd asks how a process ended which had done so before it was asked
// for.
func TestAfterEnd(t *testing.T) {
	h := &holder{last: State{Status: Exited, ExitCode: 7}}
	if st := h.after(nil); st.ExitCode != 7 {
		t.Errorf("it ended as %+v", st)
	}
}
