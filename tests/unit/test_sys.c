/* System instructions, from their bytes: decoded, executed, compared. */
#include "cpu_fixture.h"

#include "x86/decode.h"

#define CODE 0x1000u

static struct fx *fx(enum x86_mode_bits mode)
{
    struct fx *f = fx_new(40);
    struct x86_cpu *c = f->c;

    x86_reset(c, false);
    c->activity = X86_RUNNING;
    c->cr0 |= X86_CR0_PE;
    for (unsigned i = 0; i < X86_NSEG; i++)
        c->seg[i] = (struct x86_seg){.limit = 0xffffffff, .sel = 8, .ar = 0xc093};
    c->seg[X86_CS].ar = mode == X86_MODE_64 ? 0xa09b : mode == X86_MODE_32 ? 0xc09b : 0x9b;
    if (mode == X86_MODE_64) {
        /* identity through one 1 GiB page */
        fx_put64(f, 0x8000, 0x9007);
        fx_put64(f, 0x9000, 0x87);
        c->cr4 |= X86_CR4_PAE;
        c->cr3 = 0x8000;
        c->efer = X86_EFER_LME | X86_EFER_LMA;
        c->cr0 |= X86_CR0_PG;
    }
    c->rip = CODE;
    c->misc_enable |= X86_MISC_MONITOR;
    x86_recompute(c);
    assert_int_equal(c->mode, mode);
    return f;
}

static void set_cpl(struct fx *f, unsigned cpl)
{
    f->c->seg[X86_SS].ar = (uint16_t)((f->c->seg[X86_SS].ar & ~0x60) | cpl << 5);
    x86_recompute(f->c);
}

static struct x86_insn last;

/* Decode and execute; -1: #UD of the decoder. */
static int run(struct fx *f, unsigned n, const char *bytes)
{
    memset(&f->c->exc, 0xee, sizeof(f->c->exc));
    if (x86_decode(&last, (const uint8_t *)bytes, n, f->c->mode, !x86_pe(f->c) || x86_v86(f->c),
                   x86_feature_bits(f->policy)) != X86_DEC_OK)
        return -1;
    assert_int_equal(last.len, n);
    for (unsigned t = 0; t < 2; t++)
        for (const struct x86_exec_entry *e = t ? x86_exec_int : x86_exec_sys; e->fn; e++)
            if (e->op == last.op)
                return e->fn(f->c, &last);
    fail_msg("no executor");
    return -1;
}
#define RUN(bytes) run(f, sizeof(bytes) - 1, bytes)
#define FAULTS(bytes, vec)                                                                                             \
    do {                                                                                                               \
        assert_int_equal(RUN(bytes), X86_FAULT);                                                                       \
        assert_int_equal(f->c->exc.vector, vec);                                                                       \
        if (vec == X86_GP)                                                                                             \
            assert_true(f->c->exc.has_error && !f->c->exc.error);                                                      \
    } while (0)

/* Everything privileged is #GP(0) at CPL 3. */
static void privileged(void **state)
{
    struct fx *f = fx(X86_MODE_64);

    (void)state;
    f->c->gpr[X86_RBX] = 0x100000;
    set_cpl(f, 3);
    FAULTS("\x0f\x20\xc0", X86_GP);         /* mov rax, cr0 */
    FAULTS("\x0f\x22\xd8", X86_GP);         /* mov cr3, rax */
    FAULTS("\x44\x0f\x22\xc0", X86_GP);     /* mov cr8, rax */
    FAULTS("\x0f\x21\xf8", X86_GP);         /* mov rax, dr7 */
    FAULTS("\x0f\x06", X86_GP);             /* clts */
    FAULTS("\x0f\x01\xf0", X86_GP);         /* lmsw ax */
    FAULTS("\x0f\x01\x13", X86_GP);         /* lgdt [rbx] */
    FAULTS("\x0f\x01\x1b", X86_GP);         /* lidt [rbx] */
    FAULTS("\x0f\x01\x3b", X86_GP);         /* invlpg [rbx] */
    FAULTS("\x66\x0f\x38\x82\x03", X86_GP); /* invpcid rax, [rbx] */
    FAULTS("\x0f\x08", X86_GP);
    FAULTS("\x0f\x09", X86_GP);
    FAULTS("\xf3\x0f\x09", X86_GP);
    FAULTS("\xf4", X86_GP);
    FAULTS("\x0f\x30", X86_GP);
    FAULTS("\x0f\x32", X86_GP);
    FAULTS("\x0f\x01\xf8", X86_GP); /* swapgs */
    FAULTS("\x0f\x01\xc8", X86_UD); /* monitor, mwait: #UD */
    FAULTS("\x0f\x01\xc9", X86_UD);
    FAULTS("\x0f\x33", X86_GP); /* rdpmc */
    assert_int_equal(RUN("\x0f\x31"), X86_OK);
    f->c->cr4 |= X86_CR4_TSD;
    FAULTS("\x0f\x31", X86_GP);
    FAULTS("\x0f\x01\xf9", X86_GP);
    assert_int_equal(RUN("\x0f\x01\x03"), X86_OK); /* sgdt is not privileged */
    fx_free(f);
}

