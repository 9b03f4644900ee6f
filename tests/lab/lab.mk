# The lab's commands as a user meets them.
CHECKS += lab/cli:sh@tests/lab/cli.sh@$(O)/ringer
# Two machines side by side, one hostile.
CHECKS += $(foreach e,interp translate trap patch,lab/separate/$e:sh@tests/lab/separate.sh@$(O)/ringer@$e@$(T)/teach32.elf) \
          lab/separate/hypercalls:sh@tests/lab/separate.sh@$(O)/ringer@translate@$(T)/teach64-adapted.elf@--hypercalls
