LIB_SRC += $(wildcard sandbox/world*.c)

# The program that runs inside a world: no libc, no instrumentation whatever the mode.
$(O)/sandbox/stub: sandbox/stub.c sandbox/stub.ld sandbox/proto.h sandbox/awake.h
	@mkdir -p $(@D)
	@echo "  STUB  $@"
	@$(CC) -I. -std=gnu11 -O2 -D_GNU_SOURCE $(WARN) -fpie -ffreestanding -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables \
	    -mno-red-zone -mgeneral-regs-only -nostdlib -static-pie -Wl,--build-id=none -Wl,--no-dynamic-linker -Wl,-T,sandbox/stub.ld -o $@ $<

CFLAGS_sandbox_world_stub = -DSTUB_FILE='"$(O)/sandbox/stub"'
$(O)/sandbox/world_stub.o: $(O)/sandbox/stub

# The same for user worlds.
LIB_SRC += sandbox/awake.c sandbox/spawn.c sandbox/user64.c sandbox/user64_image.c
$(O)/sandbox/user64_stub: sandbox/user64_stub.c sandbox/user64_handler.S sandbox/stub.ld sandbox/user64_proto.h sandbox/user64_layout.h
	@mkdir -p $(@D)
	@echo "  STUB  $@"
	@$(CC) -I. -std=gnu11 -O2 -D_GNU_SOURCE $(WARN) -fpie -ffreestanding -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables \
	    -mno-red-zone -mgeneral-regs-only -nostdlib -static-pie -Wl,--build-id=none -Wl,--no-dynamic-linker -Wl,-T,sandbox/stub.ld -o $@ \
	    sandbox/user64_stub.c sandbox/user64_handler.S

CFLAGS_sandbox_user64_image = -DUSER64_FILE='"$(O)/sandbox/user64_stub"'
$(O)/sandbox/user64_image.o: $(O)/sandbox/user64_stub
