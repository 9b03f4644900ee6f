/*
 * Build-time generator: x86/isa.def (format described there) to the const
 * tables of the decoder: the rows, and for each opcode the rows to try.
 *
 *   isagen x86/isa.def > x86_isa_tables.inc
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ROWS 3000
#define MAX_OPND 6

struct opnd {
    char method, type;
    int access, implicit, reg, sext, size;
};

struct row {
    char name[24];
    int vex, map, opcode, plus_r, modrm, digit, rm, b0, n, avx12;
    const char *pfx, *mod, *w, *l;
    struct opnd op[MAX_OPND];
    char feature[24], attr[400];
    int pg, fr, fw, fu;
    bool sse, avx, aligned, unaligned;
};

static struct row rows[MAX_ROWS];
static int nrows;
static const char *file;
static int line;

static void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    exit(1);
}

static int flag_bits(const char *s)
{
    static const char letters[] = "C P A ZSTIDO  N";
    int v = 0;
    for (; *s; s++) {
        const char *p = strchr(letters, *s);
        if (!p || *s == ' ')
            die("unknown flag %c", *s);
        v |= 1 << (p - letters);
    }
    return v;
}

static const struct {
    const char *token, *attr;
} attrs[] = {
    {"lock", "LOCKABLE"}, {"branch", "BRANCH"}, {"cond", "COND"},       {"ser", "SERIALIZING"},  {"cpl0", "CPL0"},
    {"io", "IO"},         {"str", "STRING"},    {"x87", "X87"},         {"mmx", "MMX"},          {"sse", "SSE"},
    {"avx", "AVX"},       {"fpexc", "FPEXC"},   {"pe", "PE_ONLY"},      {"no64", "NO64"},        {"only64", "ONLY64"},
    {"d64", "D64"},       {"f64", "F64"},       {"flagcond", "FLAGCOND"}, {"bitstr", "BITSTR"},
};

static void add_attr(struct row *r, const char *a)
{
    size_t len = strlen(r->attr);
    snprintf(r->attr + len, sizeof(r->attr) - len, " | X86_ATTR_%s", a);
}

static void property(struct row *r, const char *t)
{
    for (unsigned i = 0; i < sizeof(attrs) / sizeof(attrs[0]); i++)
        if (!strcmp(t, attrs[i].token)) {
            add_attr(r, attrs[i].attr);
            r->sse |= !strcmp(t, "sse");
            r->avx |= !strcmp(t, "avx");
            return;
        }
    if (!strcmp(t, "arith")) {
        r->fw = flag_bits("OSZAPC");
    } else if (!strcmp(t, "logic")) {
        r->fw = flag_bits("OSZPC");
        r->fu = flag_bits("A");
    } else if (!strncmp(t, "fr=", 3)) {
        r->fr = flag_bits(t + 3);
    } else if (!strncmp(t, "fw=", 3)) {
        r->fw = flag_bits(t + 3);
    } else if (!strncmp(t, "fu=", 3)) {
        r->fu = flag_bits(t + 3);
    } else if (!strncmp(t, "pg=", 3)) {
        r->pg = 0;
        for (t += 3; *t; t++) {
            const char *p = strchr("PCB!", *t);
            if (!p)
                die("unknown class %c", *t);
            r->pg |= 1 << (p - "PCB!");
        }
    } else if (!strcmp(t, "avx12")) {
        r->avx12 = 1;
    } else if (!strcmp(t, "align")) {
        r->aligned = true;
    } else if (!strcmp(t, "unal")) {
        r->unaligned = true;
    } else if (isupper((unsigned char)*t)) {
        snprintf(r->feature, sizeof(r->feature), "%s", t);
    } else {
        die("unknown property %s", t);
    }
}

static int gpr_number(const char *s)
{
    static const char names[] = "AXCXDXBXSPBPSIDI";
    for (int i = 0; i < 8; i++)
        if (!strncmp(s, names + 2 * i, 2))
            return i;
    return -1;
}

/* A type suffix: letters that depend on the mode stay letters, the others become sizes. */
static void type_of(struct opnd *o, const char *t)
{
    static const struct {
        const char *t;
        char type;
        int size;
    } types[] = {
        {"b", 0, 1},   {"w", 0, 2},   {"d", 0, 4},   {"q", 0, 8},   {"dq", 0, 16}, {"qq", 0, 32}, {"t", 0, 10},  {"n", 0, 0},
        {"ss", 0, 4},  {"sd", 0, 8},  {"ps", 'x', 0}, {"pd", 'x', 0}, {"x", 'x', 0}, {"v", 'v', 0}, {"z", 'z', 0}, {"y", 'y', 0},
        {"r", 'r', 0}, {"g", 'g', 0}, {"p", 'p', 0}, {"a", 'a', 0}, {"s", 's', 0}, {"h", 'h', 0}, {"l", 'l', 0}, {"e", 'e', 0}, {"f", 'f', 0}, {"k", 'k', 0},
    };
    if (isdigit((unsigned char)*t)) {
        o->size = atoi(t);
        return;
    }
    for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (!strcmp(t, types[i].t)) {
            o->type = types[i].type;
            o->size = types[i].size;
            return;
        }
    die("unknown operand type %s", t);
}

