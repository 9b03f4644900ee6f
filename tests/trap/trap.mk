# Engines trap and patch: the teaching kernel right and wrong as the theory says, and the 32-bit guests of tests/guest.
# TEACH_RUN(name, right or wrong, image, engine and options)
TEACH_RUN = teach/$3/$1:sh@tests/trap/teach.sh@$(O)/ringer@$2@$(T)/teach$3.elf@--engine@$4
TEACH_ALL = $(call TEACH_RUN,interp,right,$1,interp) $(call TEACH_RUN,translate,right,$1,translate) $(call TEACH_RUN,lazy,right,$1,trap@--patch=lazy) \
            $(call TEACH_RUN,patch,right,$1,patch) $(call TEACH_RUN,lazy-direct,right,$1,trap@--patch=lazy@--direct=always) \
            $(call TEACH_RUN,patch-direct,right,$1,patch@--direct=always)
CHECKS += $(foreach i,32 64 32-adapted 64-adapted,$(call TEACH_ALL,$i)) $(call TEACH_RUN,trap,wrong,32,trap) $(call TEACH_RUN,trap,wrong,64,trap) \
          $(call TEACH_RUN,trap,right,32-adapted,trap) $(call TEACH_RUN,trap,right,64-adapted,trap) \
          $(foreach i,32 64,teach/$i/qemu:sh@tests/trap/teach.sh@qemu@right@$(T)/teach$i.elf)
CHECKS += $(foreach i,32 64,teach/report/$i:sh@tests/trap/report.sh@$(O)/ringer@$(T)/teach$i.elf teach/kill/$i:sh@tests/trap/kill.sh@$(O)/ringer@$(T)/teach$i.elf)
CHECKS += $(foreach g,seg_32 v86_32 task_32 paging_32 windows_32 smc,guest/patch/$g:sh@tests/trap/guest.sh@$(O)/ringer@patch@$(G)/$g.elf)
CHECKS += $(foreach g,seg_32 v86_32 task_32 paging_32 windows_32 smc debug exc fpu modes paging string user user_mem,guest/patch-direct/$g:env@RINGER_ARGS=--direct=always@sh@tests/trap/guest.sh@$(O)/ringer@patch@$(G)/$g.elf)
CHECKS += $(foreach g,addresses apic debug exc fpu modes paging pci string time user virtio,guest/patch/$g:sh@tests/trap/guest.sh@$(O)/ringer@patch@$(G)/$g.elf)
# Nothing they do is sensitive and unprivileged in a way that matters, so they are right even when nothing is replaced.
CHECKS += $(foreach g,smc pci,guest/trap/$g:sh@tests/trap/guest.sh@$(O)/ringer@trap@$(G)/$g.elf)
CHECKS_FULL += $(foreach g,$(basename $(notdir $(filter-out %/smp.elf %/hostile.elf,$(GUEST_C) $(GUEST_C32)))),guest/lazy-direct/$g:env@RINGER_ARGS=--direct=always@sh@tests/trap/guest.sh@$(O)/ringer@lazy@$(G)/$g.elf)
CHECKS_FULL += boot/patch/work32:sh@tests/trap/boot.sh@$(O)/ringer@patch boot/lazy/work32:sh@tests/trap/boot.sh@$(O)/ringer@trap@--patch=lazy
CHECK_DEPS += teach
