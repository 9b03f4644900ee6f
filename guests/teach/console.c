/* Text. */
#include "machine.h"

void print(const char *s)
{
    u32 n = 0;
    while (s[n])
        n++;
    console_write(s, n);
}

void print_hex(word v, int digits)
{
    char s[16];
    for (int i = 0; i < digits; i++)
        s[i] = "0123456789abcdef"[v >> (4 * (digits - 1 - i)) & 15];
    console_write(s, (u32)digits);
}

void print_dec(u32 v)
{
    char s[10];
    u32 n = 10;
    do {
        s[--n] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    console_write(s + n, 10 - n);
}
