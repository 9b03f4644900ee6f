/*
 * The program text that stays in a user world (sandbox/user64.h). Guest code shares the address space and may jump anywhere in here
 * with any registers, so:
 * - every SYSCALL below is allowed at its own address only, and all but NOTIFY and the futex calls only with a secret in the upper
 *   half of R8, which the monitor sends with each request and which is gone from registers and memory before guest code runs;
 * - NOTIFY is the only way to make the monitor look; behind it no memory that guest code could have prepared decides
 *   where control goes: no stack, no calls, no pointers until RT_SIGRETURN from a frame the monitor has written since.
 */
#include <asm/unistd_64.h>
#include "sandbox/user64_layout.h"

#define AT(off) U64_CTL + off(%rbx)

	.section .text.handler, "ax", @progbits
	.balign 4096
	.globl user64_text, user64_text_end, user64_start, user64_handler
	.globl user64_ip_notify, user64_ip_wake, user64_ip_wait, user64_ip_op, user64_ip_return, user64_ip_dead
	.hidden user64_text, user64_text_end, user64_start, user64_handler
	.hidden user64_ip_notify, user64_ip_wake, user64_ip_wait, user64_ip_op, user64_ip_return, user64_ip_dead
user64_text:

/* At the final place. Give up every other mapping, confine, and fault into the handler. RDX: struct sock_fprog in the control area. */
user64_start:
	lea	user64_text(%rip), %rbx
	mov	%rdx, %r12
	mov	$__NR_munmap, %eax
	xor	%edi, %edi
	mov	%rbx, %rsi
	syscall
	mov	$__NR_munmap, %eax
	lea	U64_SIZE(%rbx), %rdi
	movabs	$0x7ffffffff000, %rsi
	sub	%rdi, %rsi
	syscall
	mov	$__NR_prctl, %eax
	mov	$22, %edi			/* PR_SET_SECCOMP */
	mov	$2, %esi			/* SECCOMP_MODE_FILTER */
	mov	%r12, %rdx
	xor	%r10d, %r10d
	xor	%r8d, %r8d
	syscall
	test	%eax, %eax
	jnz	dead
	ud2

/* The kernel comes here with RSP at the signal frame. */
user64_handler:
	lea	user64_text(%rip), %rbx
	mov	%rsp, AT(U64_AT)
	mov	%ds, %eax
	mov	%ax, AT(U64_SEL)
	mov	%es, %eax
	mov	%ax, AT(U64_SEL + 2)
	mov	%fs, %eax
	mov	%ax, AT(U64_SEL + 4)
	mov	%gs, %eax
	mov	%ax, AT(U64_SEL + 6)
	rdfsbase %rax
	mov	%rax, AT(U64_FS_BASE)
	rdgsbase %rax
	mov	%rax, AT(U64_GS_BASE)
	movl	$0, AT(U64_FAILED)

notify:
	mov	$__NR_pwrite64, %eax
	mov	$U64_FD_NOTE, %edi
	lea	AT(U64_SEQ), %rsi
	mov	$4, %edx
	xor	%r10d, %r10d
	syscall
user64_ip_notify:
	lea	user64_text(%rip), %rbx
	cmpl	$0, AT(U64_MONITOR_SLEEPS)
	je	wait
	mov	$__NR_futex, %eax
	lea	U64_NOTE(%rbx), %rdi
	mov	$1, %esi			/* FUTEX_WAKE */
	mov	$1, %edx
	xor	%r10d, %r10d
	syscall
user64_ip_wake:
	lea	user64_text(%rip), %rbx
wait:
	mov	AT(U64_SPIN), %ecx
1:	mov	AT(U64_REQUEST), %eax
	cmp	AT(U64_SEQ), %eax
	jne	serve
	lfence					/* not PAUSE: see awake.h */
	lfence
	lfence
	lfence
	sub	$1, %ecx
	jc	4f
	cmp	%ecx, AT(U64_SPIN)		/* less than before: another world needs the processor */
	jae	1b
4:	movl	$1, AT(U64_WORLD_SLEEPS)
	mfence
	mov	AT(U64_SEQ), %edx
	cmp	AT(U64_REQUEST), %edx
	jne	2f
	mov	$__NR_futex, %eax
	lea	AT(U64_REQUEST), %rdi
	xor	%esi, %esi			/* FUTEX_WAIT while it is EDX */
	xor	%r10d, %r10d
	syscall
user64_ip_wait:
	lea	user64_text(%rip), %rbx
2:	movl	$0, AT(U64_WORLD_SLEEPS)
	jmp	wait

serve:
	mov	%eax, AT(U64_SEQ)
	mov	AT(U64_SECRET), %r14
	movq	$0, AT(U64_SECRET)
	mov	AT(U64_NOPS), %r12d
	lea	AT(U64_OPS), %r13
3:	sub	$1, %r12d
	jc	resume
	mov	(%r13), %rax
	mov	8(%r13), %rdi
	mov	16(%r13), %rsi
	mov	24(%r13), %rdx
	mov	32(%r13), %r10
	mov	40(%r13), %r8d
	or	%r14, %r8
	mov	48(%r13), %r9
	syscall
user64_ip_op:
	add	$U64_OP_SIZE, %r13
	cmp	$-4095, %rax
	jb	3b
	xor	%r14d, %r14d
	xor	%r8d, %r8d
	mov	%eax, AT(U64_ERROR)
	movl	$1, AT(U64_FAILED)
	jmp	notify

resume:
	xor	%eax, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %fs
	mov	%eax, %gs
	mov	AT(U64_FS_BASE), %rax
	wrfsbase %rax
	mov	AT(U64_GS_BASE), %rax
	wrgsbase %rax
	lea	U64_FRAME(%rbx), %rsp
	popfq					/* NT and ID, which RT_SIGRETURN leaves as they are */
	mov	%r14, %r8
	mov	$__NR_rt_sigreturn, %eax
	syscall
user64_ip_return:
	ud2

dead:
	mov	$__NR_exit_group, %eax
	mov	$9, %edi
	syscall
user64_ip_dead:
	ud2
user64_text_end:
	.section .note.GNU-stack, "", @progbits
