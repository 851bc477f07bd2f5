// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// The trampolines. They are never called: newTrampoline copies their bytes
// into a memory file behind an ELF header. So they touch nothing but
// registers and the stack, and make no calls. See trampoline_linux.go for what
// they do.
//
// The kernel starts a program with SP at argc, argv[0] … argv[argc-1], 0,
// envp…, 0. argv[0] begins with the number of candidates, and is else the name of
// process 1; argv[1]… are the candidates; behind them is the argv of the command.
//
// Registers: R12 = the stack at the start, R13 = the command's argv, R14 = its
// envp, BX = the next candidate, R15 = how many are left, R8 = the error to
// report.

#define SYS_write 1
#define SYS_rt_sigprocmask 14
#define SYS_ioctl 16
#define SYS_getpid 39
#define SYS_clone 56
#define SYS_execve 59
#define SYS_wait4 61
#define SYS_kill 62
#define SYS_fcntl 72
#define SYS_close 3
#define SYS_setpgid 109
#define SYS_prctl 157
#define SYS_rt_sigtimedwait 128
#define SYS_exit_group 231

#define SIGCHLD 17

// If descriptor 3 is not open, this is not a container's first execve: the
// command executed /proc/self/exe, perhaps as a script's interpreter. The end
// of it is here. Otherwise the descriptor is not for the command.
#define GUARD \
	MOVQ SP, R12; \
	MOVL $3, DI; \
	MOVL $2, SI; \ // F_SETFD
	MOVL $1, DX; \ // FD_CLOEXEC
	MOVL $SYS_fcntl, AX; \
	SYSCALL; \
	TESTQ AX, AX; \
	JNE  die

// Sets R13, R14, R15 and BX.
#define ARGUMENTS \
	MOVQ 0(R12), AX; \
	LEAQ 16(R12)(AX*8), R14; \ // past argv and its 0
	MOVQ 8(R12), AX; \
	MOVBQZX (AX), R15; \
	LEAQ 16(R12), BX; \
	LEAQ 16(R12)(R15*8), R13; \
	MOVL $2, R8 // ENOENT

// Executes the first candidate that can be. ENOENT and ENOTDIR say that one
// isn't there, EACCES that it may not be executed: that is remembered and the
// next one is tried. Any other error ends the search.
#define EXECUTE \
try: \
	TESTQ R15, R15; \
	JEQ  report; \
	DECQ R15; \
	MOVQ (BX), DI; \
	ADDQ $8, BX; \
	MOVQ R13, SI; \
	MOVQ R14, DX; \
	MOVL $SYS_execve, AX; \
	SYSCALL; \
	NEGQ AX; \
	CMPQ AX, $2; \ // ENOENT
	JEQ  try; \
	CMPQ AX, $20; \ // ENOTDIR
	JEQ  try; \
	MOVQ AX, R8; \
	CMPQ AX, $13; \ // EACCES
	JEQ  try; \
report: \
	SUBQ $16, SP; \
	MOVQ $-1, AX; \ // execReport
	MOVQ AX, 0(SP); \
	MOVQ R8, 8(SP); \
	MOVL $3, DI; \
	MOVQ SP, SI; \
	MOVL $16, DX; \
	MOVL $SYS_write, AX; \
	SYSCALL; \
die: \
	MOVL $127, DI; \
	MOVL $SYS_exit_group, AX; \
	SYSCALL; \
	INT  $3

// Ends a trampoline: newTrampoline looks for these bytes.
#define MARK \
	BYTE $0x45; BYTE $0x4e; BYTE $0x44; BYTE $0x4f; \
	BYTE $0x46; BYTE $0x43; BYTE $0x44; BYTE $0x45

TEXT ·trampolineExec(SB), NOSPLIT|NOFRAME, $0-0
	GUARD
	ARGUMENTS
	EXECUTE
	MARK