static void operand(struct row *r, char *t)
{
    static const struct {
        const char *name;
        char method, type;
        int reg, size;
    } fixed[] = {
        {"AL", 'r', 0, 0, 1},     {"CL", 'r', 0, 1, 1},     {"AH", 'h', 0, 0, 1},     {"AX", 'r', 0, 0, 2},
        {"DX", 'r', 0, 2, 2},     {"EAX", 'r', 0, 0, 4},    {"ECX", 'r', 0, 1, 4},    {"EDX", 'r', 0, 2, 4},
        {"EBX", 'r', 0, 3, 4},    {"RAX", 'r', 0, 0, 8},    {"RCX", 'r', 0, 1, 8},    {"RDX", 'r', 0, 2, 8},
        {"RBX", 'r', 0, 3, 8},    {"rAX", 'r', 'v', 0, 0},  {"rCX", 'r', 'v', 1, 0},  {"rDX", 'r', 'v', 2, 0},
        {"eAX", 'r', 'z', 0, 0}, {"yDX", 'r', 'y', 2, 0}, {"yAX", 'r', 'y', 0, 0},  {"rCXa", 'r', 'g', 1, 0}, {"ES", 's', 0, 0, 2},     {"CS", 's', 0, 1, 2},
        {"SS", 's', 0, 2, 2},     {"DS", 's', 0, 3, 2},     {"FS", 's', 0, 4, 2},     {"GS", 's', 0, 5, 2},
        {"ST0", 't', 0, 0, 10},   {"XMM0", 'x', 0, 0, 16},  {"1", '1', 0, 0, 1},
    };
    if (r->n == MAX_OPND)
        die("too many operands");
    struct opnd *o = &r->op[r->n++];
    *o = (struct opnd){.access = 1};
    size_t len = strlen(t);
    if (t[0] == '(' && t[len - 1] == ')') {
        o->implicit = 1;
        t[len - 1] = 0;
        t++;
        len -= 2;
    }
    if (t[len - 1] == '=' || t[len - 1] == '+') {
        o->access = t[len - 1] == '=' ? 2 : 3;
        t[--len] = 0;
    }
    for (unsigned i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
        if (!strcmp(t, fixed[i].name)) {
            o->method = fixed[i].method;
            o->type = fixed[i].type;
            o->reg = fixed[i].reg;
            o->size = fixed[i].size;
            return;
        }
    o->method = *t++;
    if (o->method == 'V' && *t == 'M') {
        o->method = 'm';
        t++;
    }
    if (!strchr("ABCDEGHIJKLMNOPQRSTUVWXYZm", o->method))
        die("unknown operand method %c", o->method);
    if (o->method == 'K') {
        char *colon = strchr(t, ':');
        if (!colon || (o->reg = gpr_number(colon + 2)) < 0)
            die("K needs type:register");
        *colon = 0;
    }
    if (o->method == 'I' && !strcmp(t, "bs")) {
        o->sext = 1;
        t = "b";
    } else if (o->method == 'J' || (o->method == 'I' && *t == 'z')) {
        o->sext = 1;
    }
    if (o->method == 'T')
        o->size = 10;
    else
        type_of(o, t);
    if (strchr("CDEGMNPQRSTUVWm", o->method))
        r->modrm = 1;
}

static void encoding(struct row *r, char *s)
{
    int state = 0; /* 0 prefixes, 1 after 0F, 2 after 0F 38/3A, 3 opcode seen */
    for (char *t = strtok(s, " "); t; t = strtok(NULL, " ")) {
        size_t len = strlen(t);
        if (state == 0 && !strcmp(t, "V")) {
            r->vex = 1;
        } else if (state == 0 && !strcmp(t, "0F")) {
            state = r->map = 1;
        } else if (state == 0 && (!strcmp(t, "NP") || !strcmp(t, "66") || !strcmp(t, "F2") || !strcmp(t, "F3") || !strcmp(t, "P66"))) {
            r->pfx = strdup(t);
        } else if (state == 1 && (!strcmp(t, "38") || !strcmp(t, "3A"))) {
            state = 2;
            r->map = t[1] == '8' ? 2 : 3;
        } else if (state < 3) {
            char *end;
            r->opcode = (int)strtol(t, &end, 16);
            if (!strcmp(end, "+r"))
                r->plus_r = 1;
            else if (*end || len != 2)
                die("bad opcode %s", t);
            state = 3;
        } else if (t[0] == '/' && len == 2) {
            r->digit = t[1] - '0';
            r->modrm = 1;
        } else if (t[0] == '=' && len == 3) {
            int v = (int)strtol(t + 1, NULL, 16);
            r->digit = v >> 3 & 7;
            r->rm = v & 7;
            r->mod = "REG";
            r->modrm = 1;
        } else if (!strcmp(t, "mem")) {
            r->mod = "MEM";
        } else if (!strcmp(t, "reg")) {
            r->mod = "REG";
        } else if (!strcmp(t, "rmreg")) {
            r->mod = "IGNORED";
        } else if (!strcmp(t, "b0")) {
            r->b0 = 1;
        } else if (strchr("WwL", t[0]) && (t[1] == '0' || t[1] == '1') && len == 2) {
            const char *bit = t[0] == 'w' ? (t[1] == '0' ? "0_64" : "1_64") : (t[1] == '0' ? "0" : "1");
            *(t[0] == 'L' ? &r->l : &r->w) = bit;
        } else {
            die("bad encoding token %s", t);
        }
    }
    if (state != 3)
        die("no opcode");
}

static void finish(struct row *r)
{
    if (r->mod && !r->modrm)
        die("ModRM constraint without ModRM");
    bool mem16 = false;
    for (int i = 0; i < r->n; i++)
        if (strchr("WM", r->op[i].method) && (r->op[i].type == 'x' || (!r->op[i].type && r->op[i].size == 16)))
            mem16 = true;
    if (r->aligned || (r->sse && mem16 && !r->unaligned))
        add_attr(r, "ALIGN16");
    if (r->n && r->op[0].access == 3)
        add_attr(r, "MEMMOD");
    if (nrows == MAX_ROWS)
        die("too many rows");
    if (r->avx12) { /* 128-bit form with AVX, 256-bit form with AVX2 */
        struct row *a = &rows[nrows++];
        *a = *r;
        a->l = "0";
        snprintf(a->feature, sizeof(a->feature), "AVX");
        r->l = "1";
        snprintf(r->feature, sizeof(r->feature), "AVX2");
    }
    rows[nrows++] = *r;
}

static char *trim(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    for (char *e = s + strlen(s); e > s && isspace((unsigned char)e[-1]);)
        *--e = 0;
    return s;
}

static void read_file(const char *path)
{
    char buf[512], defaults[256] = "";
    const char *outer = file;
    int outer_line = line;
    FILE *f = fopen(path, "r");
    if (!f)
        die("cannot open %s", path);
    file = path;
    for (line = 1; fgets(buf, sizeof(buf), f); line++) {
        char *s = trim(buf);
        if (!*s || *s == '#')
            continue;
        if (!strncmp(s, "%include ", 9)) {
            char inc[256];
            const char *slash = strrchr(path, '/');
            snprintf(inc, sizeof(inc), "%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, s + 9);
            read_file(inc);
            continue;
        }
        if (*s == '@') {
            snprintf(defaults, sizeof(defaults), "%s", s + 1);
            continue;
        }
        char *field[4] = {s, "", "", ""};
        /* Fields are split at " : ", which K operands' colon is not. */
        char *p = s;
        for (int i = 1; i < 4 && (p = strstr(p, " :")); i++) {
            *p = 0;
            p += 2;
            field[i] = p;
        }
        struct row r = {.digit = -1, .rm = -1};
        snprintf(r.name, sizeof(r.name), "%s", trim(field[0]));
        char empty[1] = "", tmp[512];
        snprintf(tmp, sizeof(tmp), "%s", field[2]);
        encoding(&r, *field[1] ? trim(field[1]) : empty);
        for (char *t = strtok(tmp, " "); t; t = strtok(NULL, " "))
            operand(&r, t);
        snprintf(tmp, sizeof(tmp), "%s", defaults);
        for (char *t = strtok(tmp, " "); t; t = strtok(NULL, " "))
            property(&r, t);
        snprintf(tmp, sizeof(tmp), "%s", field[3]);
        for (char *t = strtok(tmp, " "); t; t = strtok(NULL, " "))
            property(&r, t);
        if (!r.feature[0])
            die("no feature");
        finish(&r);
    }
    fclose(f);
    file = outer;
    line = outer_line;
}

static void emit_rows(void)
{
    printf("const struct x86_isa_row x86_isa[] = {\n");
    for (int i = 0; i < nrows; i++) {
        struct row *r = &rows[i];
        char lower[24];
        for (int k = 0; k < 24; k++)
            lower[k] = (char)tolower((unsigned char)r->name[k]);
        printf("{X86_OP_%s, %d, X86_FEAT_%s, 0%s, 0x%x, 0x%x, 0x%x, \"%s\", %d, %d, ", r->name, r->pg, r->feature, r->attr, r->fr,
               r->fw, r->fu & ~r->fw, lower, r->vex, r->map);
        printf("X86_PFX_%s, 0x%02x, %d, %d, X86_MOD_%s, %d, %d, X86_BIT_%s, X86_BIT_%s, %d, %d, {", r->pfx ? r->pfx : "ANY",
               r->opcode, r->plus_r, r->modrm, r->mod ? r->mod : "ANY", r->digit, r->rm, r->w ? r->w : "ANY", r->l ? r->l : "ANY",
               r->b0, r->n);
        for (int k = 0; k < r->n; k++) {
            struct opnd *o = &r->op[k];
            printf("{'%c', %d, %d, %d, %d, %d, %d}, ", o->method, o->type, o->access, o->implicit, o->reg, o->sext, o->size);
        }
        printf("%s}},\n", r->n ? "" : "{0}");
    }
    printf("};\nconst unsigned x86_isa_count = %d;\n\n", nrows);
}

/* Does a row apply when the prefix in force is 0 none, 1 66, 2 F3, 3 F2? */
static bool pfx_fits(const struct row *r, int slot)
{
    static const char *const names[] = {"NP", "66", "F3", "F2"};
    return !r->pfx || !strcmp(r->pfx, names[slot]) || (!strcmp(r->pfx, "P66") && slot < 2);
}

static int cand[100000], ncand;
static struct {
    int first, n;
} sub[4000][8];
static int nsub;

static void emit_index(void)
{
    printf("static const struct slot slots[2][4][256][4] = {\n");
    for (int vex = 0; vex < 2; vex++)
        for (int map = 0; map < 4; map++)
            for (int opc = 0; opc < 256; opc++)
                for (int slot = 0; slot < 4; slot++) {
                    int list[400], n = 0, flags = 0, with = 0;
                    bool by_reg = false;
                    for (int i = 0; i < nrows; i++) {
                        const struct row *r = &rows[i];
                        if (r->vex != vex || r->map != map || !pfx_fits(r, slot) ||
                            !(r->plus_r ? opc >= r->opcode && opc < r->opcode + 8 : opc == r->opcode))
                            continue;
                        list[n++] = i;
                        by_reg |= r->digit >= 0;
                        with += r->modrm;
                        flags |= strstr(r->attr, "X86_ATTR_NO64") ? 2 : strstr(r->attr, "X86_ATTR_ONLY64") ? 1 : 3;
                    }
                    if (!n)
                        continue;
                    if (with && with != n) {
                        fprintf(stderr, "%s: opcode %02x: ModRM in some rows only\n", rows[list[0]].name, opc);
                        exit(1);
                    }
                    int first = ncand;
                    if (!by_reg) {
                        for (int k = 0; k < n; k++)
                            cand[ncand++] = list[k];
                    } else {
                        first = nsub;
                        for (int reg = 0; reg < 8; reg++) {
                            sub[nsub][reg].first = ncand;
                            for (int k = 0; k < n; k++)
                                if (rows[list[k]].digit < 0 || rows[list[k]].digit == reg)
                                    cand[ncand++] = list[k];
                            sub[nsub][reg].n = ncand - sub[nsub][reg].first;
                        }
                        nsub++;
                    }
                    printf("[%d][%d][0x%02x][%d] = {%d, %d, %s%s%s%s0},\n", vex, map, opc, slot, first, n, by_reg ? "SLOT_BY_REG | " : "",
                           with ? "SLOT_MODRM | " : "", flags & 1 ? "SLOT_64 | " : "", flags & 2 ? "SLOT_LEGACY | " : "");
                }
    printf("};\n\nstatic const struct sub_slot sub_slots[][8] = {\n");
    for (int i = 0; i < nsub; i++) {
        printf("{");
        for (int reg = 0; reg < 8; reg++)
            printf("{%d, %d}, ", sub[i][reg].first, sub[i][reg].n);
        printf("},\n");
    }
    printf("};\n\nstatic const uint16_t candidates[] = {\n");
    for (int i = 0; i < ncand; i++)
        printf("%d,%s", cand[i], i % 16 == 15 ? "\n" : " ");
    printf("\n};\n");
}

int main(int argc, char **argv)
{
    file = "isagen";
    if (argc != 2)
        die("usage: isagen x86/isa.def");
    read_file(argv[1]);
    printf("/* Generated from x86/isa.def by scripts/isagen.c. */\n");
    emit_rows();
    emit_index();
    return fflush(stdout) || ferror(stdout) ? 1 : 0;
}
