/* Multiboot entry, 32-bit protected mode, flat, no paging: own GDT, IDT stubs and stack for C. */
    .section .multiboot, "a"
    .align 4
    .long 0x1badb002, 0x00000003, -(0x1badb002 + 0x00000003)

    .bss
    .align 16
stack:  .skip 16384
stack_top:
    .text
    .globl _start
_start:
    cli
    movl $stack_top, %esp
    lgdt gdtr
    ljmp $0x08, $1f
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    lldt %ax
    xorl %ebp, %ebp
    call guest_main
2:  hlt
    jmp 2b

    .data
    .align 16
    .globl gdt
/* 08 code, 10 data, 18 code16, 20 data16, 28 user code, 30 user data, 38 TSS, 40.. free */
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00009b000000ffff
    .quad 0x000093000000ffff
    .quad 0x00cffb000000ffff
    .quad 0x00cff3000000ffff
    .skip 57 * 8
gdt_end:
gdtr:
    .word gdt_end - gdt - 1
    .long gdt

/* Stubs: vector and error code, then everything else; trap() in C. */
    .text
    .altmacro
    .macro stub n
    .align 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17)
    .else
    pushl $0
    .endif
    pushl $\n
    jmp common
    .endm
    .align 16
    .globl stubs
stubs:
    .set i, 0
    .rept 256
    stub %i
    .set i, i + 1
    .endr
    .noaltmacro
common:
    pushal
    pushl %ds
    pushl %es
    pushl %fs
    pushl %gs
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    cld
    pushl %esp
    call trap
    addl $4, %esp
    cmpl $0, resume_now
    jne 1f
    popl %gs
    popl %fs
    popl %es
    popl %ds
    popal
    addl $8, %esp
    iret
1:  movl $0, resume_now /* an attempt: its registers, its stack, flat segments */
    addl $16, %esp
    popal
    movl try_esp, %esp
    jmp *try_resume

/* void enter_frame(struct frame *): loads everything by IRET. */
    .globl enter_frame, leave_frame
enter_frame:
    movl 4(%esp), %eax
    pushl %ebx
    pushl %ebp
    pushl %esi
    pushl %edi
    movl %esp, frame_esp
    movl $23, %ecx
2:  pushl -4(%eax,%ecx,4)
    decl %ecx
    jnz 2b
    popl %gs
    popl %fs
    popl %es
    popl %ds
    popal
    addl $8, %esp
    iret
leave_frame:
    movl frame_esp, %esp
    popl %edi
    popl %esi
    popl %ebp
    popl %ebx
    ret
    .bss
frame_esp: .skip 4
    .section .note.GNU-stack, "", @progbits
