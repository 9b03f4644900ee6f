/* Names of KVM's exit reasons. */
#ifndef ENGINE_KVM_TEXT_H
#define ENGINE_KVM_TEXT_H

#include <stddef.h>
#include <stdint.h>

#define KVM_NREASONS 48

/* "exit-io" and the like; NULL for a reason without a name. Static. */
const char *kvm_reason_name(uint32_t reason);
/* One line for an exit that ends a guest. detail: suberror or hardware reason. */
void kvm_exit_text(uint32_t reason, uint64_t detail, char *text, size_t cap);

#endif
