; A flat real-mode image, loaded and entered at 0000:7C00 as a boot sector is.
; guest-options: --format flat
        bits 16
        org 0x7c00
start:
        cli
        jmp 0:.here
.here:
        mov [cs:entry_dl], dl
        xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7c00
        cld
        smsw ax
        test al, 1
        setz al
        mov si, m_pe
        call check
        call .ip
.ip:    pop ax
        cmp ax, .ip
        sete al
        mov si, m_org
        call check
        mov eax, [magic]
        cmp eax, 0x12345678
        sete al
        mov si, m_data
        call check
        ; interrupts through the IVT
        mov word [0x61 * 4], handler
        mov word [0x61 * 4 + 2], 0
        mov bx, 0
        int 0x61
        cmp bx, 0x4242
        sete al
        mov si, m_int
        call check
        ; memory up to the EBDA and above the image is there
        mov ax, 0x8000
        mov es, ax
        mov word [es:0x1234], 0xa55a
        cmp word [es:0x1234], 0xa55a
        sete al
        mov si, m_ram
        call check
        ; 1 MiB and up in protected mode
        lgdt [gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp 8:.prot
        bits 32
.prot:
        mov ax, 16
        mov ds, ax
        mov dword [0x200000], 0xfeedbeef
        cmp dword [0x200000], 0xfeedbeef
        sete bl
        jmp 24:.prot16
        bits 16
.prot16:
        mov eax, cr0
        and al, 0xfe
        mov cr0, eax
        jmp 0:.real
.real:
        xor ax, ax
        mov ds, ax
        mov al, bl
        mov si, m_prot
        call check
        ; "N passed, M failed"
        mov al, [passed]
        call number
        mov si, m_passed
        call puts
        mov al, [failed]
        call number
        mov si, m_failed
        call puts
        cmp byte [failed], 0
        setne al
        out 0xf4, al
.stop:  hlt
        jmp .stop

handler:
        mov bx, 0x4242
        iret

; al: ok or not; si: name
check:  test al, al
        jz .bad
        inc byte [passed]
        push si
        mov si, m_ok
        jmp .say
.bad:   inc byte [failed]
        push si
        mov si, m_fail
.say:   call puts
        pop si
        call puts
        mov al, 10
        out 0xe9, al
        ret
puts:   lodsb
        test al, al
        jz .end
        out 0xe9, al
        jmp puts
.end:   ret
number: aam                     ; below 100
        test ah, ah
        jz .one
        xchg al, ah
        add al, '0'
        out 0xe9, al
        xchg al, ah
.one:   add al, '0'
        out 0xe9, al
        ret

entry_dl db 0
passed  db 0
failed  db 0
m_ok    db "ok ", 0
m_fail  db "FAIL ", 0
m_pe    db "real mode", 0
m_org   db "running at 7C00", 0
m_data  db "data", 0
m_int   db "INT through the IVT", 0
m_ram   db "memory", 0
m_prot  db "protected mode and back", 0
m_passed db " passed, ", 0
m_failed db " failed", 10, 0
        align 8
gdt:    dq 0
        dq 0x00cf9b000000ffff
        dq 0x00cf93000000ffff
        dq 0x00009b000000ffff
gdtr:   dw gdtr - gdt - 1
        dd gdt
magic   dd 0x12345678
        times 510 - ($ - $$) db 0
        dw 0xaa55
