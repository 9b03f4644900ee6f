# The lab's commands as a user meets them.
CHECKS += lab/cli:sh@tests/lab/cli.sh@$(O)/ringer
# The role of a hypervisor: results under every engine, shares, two machines side by side of which one is hostile.
CHECKS += lab/role:sh@scripts/lab.sh@$(O)/ringer@$(T)@out/lab lab/separate/hypercalls:sh@tests/lab/separate.sh@$(O)/ringer@translate@$(T)/teach64-adapted.elf@--hypercalls
