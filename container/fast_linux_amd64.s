// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

#define SYS_write 1
#define SYS_exit_group 231
#define SYS_clone3 435

// Offsets in a program's image, see type program.
#define HEADER 32
#define OP 88
#define op_nr 0
#define op_indirect 8
#define op_args 16
#define op_result 64
#define op_tolerate 72
#define op_skip 80

// Loads argument i of the operation at BX; R13 says whether it is indirect.
#define ARG(i, reg) \
	MOVQ (op_args+8*i)(BX), reg; \
	BTQ  $i, R13; \
	JCC  2(PC); \
	MOVQ (reg), reg

// Walks the program whose image is at R12. It does not return.
#define WALK \
	LEAQ HEADER(R12), BX; \
step: \
	MOVQ op_nr(BX), AX; \
	MOVQ op_indirect(BX), R13; \
	ARG(0, DI); \
	ARG(1, SI); \
	ARG(2, DX); \
	ARG(3, R10); \
	ARG(4, R8); \
	ARG(5, R9); \
	CMPQ AX, $-1; \ // opCheck
	JEQ  check; \
	SYSCALL; \
	CMPQ AX, $-4095; \
	JCC  failed; \ // unsigned: an error
	MOVQ op_result(BX), CX; \
	TESTQ CX, CX; \
	JEQ  next; \
	MOVQ AX, (CX); \
next: \
	ADDQ $OP, BX; \
	JMP  step; \
check: \
	MOVBQZX (DI), AX; \
	CMPQ AX, SI; \
	JEQ  next; \
	MOVQ DX, AX; \
	NEGQ AX; \
failed: \
	NEGQ AX; \ // errno
	MOVQ op_tolerate(BX), CX; \
	CMPQ CX, $-1; \
	JEQ  skip; \
	CMPQ AX, $64; \
	JCC  report; \
	BTQ  AX, CX; \
	JCS  skip; \
report: \
	MOVQ AX, 16(R12); \
	MOVQ BX, AX; \
	SUBQ R12, AX; \
	SUBQ $HEADER, AX; \
	MOVL $0, DX; \
	MOVL $OP, CX; \
	DIVQ CX; \
	MOVQ AX, 8(R12); \
	MOVQ 0(R12), DI; \
	LEAQ 8(R12), SI; \
	MOVL $16, DX; \
	MOVL $SYS_write, AX; \
	SYSCALL; \
	MOVL $127, DI; \
	MOVL $SYS_exit_group, AX; \
	SYSCALL; \
	INT  $3; \
skip: \
	MOVQ op_skip(BX), CX; \
	IMULQ $OP, CX; \
	ADDQ CX, BX; \
	JMP  next

// func cloneWalk(args unsafe.Pointer, size uintptr, image unsafe.Pointer) (pid uintptr)
//
// The child shares this process's memory and must leave nothing in it but in
// the image: it makes no calls and uses no stack, so it is no matter that Go's
// scheduler and collector know nothing of it. All its signals are blocked.
TEXT ·cloneWalk(SB), NOSPLIT, $0-32
	MOVQ args+0(FP), DI
	MOVQ size+8(FP), SI
	MOVQ image+16(FP), R12
	MOVL $SYS_clone3, AX
	SYSCALL
	TESTQ AX, AX
	JEQ  child
	MOVQ AX, pid+24(FP)
	RET

child:
	WALK

// The walker of exec: a program of its own, which is never called here.
// newWalker copies its bytes into a memory file, behind which the image is at
// imageAddr.
TEXT ·walkerCode(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $0x3000000000, R12
	WALK
	BYTE $0x45; BYTE $0x4e; BYTE $0x44; BYTE $0x4f // trampolineMark
	BYTE $0x46; BYTE $0x43; BYTE $0x44; BYTE $0x45

// func walkerAddr() uintptr
TEXT ·walkerAddr(SB), NOSPLIT, $0-8
	LEAQ ·walkerCode(SB), AX
	MOVQ AX, addr+0(FP)
	RET
