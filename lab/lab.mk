# The lab: what theory says of instructions, measured on this CPU (probe) and counted in images (classify).
LIB_SRC += $(filter-out lab/cmd_%,$(wildcard lab/*.c))
CLI_SRC += $(wildcard lab/cmd_*.c)


# Everything of docs/lab.md on this machine, as pages.
lab: all teach
	@sh scripts/lab.sh $(O)/ringer out/guests/teach out/lab
.PHONY: lab
