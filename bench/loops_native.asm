; The loops for the bare host: called from loops_native.c.
%include "loops.inc"
global loops_table, loops_run
section .data
align 32
loops_table:
    LOOPS_TABLE
section .text
; uint64_t loops_run(void *code, uint64_t iterations, void *memory)
loops_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov r15, rdi
    mov rdi, rsi
    mov rsi, rdx
    call loops_call
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
section .note.GNU-stack noalloc noexec nowrite progbits
