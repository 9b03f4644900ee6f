# Engines trap and patch: the teaching kernel right and wrong as the theory says, and the 32-bit guests of tests/guest.
TEACH_RUN = teach/$1:sh@tests/trap/teach.sh@$(O)/ringer@$2@$(T)/teach32.elf@--engine@$3
CHECKS += $(call TEACH_RUN,interp,right,interp) $(call TEACH_RUN,trap,wrong,trap) $(call TEACH_RUN,lazy,right,trap@--patch=lazy) \
          $(call TEACH_RUN,patch,right,patch) teach/report:sh@tests/trap/report.sh@$(O)/ringer@$(T)/teach32.elf teach/kill:sh@tests/trap/kill.sh@$(O)/ringer@$(T)/teach32.elf
CHECKS += $(foreach g,seg_32 v86_32 task_32 paging_32 smc,guest/patch/$g:sh@tests/trap/guest.sh@$(O)/ringer@patch@$(G)/$g.elf)
CHECK_DEPS += $(T)/teach32.elf
