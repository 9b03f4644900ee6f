/* 32 bits: entry (Multiboot), interrupt stubs, and the return to whatever frame C chose. */
    .section .multiboot, "a"
    .align 4
    .long 0x1badb002, 0x00000003, -(0x1badb002 + 0x00000003)

#ifdef ADAPTED
#define DATA 0x43
#else
#define DATA 0x10
#endif

    .bss
    .align 4096
    .skip 8192
kernel_stack:
    .text
    .globl start
start:
    movl $kernel_stack, %esp
    cld
    pushl %ebx              /* Multiboot information */
    lgdt gdtr
    ljmp $0x08, $1f
1:  movl $0x10, %eax
    movl %eax, %ss
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    call kernel_main
2:  cli
    hlt
    jmp 2b

    .data
    .align 8
    .globl gdt
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* 08 kernel code */
    .quad 0x00cf93000000ffff /* 10 kernel data */
    .quad 0x00cffb000000ffff /* 18 user code */
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
    .long gdt

/* One stub per vector: error code (or 0) and vector on the stack, then common. */
    .text
    .altmacro
    .macro stub n
    .align 16
    .if (\n != 8) && ((\n < 10) || (\n > 14)) && (\n != 17)
    pushl $0
    .endif
    pushl $\n
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
common:
    pushal
#ifdef ADAPTED              /* DS and ES are the same for all code */
    subl $8, %esp
#else
    pushl %ds
    pushl %es
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
#endif
    cld
    pushl %esp
    call interrupt          /* returns the frame to go on with */
resume:
    movl %eax, %esp
#ifdef ADAPTED
    addl $8, %esp
#else
    popl %es
    popl %ds
#endif
    popal
    addl $8, %esp
    iret

/* void enter(struct frame *): leave the boot context for a frame; leave() returns behind the call. */
    .globl enter, leave
enter:
    movl 4(%esp), %eax
    pushl %ebx
    pushl %esi
    pushl %edi
    pushl %ebp
    movl %esp, saved_esp
    jmp resume
leave:
    movl saved_esp, %esp
    popl %ebp
    popl %edi
    popl %esi
    popl %ebx
    ret
    .bss
saved_esp: .skip 4
    .section .note.GNU-stack, "", @progbits
