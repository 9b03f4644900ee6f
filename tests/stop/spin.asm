; A guest that never gives the processor back: interrupts off, it says so on the debug console, and loops. A Multiboot image.
; -DMODE=16|32|64|user (real, protected or long mode, or CPL 3 of the last), -DLOOP=jmp|rep|io|hlt (not at CPL 3).
BASE equ 0x100000
    bits 32
    org BASE
    dd 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
    dd BASE, BASE, end, end, start
%macro say 0
    mov al, 's'
    out 0xe9, al
    mov al, 10
    out 0xe9, al
%endmacro
%macro forever 0
    cli
    say
%%again:
%ifidn LOOP, rep
    mov ecx, -1
    xor esi, esi
    rep lodsb
%elifidn LOOP, io
    in al, 0x80
%elifidn LOOP, hlt
    hlt
%endif
    jmp %%again
%endmacro

start:
%ifidn MODE, 32
    forever
%elifidn MODE, 16
    lgdt [gdtr]
    mov esi, real
    mov edi, 0x8000
    mov ecx, real_end - real
    rep movsb
    jmp 0x18:0x8000
%else
    ; one table each, the first 2 MiB where they are
    mov dword [0x1000], 0x2007
    mov dword [0x2000], 0x3007
    mov dword [0x3000], 0x87
    mov eax, 0x1000
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    lgdt [gdtr]
    jmp 0x10:lmode
    bits 64
lmode:
%ifidn MODE, user
    mov esp, 0x80000
    push 0x2b
    push 0x70000
    push 0x3002 ; IOPL 3
    push 0x23
    push user
    iretq
user:
%endif
    forever
%endif

    align 8
gdt:
    dq 0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00009b000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff
gdtr:
    dw 47
    dd gdt
    bits 16
real: ; at 0x8000, in a 16-bit segment
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    jmp 0:0x8000 + .here - real
.here:
    xor ax, ax
    mov ds, ax
    mov es, ax
%ifidn MODE, 16
    forever
%endif
real_end:
end:
