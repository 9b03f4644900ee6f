; The loops as a guest: a boot sector with what follows it, started by a PC's firmware from a floppy disk or loaded whole at 0x7c00.
; It enters 64-bit mode with paging on and runs every loop of the table with a number of iterations that is not 0. To port 0xe9 go
; 0x80 + i before loop i, 0xc0 + i after it, the result as 16 bytes 0xa0 + digit, and 0xff at the end.
%define TABLES 0x10000 ; page tables: one of each level
%define MEMORY 0x20000
%define STACK 0x40000 ; in a page without code
bits 16
org 0x7c00
start:
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    cmp dword [magic], "ring"
    je .loaded
    mov si, 4 ; a first try may fail while the drive's motor starts
.try:
    sti
    mov ax, 0x0200 + (image_end - start) / 512 - 1
    mov bx, 0x7e00
    mov cx, 2
    xor dx, dx
    int 0x13
    cli
    jnc .loaded
    xor ax, ax
    int 0x13
    dec si
    jnz .try
    hlt
.loaded:
    mov ax, TABLES >> 4
    mov es, ax
    xor di, di
    mov cx, 3 * 4096 / 4
    xor eax, eax
    cld
    rep stosd
    mov dword [es:0], TABLES + 0x1003
    mov dword [es:0x1000], TABLES + 0x2003
    mov di, 0x2000
    mov eax, 0x83
.page:
    mov [es:di], eax
    add eax, 0x200000
    add di, 8
    cmp di, 0x3000
    jb .page
    lgdt [gdtr]
    mov eax, TABLES
    mov cr3, eax
    mov eax, 0x620 ; PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, 0x80000033 ; PG, NE, ET, MP, PE
    mov cr0, eax
    jmp 8:long_mode
align 8
gdt:
    dq 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr:
    dw $ - gdt - 1
    dd gdt
    times 510 - ($ - $$) db 0
    dw 0xaa55

%include "loops.inc"

align 32, db 0
magic:
    db "ring"
    align 32, db 0
table:
    LOOPS_TABLE

bits 64
long_mode:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, STACK
    fninit
    xor ebp, ebp
.next:
    mov ebx, ebp
    shl ebx, 5
    mov r15, [table + rbx + 16]
    mov rdi, [table + rbx + 24]
    test r15, r15
    jz .end
    test rdi, rdi
    jz .skip
    mov esi, MEMORY
    lea eax, [rbp + 0x80]
    out 0xe9, al
    call loops_call
    mov rbx, rax
    lea eax, [rbp + 0xc0]
    out 0xe9, al
    mov ecx, 16
.digit:
    rol rbx, 4
    mov eax, ebx
    and eax, 15
    or eax, 0xa0
    out 0xe9, al
    dec ecx
    jnz .digit
.skip:
    inc ebp
    jmp .next
.end:
    mov al, 0xff
    out 0xe9, al
.halt:
    cli
    hlt
    jmp .halt

    align 512, db 0
image_end:
%if image_end - start > 18 * 512
%error image is longer than a track
%endif