static void control_registers(void **state)
{
    struct fx *f = fx(X86_MODE_64);
    struct x86_cpu *c = f->c;

    (void)state;
    c->cr2 = 0xffff888812345678;
    assert_int_equal(RUN("\x0f\x20\xd1"), X86_OK); /* mov rcx, cr2 */
    assert_true(c->gpr[X86_RCX] == 0xffff888812345678);
    c->gpr[X86_RAX] = 5;
    assert_int_equal(RUN("\x44\x0f\x22\xc0"), X86_OK);
    assert_int_equal(f->cr8, 5);
    c->gpr[X86_RAX] = 0x10;
    FAULTS("\x44\x0f\x22\xc0", X86_GP);
    assert_int_equal(f->cr8, 5);
    assert_int_equal(RUN("\x44\x0f\x20\xc2"), X86_OK); /* mov rdx, cr8 */
    assert_int_equal(c->gpr[X86_RDX], 5);
    assert_true(RUN("\x0f\x20\xc8") == -1 || f->c->exc.vector == X86_UD); /* cr1 */
    c->cr0 |= X86_CR0_TS;
    assert_int_equal(RUN("\x0f\x06"), X86_OK);
    assert_false(c->cr0 & X86_CR0_TS);
    c->gpr[X86_RAX] = 0xfffe; /* lmsw cannot clear PE */
    assert_int_equal(RUN("\x0f\x01\xf0"), X86_OK);
    assert_int_equal(c->cr0 & 15, 15);
    assert_int_equal(RUN("\x0f\x01\xe1"), X86_OK); /* smsw ecx */
    assert_int_equal(c->gpr[X86_RCX], (uint32_t)c->cr0);
    fx_free(f);

    f = fx(X86_MODE_32);
    f->c->gpr[X86_RAX] = 0x100000001; /* 32-bit moves look at 32 bits */
    assert_int_equal(RUN("\x0f\x22\xc0"), X86_OK);
    assert_int_equal(f->c->cr0, X86_CR0_PE | X86_CR0_ET);
    fx_free(f);
}

static void debug_registers(void **state)
{
    struct fx *f = fx(X86_MODE_64);
    struct x86_cpu *c = f->c;

    (void)state;
    c->gpr[X86_RAX] = 0xffffffff;
    assert_int_equal(RUN("\x0f\x23\xf0"), X86_OK); /* mov dr6, rax */
    assert_int_equal(c->dr6, 0xffffefff);
    assert_int_equal(RUN("\x0f\x23\xe0"), X86_OK); /* dr4 is dr6 */
    c->gpr[X86_RAX] = 0xffffdfff;
    assert_int_equal(RUN("\x0f\x23\xf8"), X86_OK); /* mov dr7, rax */
    assert_int_equal(c->dr7, 0xffff07ff);
    assert_int_equal(RUN("\x0f\x21\xe9"), X86_OK); /* mov rcx, dr5 */
    assert_int_equal(c->gpr[X86_RCX], c->dr7);
    c->gpr[X86_RAX] = 1ull << 32;
    FAULTS("\x0f\x23\xf0", X86_GP);
    FAULTS("\x0f\x23\xf8", X86_GP);
    assert_int_equal(RUN("\x0f\x23\xd8"), X86_OK); /* dr3 takes it */
    c->cr4 |= X86_CR4_DE;
    FAULTS("\x0f\x23\xe0", X86_UD);
    c->dr7 = 0x400 | X86_DR7_GD;
    FAULTS("\x0f\x21\xc0", X86_DB);
    assert_int_equal(c->exc.dr6, X86_DR6_BD);
    set_cpl(f, 3);
    FAULTS("\x0f\x21\xc0", X86_GP);
    fx_free(f);
}

