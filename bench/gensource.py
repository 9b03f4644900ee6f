#!/usr/bin/env python3
"""Write a C program to be compiled as a benchmark: gensource.py LINES > program.c. The same one every time.

Functions of the kinds programs have (loops over arrays, structures and lists, switches, string handling, recursion, floating point,
function tables), which call earlier ones; main calls them all and prints one number, so that what was compiled can be run and compared.
"""
import sys

HEAD = """#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node {
    struct node *next;
    uint32_t key, weight;
    double value;
    char name[16];
};
struct table {
    struct node node[16];
    uint32_t count, mask;
    uint64_t sum;
};
static uint32_t state = 12345;
static uint32_t step(uint32_t k)
{
    state = state * 1664525u + 1013904223u + k;
    return state >> 3;
}
static void fill(struct table *t, uint32_t seed)
{
    t->count = 16;
    t->mask = seed & 0xff;
    t->sum = seed;
    for (uint32_t i = 0; i < 16; i++) {
        t->node[i].next = i + 1 < 16 ? &t->node[i + 1] : NULL;
        t->node[i].key = (seed >> (i & 7)) * (i + 3);
        t->node[i].weight = i * seed % 97;
        t->node[i].value = (seed % 1000) / 8.0 + i;
        snprintf(t->node[i].name, sizeof(t->node[i].name), "n%u", (seed + i) % 1000);
    }
}
"""


class Random:
    def __init__(self):
        self.s = 2463534242

    def __call__(self, n):
        self.s ^= self.s << 13 & 0xffffffff
        self.s ^= self.s >> 17
        self.s ^= self.s << 5 & 0xffffffff
        return self.s % n


