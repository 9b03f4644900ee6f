# Side-by-side measurements; see bench/README.md. Nothing here is part of `make check`.
B := out/bench

out/.deps-bench: scripts/deps.sh
	@mkdir -p out
	@sh scripts/deps.sh bench && touch $@

$(B)/loops.img: bench/loops_boot.asm bench/loops.inc | out/.deps-bench
	@mkdir -p $(B)
	@nasm -f bin -Ibench/ -o $@ $<

$(B)/loops_native: bench/loops_native.c bench/loops_native.asm bench/loops.inc | out/.deps-bench
	@mkdir -p $(B)
	@nasm -f elf64 -Ibench/ -o $@.o bench/loops_native.asm
	@gcc -O2 -Wall -Wextra -Werror -static -no-pie -o $@ bench/loops_native.c $@.o

bench-loops-files: $(B)/loops.img $(B)/loops_native
bench-loops: all bench-loops-files
	@python3 bench/loops.py $(BENCH_ARGS)

.PHONY: bench-loops bench-loops-files