static void descriptor_tables(void **state)
{
    struct fx *f = fx(X86_MODE_64);
    struct x86_cpu *c = f->c;

    (void)state;
    c->gpr[X86_RBX] = 0x100000;
    memcpy(f->ram + 0x100000, "\x34\x12\x00\x80\x76\x54\x88\x88\xff\xff", 10);
    assert_int_equal(RUN("\x0f\x01\x13"), X86_OK);
    assert_int_equal(c->gdtr.limit, 0x1234);
    assert_true(c->gdtr.base == 0xffff888854768000);
    f->ram[0x100009] = 0x7f; /* not canonical */
    FAULTS("\x0f\x01\x1b", X86_GP);
    c->gpr[X86_RBX] = 0x100100;
    assert_int_equal(RUN("\x0f\x01\x03"), X86_OK); /* sgdt */
    assert_memory_equal(f->ram + 0x100100, "\x34\x12\x00\x80\x76\x54\x88\x88\xff\xff\x00", 11);
    c->cr4 |= X86_CR4_UMIP;
    assert_int_equal(RUN("\x0f\x01\x0b"), X86_OK); /* sidt at CPL 0 */
    set_cpl(f, 3);
    FAULTS("\x0f\x01\x0b", X86_GP);
    FAULTS("\x0f\x01\x03", X86_GP);
    FAULTS("\x0f\x01\xe0", X86_GP); /* smsw */
    fx_free(f);

    f = fx(X86_MODE_32);
    f->c->gpr[X86_RBX] = 0x100000;
    memcpy(f->ram + 0x100000, "\x34\x12\x78\x56\x34\x12", 6);
    assert_int_equal(RUN("\x66\x0f\x01\x1b"), X86_OK); /* 16-bit operand size: 24-bit base */
    assert_int_equal(f->c->idtr.base, 0x345678);
    assert_int_equal(RUN("\x0f\x01\x1b"), X86_OK);
    assert_int_equal(f->c->idtr.base, 0x12345678);
    memset(f->ram + 0x100100, 0xee, 16);
    f->c->gpr[X86_RBX] = 0x100100;
    assert_int_equal(RUN("\x66\x0f\x01\x0b"), X86_OK); /* SIDT stores 32 bits whatever the size */
    assert_memory_equal(f->ram + 0x100100, "\x34\x12\x78\x56\x34\x12\xee", 7);
    fx_free(f);
}

static void tlb_instructions(void **state)
{
    struct fx *f = fx(X86_MODE_64);
    struct x86_cpu *c = f->c;
    uint32_t v;

    (void)state;
#define CACHED (x86_tlb_host_r(c, 0x200000, 4) != 0)
#define FILL() assert_int_equal(x86_lin_read(c, 0x200000, &v, 4), X86_OK)
    c->gpr[X86_RBX] = 0x200123;
    FILL();
    assert_true(CACHED);
    assert_int_equal(RUN("\x0f\x01\x3b"), X86_OK);
    assert_false(CACHED);
    c->gpr[X86_RBX] = 0x8000000000000000; /* not canonical: nothing happens */
    FILL();
    assert_int_equal(RUN("\x0f\x01\x3b"), X86_OK);
    assert_true(CACHED);

    c->gpr[X86_RBX] = 0x100000;
    for (unsigned type = 0; type < 4; type++) {
        fx_put64(f, 0x100000, 0);
        fx_put64(f, 0x100008, 0x200fff);
        c->gpr[X86_RAX] = type;
        FILL();
        assert_int_equal(RUN("\x66\x0f\x38\x82\x03"), X86_OK);
        assert_false(CACHED);
        fx_put64(f, 0x100000, 0x1000); /* reserved */
        FAULTS("\x66\x0f\x38\x82\x03", X86_GP);
        fx_put64(f, 0x100000, 5);
        if (type < 2)
            FAULTS("\x66\x0f\x38\x82\x03", X86_GP); /* a PCID without PCIDE */
        else
            assert_int_equal(RUN("\x66\x0f\x38\x82\x03"), X86_OK);
    }
    c->gpr[X86_RAX] = 4;
    fx_put64(f, 0x100000, 0);
    FAULTS("\x66\x0f\x38\x82\x03", X86_GP);
    c->gpr[X86_RAX] = 0;
    fx_put64(f, 0x100008, 0x0000800000000000);
    FAULTS("\x66\x0f\x38\x82\x03", X86_GP);
    /* types 1 and 3 leave global pages alone, 0 and 2 do not */
    fx_put64(f, 0x9000, 0x187);
    c->cr4 |= X86_CR4_PGE;
    fx_put64(f, 0x100008, 0x200000);
    for (unsigned type = 0; type < 4; type++) {
        x86_tlb_flush_all(c);
        FILL();
        c->gpr[X86_RAX] = type;
        assert_int_equal(RUN("\x66\x0f\x38\x82\x03"), X86_OK);
        assert_int_equal(CACHED, type & 1);
    }
    c->gpr[X86_RAX] = 0;
    /* another PCID's entries: this one's may stay, but must go when it is ours */
    c->cr4 |= X86_CR4_PCIDE;
    c->cr3 |= 5;
    fx_put64(f, 0x100000, 5);
    fx_put64(f, 0x100008, 0x200000);
    FILL();
    assert_int_equal(RUN("\x66\x0f\x38\x82\x03"), X86_OK);
    assert_false(CACHED);

    /* cache line instructions check their address like a load */
    c->gpr[X86_RAX] = 0x40000000; /* beyond the identity map */
    FAULTS("\x0f\xae\x38", X86_PF);
    FAULTS("\x66\x0f\xae\x38", X86_PF);
    FAULTS("\x66\x0f\xae\x30", X86_PF);
    assert_int_equal(c->exc.error, 0);
    assert_int_equal(RUN("\x0f\x18\x08"), X86_OK); /* prefetcht0 does not */
    c->gpr[X86_RAX] = 0x8000000000000000;
    FAULTS("\x0f\xae\x38", X86_GP);
    c->gpr[X86_RAX] = 0x300000;
    assert_int_equal(RUN("\x0f\xae\x38"), X86_OK);
    fx_free(f);
}