def main():
    wanted = int(sys.argv[1])
    r = Random()
    out = HEAD.splitlines()
    made = []

    def call(arg):
        """An earlier function's result, at times; all terminate, none goes deep."""
        near = made[-12:-4]
        return f"{near[r(len(near))]}(t, {arg})" if near and r(3) == 0 else f"({arg} * {r(1000) + 3}u + {r(90)}u)"

    def loops(n):
        return [f"    uint32_t a = x + {r(999)}u, b = {r(99) + 1}u;",
                f"    for (uint32_t i = 0; i < {r(6) + 3}u; i++) {{",
                f"        for (uint32_t k = i; k < t->count; k += {r(3) + 1}u) {{",
                f"            a = (a << {r(9) + 3} | a >> {r(9) + 12}) ^ t->node[k].key;",
                f"            b += t->node[k].weight * (a % {r(30) + 2}u);",
                f"            t->node[k].key += b >> {r(8) + 1};",
                "        }",
                f"        if (a & {1 << r(12)}u)",
                f"            b ^= a / (b % {r(50) + 2}u + 1);",
                "        else",
                f"            a -= b * {r(50) + 1}u;",
                "    }",
                "    return a ^ b;"]

    def switch(n):
        body = [f"    uint32_t a = x * {r(99) * 2 + 1}u;", f"    switch (x % {n}u) {{"]
        for i in range(n - 1):
            body += [f"    case {i}:"]
            body += [[f"        a += {call('a')};"], [f"        a ^= t->mask << {r(9)};", "        t->mask += a;"],
                     [f"        while (a > {r(900) + 99}u)", f"            a = a / {r(5) + 2}u - {r(20)}u;"],
                     [f"        a = t->node[a % {r(12) + 3}u].weight - x;"], [f"        if (a < x && t->sum > {r(5000)}u)", f"            return a + {r(77)}u;"]][r(5)]
            if r(4):
                body += ["        break;"]
            else:
                body += ["        /* fall through */"]
        return body + ["    default:", f"        t->sum += a % {r(200) + 1}u;", "        break;", "    }", f"    return a + {r(100)}u;"]

    def walk(n):
        return ["    struct node *best = NULL;", "    uint32_t a = 0;",
                "    for (struct node *p = &t->node[0]; p; p = p->next) {",
                f"        if (!best || p->weight * {r(9) + 1}u > best->weight + (x & {r(60) + 3}u))",
                "            best = p;",
                f"        p->value = p->value * 0.{r(900) + 50} + {r(40)}.5;",
                f"        a += (uint32_t)p->value & 0x{r(4000) + 255:x}u;",
                "    }",
                f"    best->key ^= {call('a')};",
                "    return a + best->key;"]

    def text(n):
        return ["    char buf[64];", "    uint32_t h = 2166136261u ^ x;",
                f"    int len = snprintf(buf, sizeof(buf), \"%s-%u-{'abcdefgh'[r(8)] * (r(6) + 1)}\", t->node[x % 16].name, x % {r(900) + 9}u);",
                "    for (int i = 0; i < len; i++) {",
                f"        if (buf[i] >= '0' && buf[i] <= '{r(5) + 4}')",
                f"            buf[i] = (char)(buf[i] + {r(5) + 1});",
                f"        h = (h ^ (uint8_t)buf[i]) * 16777619u;",
                "    }",
                f"    if (strstr(buf, \"{r(90) + 10}\") || !strcmp(buf, t->node[{r(16)}].name))",
                f"        h += {r(1000)}u;",
                f"    memcpy(t->node[h % 16].name, buf, {r(8) + 3});",
                "    t->node[h % 16].name[15] = 0;",
                "    return h;"]

    def floats(n):
        return [f"    double v[{n}], s = {r(99)}.25;",
                f"    for (unsigned i = 0; i < {n}; i++)",
                f"        v[i] = t->node[i % 16].value * (i + 1) - (x % {r(50) + 2}u);",
                f"    for (unsigned k = 0; k < {r(3) + 2}; k++)",
                f"        for (unsigned i = 1; i < {n}; i++) {{",
                f"            v[i] = v[i] * 0.5 + v[i - 1] * 0.{r(40) + 10};",
                f"            s += v[i] > s ? v[i] - s : (s - v[i]) / {r(9) + 2};",
                "        }",
                "    if (!(s > -1e9 && s < 1e9))",
                "        s = 1;",
                f"    return (uint32_t)(int64_t)(s * {r(9) + 1}) ^ x;"]

    def recursive(n):
        return [f"    if (x < {r(9) + 3}u)", f"        return x + t->count;",
                f"    const uint32_t a = x / {r(3) + 2}u;",
                f"    t->sum = t->sum * {r(90) * 2 + 3}u + a;",
                f"    return @(t, a) + (uint32_t)(t->sum >> {r(20) + 9}) + {call('a')};"]

    def table(n):
        few = made[-n:]
        return [f"    static uint32_t (*const f[])(struct table *, uint32_t) = {{{', '.join(few)}}};" if few else "    static uint32_t (*const f[1])(struct table *, uint32_t);",
                "    uint32_t a = x;", f"    static int depth;", "    if (depth || !f[0])", f"        return a * {r(9) + 2}u;", "    depth++;",
                f"    for (unsigned i = 0; i < 3; i++)",
                "        a += f[(a + i) % (sizeof(f) / sizeof(f[0]))](t, a ^ i);",
                "    depth--;", "    return a;"]

    kinds = [loops, switch, switch, walk, text, floats, recursive, table]
    while len(out) < wanted - 40:
        name = f"f{len(made)}"
        body = kinds[r(len(kinds))](r(9) + 4)
        out += [f"static __attribute__((noinline)) uint32_t {name}(struct table *t, uint32_t x)", "{"] + [b.replace("@", name) for b in body] + ["}", ""]
        made.append(name)
    out += ["static uint32_t (*const all[])(struct table *, uint32_t) = {"]
    for i in range(0, len(made), 16):
        out.append("    " + ", ".join(made[i:i + 16]) + ",")
    out += ["};", "int main(void)", "{", "    static struct table t;", "    uint64_t sum = 0;",
            "    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {", "        fill(&t, step(i));",
            "        sum = sum * 31 + all[i](&t, step(i));", "    }", "    printf(\"%016llx\\n\", (unsigned long long)sum);", "    return 0;", "}"]
    print("\n".join(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