TEXT ·trampolineInit(SB), NOSPLIT|NOFRAME, $0-0
	GUARD
	ARGUMENTS

	// Block every signal: they are fetched one by one below. 8 bytes below
	// the stack hold the set, and 128 more what is fetched.
	SUBQ $144, SP
	MOVQ $-1, AX
	MOVQ AX, 0(SP)
	MOVL $0, DI // SIG_BLOCK
	MOVQ SP, SI
	MOVL $0, DX
	MOVL $8, R10
	MOVL $SYS_rt_sigprocmask, AX
	SYSCALL

	// fork
	MOVL $SIGCHLD, DI
	MOVL $0, SI
	MOVL $0, DX
	MOVL $0, R10
	MOVL $0, R8
	MOVL $SYS_clone, AX
	SYSCALL
	MOVQ AX, R9 // the child, for the parent
	MOVL $2, R8
	TESTQ AX, AX
	JGT  parent
	JEQ  child
	NEGQ AX
	MOVQ AX, R8
	JMP  report

child:
	// A process group of its own, in the foreground of the terminal if there
	// is one: ^C must reach the command once, not also by way of process 1.
	// SIGTTOU, which this would raise, is still blocked.
	MOVL $0, DI
	MOVL $0, SI
	MOVL $SYS_setpgid, AX
	SYSCALL
	MOVL $SYS_getpid, AX
	SYSCALL
	MOVQ AX, 8(SP)
	MOVL $0, DI
	MOVL $0x5410, SI // TIOCSPGRP
	LEAQ 8(SP), DX
	MOVL $SYS_ioctl, AX
	SYSCALL
	MOVQ $0, 0(SP)
	MOVL $2, DI // SIG_SETMASK
	MOVQ SP, SI
	MOVL $0, DX
	MOVL $8, R10
	MOVL $SYS_rt_sigprocmask, AX
	SYSCALL
	MOVL $2, R8
	EXECUTE

parent:
	// The pipe's end tells that the command runs, so only the child holds it.
	MOVL $3, DI
	MOVL $SYS_close, AX
	SYSCALL

	// Process 1 is shown as "builder-init" and the command's argv, which is moved
	// to behind that: what was between them, the candidates, is nothing to be shown.
	MOVQ 8(R12), SI
	MOVB $0x62, (SI) // b: the name begins with the number of candidates
	MOVL $15, DI // PR_SET_NAME
	MOVL $SYS_prctl, AX
	SYSCALL
	MOVQ -16(R14), SI // the last argument
last:
	MOVBLZX (SI), AX
	INCQ SI
	TESTL AX, AX
	JNE  last
	MOVQ SI, CX // the end of all
	MOVQ 0(R13), SI
	SUBQ SI, CX
	MOVQ 8(R12), DI
	ADDQ $13, DI // past the name
	CLD
	REP; MOVSB
	MOVQ SI, CX
	SUBQ DI, CX
	XORL AX, AX
	REP; STOSB
next:
	MOVQ SP, DI
	LEAQ 8(SP), SI
	MOVL $0, DX
	MOVL $8, R10
	MOVL $SYS_rt_sigtimedwait, AX
	SYSCALL
	TESTQ AX, AX
	JLE  next
	CMPQ AX, $SIGCHLD
	JEQ  reap
	MOVQ R9, DI
	MOVQ AX, SI
	MOVL $SYS_kill, AX
	SYSCALL
	JMP  next
reap:
	MOVQ $-1, DI
	LEAQ 8(SP), SI
	MOVL $1, DX // WNOHANG
	MOVL $0, R10
	MOVL $SYS_wait4, AX
	SYSCALL
	TESTQ AX, AX
	JLE  next
	CMPQ AX, R9
	JNE  reap
	// The command has ended; the kernel kills what is left when we do.
	MOVL 8(SP), AX
	MOVL AX, DI
	ANDL $0x7f, DI
	JEQ  exited
	ADDL $128, DI
	JMP  quit
exited:
	SHRL $8, AX
	MOVBLZX AX, DI
quit:
	MOVL $SYS_exit_group, AX
	SYSCALL
	INT  $3
	MARK

// func trampolineAddrs() (exec, init uintptr)
TEXT ·trampolineAddrs(SB), NOSPLIT, $0-16
	LEAQ ·trampolineExec(SB), AX
	MOVQ AX, exec+0(FP)
	LEAQ ·trampolineInit(SB), AX
	MOVQ AX, init+8(FP)
	RET
