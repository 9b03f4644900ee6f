# The teaching kernel.
T := out/guests/teach
TEACH_CFLAGS := -m32 -march=i686 -ffreestanding -fno-pic -no-pie -mgeneral-regs-only -O1 -fno-stack-protector -fno-asynchronous-unwind-tables \
                -fcf-protection=none -fno-strict-aliasing -Wall -Wextra -Werror

$(T)/teach32.elf: guests/teach/teach.c guests/teach/start.S guests/teach/link.ld | out/.deps-test
	@mkdir -p $(@D)
	@echo "  GUEST $@"
	@gcc $(TEACH_CFLAGS) -nostdlib -static -Wl,--build-id=none -Wl,--no-warn-rwx-segments -Wl,-T,guests/teach/link.ld guests/teach/start.S guests/teach/teach.c -o $@
teach: $(T)/teach32.elf
.PHONY: teach
