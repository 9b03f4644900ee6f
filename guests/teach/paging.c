/* Page tables (SDM Vol. 3A, chapter 4): 32-bit paging with two levels, or 4-level paging; the upper two levels of that are trivial here. */
#include "machine.h"

#define ENTRIES (4096 / sizeof(word))
#define SPAN (ENTRIES * 4096u) /* of one page table: 4 MiB, or 2 MiB */
#define PRESENT 1u
#define WRITE 2u
#define USER 4u

typedef word table[ENTRIES] __attribute__((aligned(4096)));

#ifdef __x86_64__
static table pml4[NPROC + 1], pdpt[NPROC + 1];
#endif
static table pd[NPROC + 1], kernel_pt[USER_DATA / SPAN], user_pt[NPROC];
static u8 page_of[NPROC][4096] __attribute__((aligned(4096)));

u8 *user_page(u32 p) { return page_of[p]; }

void use_space(u32 p)
{
#ifdef __x86_64__
    set_cr3(pml4[p]);
#else
    set_cr3(pd[p]);
#endif
}

void map_pages(const struct mapping *m, u32 n)
{
    struct pte_change c[MAP_MAX];
    for (u32 i = 0; i < n && i < MAP_MAX; i++)
        c[i] = (struct pte_change){&user_pt[m[i].p][m[i].addr / 4096 % ENTRIES], m[i].page ? m[i].page | USER | WRITE | PRESENT : 0, m[i].addr};
    page_table_update(c, n < MAP_MAX ? n : MAP_MAX);
}

void paging_init(void)
{
    for (word a = 0; a < USER_DATA; a += 4096) {
        const int user = a >= (word)user_start && a < (word)user_end; /* the user code is part of our image */
        kernel_pt[a / SPAN][a / 4096 % ENTRIES] = a | WRITE | PRESENT | (user ? USER : 0);
    }
    for (u32 p = 0; p <= NPROC; p++) {
#ifdef __x86_64__
        pml4[p][0] = (word)pdpt[p] | USER | WRITE | PRESENT;
        pdpt[p][0] = (word)pd[p] | USER | WRITE | PRESENT;
#endif
        for (u32 i = 0; i < USER_DATA / SPAN; i++)
            pd[p][i] = (word)kernel_pt[i] | USER | WRITE | PRESENT;
        if (p < NPROC) {
            user_pt[p][0] = (word)page_of[p] | USER | WRITE | PRESENT;
            pd[p][USER_DATA / SPAN] = (word)user_pt[p] | USER | WRITE | PRESENT;
        }
    }
    use_space(NPROC);
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0() | 0x80010000u) : "memory"); /* PG, WP */
}