static void halt_and_monitor(void **state)
{
    struct fx *f = fx(X86_MODE_64);
    struct x86_cpu *c = f->c;

    (void)state;
    assert_int_equal(RUN("\xf4"), X86_EXIT);
    assert_int_equal(c->activity, X86_HALTED);
    c->gpr[X86_RAX] = 0x345678;
    assert_int_equal(RUN("\x0f\x01\xc8"), X86_OK);
    assert_int_equal(c->monitor_addr, 0x345678);
    c->gpr[X86_RCX] = 1;
    FAULTS("\x0f\x01\xc8", X86_GP);
    assert_int_equal(RUN("\x0f\x01\xc9"), X86_OK);
    c->gpr[X86_RCX] = 2;
    FAULTS("\x0f\x01\xc9", X86_GP);
    c->misc_enable = 0;
    FAULTS("\x0f\x01\xc8", X86_UD);
    fx_free(f);
}

static void reads(void **state)
{
    struct fx *f = fx(X86_MODE_64);
    struct x86_cpu *c = f->c;

    (void)state;
    f->tsc = 0x123456789abc;
    c->tsc_aux = 0x77;
    c->gpr[X86_RAX] = c->gpr[X86_RDX] = c->gpr[X86_RCX] = ~0ull;
    assert_int_equal(RUN("\x0f\x01\xf9"), X86_OK);
    assert_true(c->gpr[X86_RAX] == 0x56789abc && c->gpr[X86_RDX] == 0x1234 && c->gpr[X86_RCX] == 0x77);
    assert_int_equal(RUN("\xf3\x0f\xc7\xfb"), X86_OK); /* rdpid rbx */
    assert_int_equal(c->gpr[X86_RBX], 0x77);
    c->gpr[X86_RCX] = 0xffffffff00000277; /* the upper half does not count */
    assert_int_equal(RUN("\x0f\x32"), X86_OK);
    assert_true(c->gpr[X86_RAX] == 0x00070406 && c->gpr[X86_RDX] == 0x00070406);
    c->gpr[X86_RAX] = 0xffffffff06060606;
    c->gpr[X86_RDX] = 0xffffffff06060606;
    assert_int_equal(RUN("\x0f\x30"), X86_OK);
    assert_true(c->pat == 0x0606060606060606);
    c->gpr[X86_RBX] = ~0ull;
    assert_int_equal(RUN("\x66\x0f\xc7\xf3"), X86_OK); /* rdrand bx */
    assert_true(c->gpr[X86_RBX] == 0xffffffffffffcdef);
    assert_int_equal(c->cc_lo, X86_FL_CF);
    assert_int_equal(RUN("\x48\x0f\xc7\xfb"), X86_OK); /* rdseed rbx */
    assert_true(c->gpr[X86_RBX] == 0x0123456789abcdef);
    c->gpr[X86_RAX] = 0xffffffff00000000;
    assert_int_equal(RUN("\x0f\xa2"), X86_OK);
    assert_int_equal(c->gpr[X86_RBX], 0x756e6547);
    c->misc_feature_enables = 1; /* CPUID faulting spares the kernel */
    assert_int_equal(RUN("\x0f\xa2"), X86_OK);
    set_cpl(f, 3);
    FAULTS("\x0f\xa2", X86_GP);
    fx_free(f);
}

