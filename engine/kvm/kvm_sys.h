/* The operating-system calls of engine kvm, all of them. Results are 0 or more, or -errno. */
#ifndef ENGINE_KVM_SYS_H
#define ENGINE_KVM_SYS_H

#include <stddef.h>
#include <stdint.h>

int kvm_sys_open(const char *path);
void kvm_sys_close(int fd);
long kvm_sys_ioctl(int fd, unsigned long request, const void *arg);
long kvm_sys_ioctl_val(int fd, unsigned long request, unsigned long val);
void *kvm_sys_map(int fd, size_t size); /* a vCPU's shared pages; NULL on failure */
void *kvm_sys_memory(size_t size);      /* zeroed, private; NULL on failure */
void kvm_sys_unmap(void *p, size_t size);

/* Kicks: a signal that only interrupts. init: once before the first kick; kick is async-signal-safe. */
int kvm_sys_kick_init(void);
int kvm_sys_thread(void); /* the calling thread, ready to be kicked */
void kvm_sys_kick(int thread);

/* Run fn(shared) in a process of its own for at most ms milliseconds; shared: size zeroed bytes that both see. Returns
 * 0 if fn returned, 1 if it had to be ended, -errno if it could not be started; *shared holds what fn wrote and is
 * freed with kvm_sys_unmap. fn makes system calls only. */
int kvm_sys_trial(void (*fn)(void *shared, const void *arg), const void *arg, void **shared, size_t size, unsigned ms);

#endif
