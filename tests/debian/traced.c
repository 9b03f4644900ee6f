/* What the debugger looks at. */
#include <stdio.h>
#include <stdlib.h>

volatile int watched;
int table[16];

__attribute__((noinline)) int leaf(int n)
{
    table[n & 15] += n;
    return n * 3;
}
__attribute__((noinline)) int middle(int n) { return leaf(n) + 1; }
__attribute__((noinline)) int outer(int n)
{
    int sum = 0;
    for (int i = 0; i < n; i++)
        sum += middle(i);
    return sum;
}

int main(int argc, char **argv)
{
    (void)argv;
    int r = 0;
    for (int i = 0; i < 5; i++) {
        r += outer(4 + argc);
        watched = r;
    }
    printf("result %d watched %d\n", r, watched);
    return r == 5 * 35 && watched == r ? 0 : 1;
}
