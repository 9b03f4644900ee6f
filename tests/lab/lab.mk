# The lab's commands as a user meets them.
CHECKS += lab/cli:sh@tests/lab/cli.sh@$(O)/ringer
