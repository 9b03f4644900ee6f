LIB_SRC += $(wildcard sandbox/world*.c)

# The program that runs inside a world: no libc, no instrumentation whatever the mode.
$(O)/sandbox/stub: sandbox/stub.c sandbox/stub.ld sandbox/proto.h
	@mkdir -p $(@D)
	@echo "  STUB  $@"
	@$(CC) -I. -std=gnu11 -O2 -D_GNU_SOURCE $(WARN) -fpie -ffreestanding -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables \
	    -mno-red-zone -mgeneral-regs-only -nostdlib -static-pie -Wl,--build-id=none -Wl,--no-dynamic-linker -Wl,-T,sandbox/stub.ld -o $@ $<

CFLAGS_sandbox_world_stub = -DSTUB_FILE='"$(O)/sandbox/stub"'
$(O)/sandbox/world_stub.o: $(O)/sandbox/stub
