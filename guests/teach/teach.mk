# The teaching kernel: 32 and 64 bits, plain and adapted (to hypercalls), from one source.
T := out/guests/teach
TEACH_COMMON := arch.h teach.h machine.h main.c console.c tables.c interrupt.c paging.c process.c user.c selftest.c bench.c hostile.c link.ld
TEACH_CFLAGS := -Iinclude -ffreestanding -fno-pic -no-pie -mgeneral-regs-only -O1 -fno-stack-protector -fno-asynchronous-unwind-tables \
                -fcf-protection=none -fno-strict-aliasing -fno-tree-loop-distribute-patterns -Wall -Wextra -Werror
TEACH_32 := -m32 -march=i686 -mpreferred-stack-boundary=2 -DBITS='"32"'
TEACH_64 := -m64 -mno-red-zone -mcmodel=small -DBITS='"64"'
TEACH_plain := native.c sensitive.c
TEACH_adapted := adapted.c
TEACH := $(T)/teach32.elf $(T)/teach64.elf $(T)/teach32-adapted.elf $(T)/teach64-adapted.elf

# TEACH_RULE(name, bits, plain or adapted)
define TEACH_RULE
$(T)/$1.elf: $(addprefix guests/teach/,$(TEACH_COMMON) start$2.S $(TEACH_$3)) include/ringer/hypercall.h | out/.deps-test
	@mkdir -p $$(@D)
	@echo "  GUEST $$@"
	@gcc $(TEACH_CFLAGS) $(TEACH_$2) $(if $(filter adapted,$3),-DADAPTED) -nostdlib -static -Wl,--build-id=none -Wl,--no-warn-rwx-segments \
	    -Wl,-z,max-page-size=4096 -Wl,-T,guests/teach/link.ld $$(filter %.S %.c,$$^) -o $$@
endef
$(eval $(call TEACH_RULE,teach32,32,plain))
$(eval $(call TEACH_RULE,teach64,64,plain))
$(eval $(call TEACH_RULE,teach32-adapted,32,adapted))
$(eval $(call TEACH_RULE,teach64-adapted,64,adapted))
teach: $(TEACH)
.PHONY: teach
