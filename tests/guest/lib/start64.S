/* Multiboot entry (32-bit protected mode) to 64-bit C: identity map of 4 GiB with 2 MiB pages, own GDT, stack; APs start at ap_start. */
    .section .multiboot, "a"
    .align 4
    .long 0x1badb002, 0x00000003, -(0x1badb002 + 0x00000003)

    .section .bss.boot, "aw", @nobits
    .align 4096
    .global boot_pml4
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
    .align 16
stack:     .skip 16384
    .global stack_top
stack_top:

    .section .text.boot, "ax"
    .code32
    .global _start
_start:
    cli
    movl $stack_top, %esp
    movl %eax, mb_magic
    movl %ebx, mb_info
    /* page tables */
    movl $boot_pdpt, %eax
    orl $7, %eax
    movl %eax, boot_pml4
    movl $4, %ecx
    movl $boot_pdpt, %edi
    movl $(boot_pd + 7), %eax
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $2048, %ecx
    movl $boot_pd, %edi
    movl $0x87, %eax
2:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b
    call to_long
    .code64
    movq $stack_top, %rsp
    xorl %ebp, %ebp
    movl mb_info(%rip), %edi
    movl mb_magic(%rip), %esi
    call guest_main
3:  hlt
    jmp 3b

/* 32-bit protected mode to 64-bit, returning to the caller in 64-bit code; clobbers eax, ecx, edx. */
    .code32
    .global to_long
to_long:
    popl %esi
    movl %cr4, %eax
    orl $(1 << 5), %eax
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $(1 << 8), %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    lgdtl gdtr32
    ljmpl $0x08, $4f
    .code64
4:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl %esi, %esi
    jmp *%rsi

    .data
    .align 16
    .global gdt
/* 08 code64, 10 data, 18 code32, 20 code16, 28 data16, 30 user data, 38 user code64, 40 user code32, 48-58 TSS (64-bit), 60.. free */
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x00009b000000ffff
    .quad 0x000093000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
    .quad 0x00cffb000000ffff
    .skip 23 * 8
gdt_end:
    .global gdtr64
gdtr32:
gdtr64:
    .word gdt_end - gdt - 1
    .quad gdt
mb_magic: .long 0
mb_info:  .long 0
    .global mb_info

/* Application processors: copied to a page below 1 MiB, entered in real mode. */
    .text
    .global ap_tramp, ap_tramp_end
    .code16
ap_tramp:
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl (ap_gdtr - ap_tramp)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x18, $ap32
    .align 4
ap_gdtr:
    .word gdt_end - gdt - 1
    .long gdt
ap_tramp_end:
    .code32
ap32:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    /* A stack for each, found by APIC id: SIPIs may start several at a time. */
    movl $1, %eax
    cpuid
    shrl $24, %ebx
    andl $15, %ebx
    incl %ebx
    shll $13, %ebx
    leal ap_stacks(%ebx), %esp
    call to_long
    .code64
    movl %esp, %esp
    movq ap_entry(%rip), %rax
    xorl %ebp, %ebp
    call *%rax
5:  cli
    hlt
    jmp 5b
    .data
    .align 8
    .global ap_entry
ap_entry: .quad 0
    .local ap_stacks
    .comm ap_stacks, 16 * 8192, 16

/* Exception stubs: vector and error code on the stack, then a common frame for C. */
    .text
    .code64
    .altmacro
    .macro stub n
    .align 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17) || (\n == 21)
    .else
    pushq $0
    .endif
    pushq $\n
    jmp common
    .endm
    .align 16
    .global stubs
stubs:
    .set i, 0
    .rept 256
    stub %i
    .set i, i + 1
    .endr
    .noaltmacro
common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rdi
    cld
    call trap
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq
    .section .note.GNU-stack, "", @progbits