static void xcr(void **state)
{
    struct fx *f = fx(X86_MODE_64);
    struct x86_cpu *c = f->c;

    (void)state;
    FAULTS("\x0f\x01\xd0", X86_UD);
    FAULTS("\x0f\x01\xd1", X86_UD);
    c->cr4 |= X86_CR4_OSXSAVE;
    c->gpr[X86_RCX] = 0;
    assert_int_equal(RUN("\x0f\x01\xd0"), X86_OK);
    assert_int_equal(c->gpr[X86_RAX], 1);
    for (uint64_t v = 0; v < 16; v++) {
        bool good = (v & 1) && !(v & ~x86_xcr0_mask(f->policy)) && (!(v & 4) || (v & 2));

        c->gpr[X86_RAX] = v;
        c->gpr[X86_RDX] = 0;
        if (good)
            assert_int_equal(RUN("\x0f\x01\xd1"), X86_OK);
        else
            FAULTS("\x0f\x01\xd1", X86_GP);
        if (good)
            assert_int_equal(c->xcr0, v);
    }
    c->gpr[X86_RAX] = 3;
    c->gpr[X86_RCX] = 1;
    FAULTS("\x0f\x01\xd1", X86_GP);
    assert_int_equal(RUN("\x0f\x01\xd0"), X86_OK); /* in use */
    c->gpr[X86_RCX] = 2;
    FAULTS("\x0f\x01\xd0", X86_GP);
    c->gpr[X86_RCX] = 0;
    set_cpl(f, 3);
    FAULTS("\x0f\x01\xd1", X86_GP);
    fx_free(f);
}

static void bases(void **state)
{
    struct fx *f = fx(X86_MODE_64);
    struct x86_cpu *c = f->c;

    (void)state;
    FAULTS("\xf3\x48\x0f\xae\xc0", X86_UD); /* without CR4.FSGSBASE */
    c->cr4 |= X86_CR4_FSGSBASE;
    c->seg[X86_FS].base = 0xffff800012345678;
    assert_int_equal(RUN("\xf3\x48\x0f\xae\xc0"), X86_OK);
    assert_true(c->gpr[X86_RAX] == 0xffff800012345678);
    assert_int_equal(RUN("\xf3\x0f\xae\xc0"), X86_OK);
    assert_true(c->gpr[X86_RAX] == 0x12345678);
    c->gpr[X86_RAX] = 0x1234567887654321;              /* not canonical */
    FAULTS("\xf3\x48\x0f\xae\xd8", X86_GP);            /* wrgsbase rax */
    assert_int_equal(RUN("\xf3\x0f\xae\xd8"), X86_OK); /* 32 bits: always canonical */
    assert_true(c->seg[X86_GS].base == 0x87654321);
    c->kernel_gs_base = 0xffff888800000000;
    assert_int_equal(RUN("\x0f\x01\xf8"), X86_OK);
    assert_true(c->seg[X86_GS].base == 0xffff888800000000 && c->kernel_gs_base == 0x87654321);
    fx_free(f);
    f = fx(X86_MODE_32);
    f->c->cr4 |= X86_CR4_FSGSBASE;
    assert_int_equal(RUN("\xf3\x0f\xae\xc0"), -1);
    fx_free(f);
}

/* --- port I/O ---------------------------------------------------------------- */

static void ports(void **state)
{
    struct fx *f = fx(X86_MODE_64);
    struct x86_cpu *c = f->c;

    (void)state;
    f->io_answer = 0xaabbccdd;
    c->gpr[X86_RAX] = 0x1122334455667788;
    c->gpr[X86_RDX] = 0xffff0cf8;
    assert_int_equal(RUN("\xec"), X86_OK); /* in al, dx */
    assert_true(c->gpr[X86_RAX] == 0x11223344556677dd);
    assert_int_equal(RUN("\x66\xed"), X86_OK);
    assert_true(c->gpr[X86_RAX] == 0x112233445566ccdd);
    assert_int_equal(RUN("\xed"), X86_OK);
    assert_true(c->gpr[X86_RAX] == 0xaabbccdd);
    assert_int_equal(RUN("\x48\xed"), X86_OK); /* REX.W means nothing */
    assert_int_equal(f->io[3].size, 4);
    assert_int_equal(f->io[3].addr, 0xcf8);
    assert_false(f->io[3].mmio);
    assert_int_equal(RUN("\xe4\x80"), X86_OK); /* the immediate is not sign-extended */
    assert_int_equal(f->io[4].addr, 0x80);
    c->gpr[X86_RAX] = 0x12345678;
    assert_int_equal(RUN("\xe6\xfe"), X86_OK);
    assert_true(f->io[5].write);
    assert_int_equal(f->io[5].data, 0x78);
    assert_int_equal(f->io[5].addr, 0xfe);
    assert_int_equal(RUN("\x66\xef"), X86_OK);
    assert_int_equal(f->io[6].data, 0x5678);
    fx_free(f);
}

