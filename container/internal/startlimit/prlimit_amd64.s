// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// func prlimit(old *Limit) (errno uintptr)
TEXT ·prlimit(SB), NOSPLIT, $0-16
	MOVL $0, DI
	MOVL $7, SI // RLIMIT_NOFILE
	MOVL $0, DX
	MOVQ old+0(FP), R10
	MOVL $302, AX // prlimit64
	SYSCALL
	NEGQ AX
	MOVQ AX, errno+8(FP)
	RET
