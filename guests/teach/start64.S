/* 64 bits, linked in the lower half: entry (PVH, 32-bit) and the way to long mode, interrupt stubs, and the return to whatever frame C chose. */
    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18          /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start

#ifdef ADAPTED
#define DATA 0x43
#else
#define DATA 0x23
#endif

    .bss
    .align 4096
boot_pml4: .skip 4096       /* until paging.c has its own */
boot_pdpt: .skip 4096
boot_pd:   .skip 4096
    .skip 8192
kernel_stack:

    .text
    .code32
    .globl start
start:
    movl $kernel_stack, %esp
    cld
    movl $(boot_pdpt + 3), boot_pml4
    movl $(boot_pd + 3), boot_pdpt
    movl $8, %ecx           /* 16 MiB, in pages of 2 MiB */
    movl $0x83, %eax
    movl $boot_pd, %edi
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    movl $0x20, %eax        /* PAE */
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx  /* EFER.LME */
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    lgdt gdtr
    ljmp $0x08, $1f
    .code64
1:  movl $0x10, %eax
    movl %eax, %ss
    movl $DATA, %eax        /* of user privilege, as IRET to user code would clear others */
    movl %eax, %ds
    movl %eax, %es
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $kernel_stack, %esp
    movl %ebx, %edi         /* struct hvm_start_info */
    call kernel_main
2:  cli
    hlt
    jmp 2b

    .data
    .align 8
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff /* 08 kernel code */
    .quad 0x00cf93000000ffff /* 10 kernel data */
    .quad 0x00affb000000ffff /* 18 user code */
    .quad 0x00cff3000000ffff /* 20 user data */
    .quad 0                  /* 28 a small data segment of user privilege (sensitive.c) */
    .quad 0, 0               /* 30 TSS */
    .quad 0x00cff3000000ffff /* 40 user data, again */
    .quad 0
    .quad 0
    .quad 0, 0               /* 58 LDT (50 is what Linux has SLDT show) */
gdt_end:
gdtr:
    .word gdt_end - gdt - 1
    .quad gdt

/* One stub per vector: error code (or 0) and vector on the stack, then common. */
    .text
    .altmacro
    .macro stub n
    .align 16
    .if (\n != 8) && ((\n < 10) || (\n > 14)) && (\n != 17)
    pushq $0
    .endif
    pushq $\n
    jmp common
    .endm
    .align 16
    .globl stubs
stubs:
    .set i, 0
    .rept 49
    stub %i
    .set i, i + 1
    .endr
    .globl stub_syscall
stub_syscall:
    stub 128
    .noaltmacro
    .macro all op, regs:vararg
    .irp r, \regs
    \op %\r
    .endr
    .endm
common:
    all pushq, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    cld
    movq %rsp, %rdi
    call interrupt          /* returns the frame to go on with */
resume:
    movq %rax, %rsp
    all popq, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax
    addq $16, %rsp
    iretq

/* void enter(struct frame *): leave the boot context for a frame; leave() returns behind the call. */
    .globl enter, leave
enter:
    movq %rdi, %rax
    all pushq, rbx, rbp, r12, r13, r14, r15
    movq %rsp, saved_rsp
    jmp resume
leave:
    movq saved_rsp, %rsp
    all popq, r15, r14, r13, r12, rbp, rbx
    ret
    .bss
    .align 8
saved_rsp: .skip 8
    .section .note.GNU-stack, "", @progbits