static void io_permission(void **state)
{
    struct fx *f = fx(X86_MODE_32);
    struct x86_cpu *c = f->c;

    (void)state;
    c->tr = (struct x86_seg){.base = 0x50000, .limit = 0x68 + 0x20, .ar = 0x8b};
    f->ram[0x50066] = 0x68;
    memset(f->ram + 0x50068, 0, 0x21);
    f->ram[0x50068 + 0x10] = 0x02; /* port 0x81 is denied */
    set_cpl(f, 3);
    c->gpr[X86_RDX] = 0x80;
    assert_int_equal(RUN("\xec"), X86_OK);
    FAULTS("\x66\xed", X86_GP); /* 0x80 and 0x81 */
    c->gpr[X86_RDX] = 0x7f;
    assert_int_equal(RUN("\x66\xed"), X86_OK); /* straddles a byte of the map */
    FAULTS("\xed", X86_GP);
    c->gpr[X86_RDX] = 0xf8; /* byte 0x1f: byte 0x20 is the last in the limit */
    assert_int_equal(RUN("\xec"), X86_OK);
    c->gpr[X86_RDX] = 0x100; /* the second byte that is always read lies outside */
    FAULTS("\xec", X86_GP);
    c->fl_sys |= X86_FL_IOPL;
    assert_int_equal(RUN("\xec"), X86_OK);
    c->fl_sys |= X86_FL_VM; /* virtual-8086 mode asks the map in any case */
    FAULTS("\xec", X86_GP);
    c->gpr[X86_RDX] = 0x80;
    assert_int_equal(RUN("\xec"), X86_OK);
    c->fl_sys &= ~(uint32_t)(X86_FL_VM | X86_FL_IOPL);
    c->tr.limit = 0x66;
    FAULTS("\xec", X86_GP);
    c->tr.limit = 0x88;
    c->tr.ar = 0x83; /* 16-bit TSS */
    FAULTS("\xec", X86_GP);
    f->nio = 0;
    FAULTS("\x6c", X86_GP);
    assert_int_equal(f->nio, 0);
    fx_free(f);
}

static void string_input(void **state)
{
    struct fx *f = fx(X86_MODE_32);
    struct x86_cpu *c = f->c;

    (void)state;
    f->io_answer = 0x1234;
    c->gpr[X86_RDX] = 0x1f0;
    c->gpr[X86_RDI] = 0x200000;
    c->gpr[X86_RCX] = 8;
    assert_int_equal(RUN("\xf3\x66\x6d"), X86_OK); /* rep insw */
    assert_int_equal(c->gpr[X86_RCX], 0);
    assert_int_equal(c->gpr[X86_RDI], 0x200010);
    assert_int_equal(f->nio, 8);
    for (unsigned i = 0; i < 8; i++)
        assert_memory_equal(f->ram + 0x200000 + 2 * i, "\x34\x12", 2);
    assert_int_equal(RUN("\xf3\x66\x6d"), X86_OK); /* nothing left: nothing done */
    assert_int_equal(f->nio, 8);

    /* down, 16-bit addresses wrap and keep the upper halves */
    c->fl_sys |= X86_FL_DF;
    c->gpr[X86_RDI] = 0x55550000;
    c->gpr[X86_RCX] = 0x77770002;
    f->io_answer = 0x99;
    f->nio = 0;
    assert_int_equal(RUN("\xf3\x67\x6c"), X86_OK);
    assert_int_equal(c->gpr[X86_RDI], 0x5555fffe);
    assert_int_equal(c->gpr[X86_RCX], 0x77770000);
    assert_int_equal(f->ram[0], 0x99);
    assert_int_equal(f->ram[0xffff], 0x99);
    c->fl_sys &= ~(uint32_t)X86_FL_DF;

    /* the segment ends: two elements fit, the device is asked for no third */
    c->seg[X86_ES].limit = 0x200007;
    c->seg[X86_ES].ar = 0x4093;
    c->gpr[X86_RDI] = 0x200000;
    c->gpr[X86_RCX] = 5;
    f->nio = 0;
    FAULTS("\xf3\x6d", X86_GP);
    assert_int_equal(f->nio, 2);
    assert_int_equal(c->gpr[X86_RCX], 3);
    assert_int_equal(c->gpr[X86_RDI], 0x200008);
    /* ES cannot be overridden */
    c->gpr[X86_RDI] = 0x300000;
    FAULTS("\x2e\x6d", X86_GP);
    c->seg[X86_ES].limit = 0xffffffff;

    /* a long one comes in parts */
    c->gpr[X86_RDI] = 0x200000;
    c->gpr[X86_RCX] = 5000;
    unsigned parts = 1;
    int r;
    while ((r = RUN("\xf3\x6c")) == X86_REPEAT)
        parts++;
    assert_int_equal(r, X86_OK);
    assert_true(parts > 1 && parts < 100);
    assert_int_equal(c->gpr[X86_RDI], 0x200000 + 5000);
    /* with TF, one at a time */
    c->fl_sys |= X86_FL_TF;
    c->gpr[X86_RCX] = 2;
    assert_int_equal(RUN("\xf3\x6c"), X86_REPEAT);
    assert_int_equal(c->gpr[X86_RCX], 1);
    assert_int_equal(RUN("\xf3\x6c"), X86_OK);
    fx_free(f);
}

