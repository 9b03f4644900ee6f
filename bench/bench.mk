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

# The guest of the workloads: Debian's kernel, the root of `make run`, and one directory more.
$(B)/work: bench/work.c | out/.deps-bench
	@mkdir -p $(B)
	@gcc -O2 -Wall -Wextra -Werror -static -o $@ $< -lm

# The compiler of a workload, for guest and bare host, and what it compiles
$(B)/gcc/gcc.tar: scripts/fetch-gcc.sh
	@sh scripts/fetch-gcc.sh $(B)/gcc
$(B)/program.c: bench/gensource.py
	@mkdir -p $(B)
	@python3 bench/gensource.py 10500 >$@

$(B)/initrd.cpio: $(B)/work $(B)/program.c bench/agent.sh out/root/initrd.cpio
	@rm -rf $(B)/tree $(B)/host && mkdir -p $(B)/tree/bench $(B)/tree/bin $(B)/host
	@cp bench/agent.sh $(B)/program.c $(B)/tree/bench && cp $(B)/work $(B)/tree/bin/work
	@cd $(B)/tree && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet >../extra.cpio
	@cat out/root/initrd.cpio $(B)/extra.cpio >$@

# For hosts with KVM
$(B)/msi: bench/msi.c | out/.deps-bench
	@mkdir -p $(B)
	@gcc -O2 -Wall -Wextra -Werror -static -o $@ $<

# The same two programs for the bare host, out of the guest's root
$(B)/host/busybox: $(B)/initrd.cpio
	@mkdir -p $(B)/host
	@cd $(B)/host && cpio -i --quiet --to-stdout bin/busybox <../../root/initrd.cpio >busybox && chmod 755 busybox && cp -f ../work work
	@cd $(B)/host && for a in sh dd cat cp gzip ln mkdir sha256sum tar; do ln -sf busybox $$a; done

bench-files: bench-loops-files $(B)/initrd.cpio $(B)/host/busybox $(B)/msi $(B)/gcc/gcc.tar
# BENCH_ARGS are options of bench.py; the other two have targets of their own.
bench-work: all bench-files
	@python3 bench/bench.py $(BENCH_ARGS)
bench-smp: all bench-files
	@python3 bench/smp.py $(BENCH_ARGS)
bench: all bench-files $(B)/nano.elf
	@python3 bench/bench.py $(BENCH_ARGS)
	@echo
	@python3 bench/smp.py
	@echo
	@python3 bench/nano.py
	@echo
	@python3 bench/loops.py

.PHONY: bench bench-work bench-smp bench-files

# The nanobenchmarks: a guest on the library of the self-checking ones.
$(B)/nano.elf: bench/nano.c $(wildcard tests/guest/lib/*) | out/.deps-bench
	@mkdir -p $(B)
	@gcc -m64 -ffreestanding -fno-pic -no-pie -mno-red-zone -mgeneral-regs-only -O2 -fno-stack-protector -fno-asynchronous-unwind-tables \
	    -fno-strict-aliasing -Wall -Wextra -Werror -Wno-unused-parameter -nostdlib -static -Wl,--build-id=none \
	    -Wl,--no-warn-rwx-segments -Wl,-T,tests/guest/lib/link.ld -Itests/guest/lib tests/guest/lib/start64.S \
	    $(wildcard tests/guest/lib/*.c) $< -o $@.64
	@objcopy -O elf32-i386 $@.64 $@

# How exactly --cpu-limit holds, how soon a spinning guest stops
bench-limit: all spin
	@python3 bench/limit.py $(BENCH_ARGS)
.PHONY: bench-limit

bench-nano: all $(B)/nano.elf
	@python3 bench/nano.py $(BENCH_ARGS)
.PHONY: bench-nano

# The same question for 32-bit guests, where code runs directly (engines patch and trap --patch=lazy).
out/.deps-bench32: scripts/deps.sh
	@sh scripts/deps.sh bench32 && mkdir -p out && touch $@
bench-i386: all guest-i386 | out/.deps-bench32
	@sh bench/i386.sh $(BENCH_ARGS)
.PHONY: bench-i386