static void string_output(void **state)
{
    struct fx *f = fx(X86_MODE_32);
    struct x86_cpu *c = f->c;

    (void)state;
    memcpy(f->ram + 0x200000, "abcdefgh", 8);
    c->gpr[X86_RDX] = 0xe9;
    c->gpr[X86_RSI] = 0x1ff000;
    c->gpr[X86_RCX] = 2;
    c->seg[X86_FS].base = 0x1000;
    c->seg[X86_DS].ar = 0; /* DS is not looked at */
    assert_int_equal(RUN("\x64\xf3\x6f"), X86_OK);
    assert_int_equal(f->nio, 2);
    assert_int_equal(f->io[0].data, 0x64636261);
    assert_int_equal(f->io[1].data, 0x68676665);
    assert_int_equal(c->gpr[X86_RSI], 0x1ff008);
    FAULTS("\x6e", X86_GP); /* now it is */
    fx_free(f);

    /* a page fault in the middle leaves what was done */
    f = fx(X86_MODE_64);
    f->c->gpr[X86_RDX] = 0xe9;
    f->c->gpr[X86_RSI] = 0x3ffffffe;
    f->c->gpr[X86_RCX] = 4;
    FAULTS("\xf3\x6e", X86_PF);
    assert_true(f->c->exc.cr2 == 0x40000000);
    assert_int_equal(f->nio, 4); /* two elements, each read from the bus beyond RAM and sent out */
    assert_int_equal(f->c->gpr[X86_RCX], 2);
    fx_free(f);
}

static void never(void **state)
{
    struct fx *f = fx(X86_MODE_64);

    (void)state;
    assert_int_equal(RUN("\x0f\xaa"), -1);         /* rsm */
    assert_int_equal(RUN("\x0f\x01\xc1"), -1);     /* vmcall */
    assert_int_equal(RUN("\x0f\x01\xfd"), -1);     /* rdpru */
    assert_int_equal(RUN("\x0f\x01\xe8"), X86_OK); /* serialize */
    assert_int_equal(RUN("\xf3\x90"), X86_OK);
    fx_free(f);
}

/* --- debug registers at work -------------------------------------------------- */

static void breakpoints(void **state)
{
    struct fx *f = fx(X86_MODE_32);
    struct x86_cpu *c = f->c;

    (void)state;
    /* code: on the linear address, hidden by RF and by the shadow of MOV SS */
    c->dr[0] = CODE + 0x100;
    c->dr[2] = CODE + 0x100;
    c->dr7 = 0x400 | 1 | 2u << 4;
    assert_int_equal(x86_debug_before(c), X86_OK);
    c->seg[X86_CS].base = 0x100;
    assert_int_equal(x86_debug_before(c), X86_FAULT);
    assert_int_equal(c->exc.vector, X86_DB);
    assert_int_equal(c->exc.dr6, 5);
    c->fl_sys |= X86_FL_RF;
    assert_int_equal(x86_debug_before(c), X86_OK);
    c->fl_sys &= ~(uint32_t)X86_FL_RF;
    c->inhibit_irq = 2;
    assert_int_equal(x86_debug_before(c), X86_OK);
    c->inhibit_irq = 1;
    assert_int_equal(x86_debug_before(c), X86_FAULT);
    c->inhibit_irq = 0;

    /* ports: only with CR4.DE, by width */
    c->dr[1] = 0x3f8;
    c->dr7 = 0x400 | 1u << 2 | 2u << 20 | 1u << 22; /* L1, I/O, 2 bytes */
    c->gpr[X86_RDX] = 0x3f9;
    assert_int_equal(RUN("\xec"), X86_OK);
    assert_int_equal(c->pending_dbg, 0);
    c->cr4 |= X86_CR4_DE;
    assert_int_equal(RUN("\xec"), X86_OK);
    assert_int_equal(c->pending_dbg, 2);
    c->pending_dbg = 0;
    c->gpr[X86_RDX] = 0x3fa;
    assert_int_equal(RUN("\xee"), X86_OK);
    assert_int_equal(c->pending_dbg, 0);
    c->gpr[X86_RDX] = 0x3f6;
    assert_int_equal(RUN("\xef"), X86_OK);
    assert_int_equal(c->pending_dbg, 2);
    /* a repeated one stops at the element that hit, and the trap waits while MOV SS is in force */
    c->pending_dbg = 0;
    c->gpr[X86_RDX] = 0x3f8;
    c->gpr[X86_RCX] = 5;
    c->gpr[X86_RDI] = 0x200000;
    assert_int_equal(RUN("\xf3\x6c"), X86_REPEAT);
    assert_int_equal(c->gpr[X86_RCX], 4);
    c->inhibit_irq = 2;
    assert_int_equal(x86_debug_after(c, true), X86_OK);
    c->inhibit_irq = 0;
    assert_int_equal(x86_debug_after(c, false), X86_FAULT);
    assert_int_equal(c->exc.dr6, 2);

    /* arming a data breakpoint takes its page out of the TLB */
    uint32_t v = 0;
    assert_int_equal(x86_lin_write(c, 0x300000, &v, 4), X86_OK);
    assert_int_not_equal(x86_tlb_host_w(c, 0x300000, 4), 0);
    c->gpr[X86_RAX] = 0x300ffc;
    assert_int_equal(RUN("\x0f\x23\xd8"), X86_OK); /* mov dr3, eax */
    c->gpr[X86_RAX] = 1u << 6 | 1u << 28 | 3u << 30;
    assert_int_equal(RUN("\x0f\x23\xf8"), X86_OK); /* mov dr7, eax */
    assert_int_equal(x86_tlb_host_w(c, 0x300000, 4), 0);
    c->pending_dbg = 0;
    assert_int_equal(x86_lin_write(c, 0x300ffe, &v, 4), X86_OK); /* across the end of the page */
    assert_int_equal(c->pending_dbg, 8);
    fx_free(f);
}

/* Every encoding that some CPUID presents has an executor. */
static void every_row_has_an_executor(void **state)
{
    const struct x86_exec_entry *tables[] = {x86_exec_sys, x86_exec_far, x86_exec_int, x86_exec_fpu};
    static unsigned count[X86_NOP_COUNT];
    unsigned missing = 0;

    (void)state;
    for (unsigned t = 0; t < 4; t++)
        for (const struct x86_exec_entry *e = tables[t]; e->fn; e++)
            count[e->op]++;
    for (unsigned i = 0; i < x86_isa_count; i++) {
        const struct x86_isa_row *row = &x86_isa[i];
        unsigned feature = row->feature;

        if (row->op == X86_OP_INVALID || count[row->op])
            continue;
        if (feature == X86_FEAT_NEVER || feature == X86_FEAT_VAES || feature == X86_FEAT_VPCLMUL ||
            feature == X86_FEAT_GFNI || feature == X86_FEAT_MOVDIRI || feature == X86_FEAT_MOVDIR64B)
            continue;
        print_message("%s: no executor\n", row->name);
        missing++;
    }
    assert_int_equal(missing, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(privileged),
        cmocka_unit_test(control_registers),
        cmocka_unit_test(debug_registers),
        cmocka_unit_test(descriptor_tables),
        cmocka_unit_test(tlb_instructions),
        cmocka_unit_test(halt_and_monitor),
        cmocka_unit_test(reads),
        cmocka_unit_test(xcr),
        cmocka_unit_test(bases),
        cmocka_unit_test(ports),
        cmocka_unit_test(io_permission),
        cmocka_unit_test(string_input),
        cmocka_unit_test(string_output),
        cmocka_unit_test(never),
        cmocka_unit_test(breakpoints),
        cmocka_unit_test(every_row_has_an_executor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
