/*
 * A small encoder for ACPI machine language (ACPI 6.4, chapter 20) and resource
 * descriptors (6.4). Terms are appended; anything with a PkgLength is opened
 * and closed. Running out of room sets `full` and drops the rest.
 */
#ifndef BOOT_AML_H
#define BOOT_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
    uint8_t *buf;
    size_t len, cap;
    bool full;
};

void aml_bytes(struct aml *a, const void *p, size_t n);
void aml_u8(struct aml *a, uint8_t v);
void aml_u16(struct aml *a, uint16_t v);
void aml_u32(struct aml *a, uint32_t v);
void aml_u64(struct aml *a, uint64_t v);

/* Names: up to four characters per segment, padded with '_'; "\\_SB" style roots and dots allowed. */
void aml_name_string(struct aml *a, const char *path);
void aml_integer(struct aml *a, uint64_t v); /* the shortest form */
void aml_string(struct aml *a, const char *s);
void aml_eisa_id(struct aml *a, const char *id); /* "PNP0A08" */

/* Name(path, ...): the object follows. */
void aml_name(struct aml *a, const char *path);
void aml_name_integer(struct aml *a, const char *path, uint64_t v);

/* Each returns a mark for aml_close. */
size_t aml_scope(struct aml *a, const char *path);
size_t aml_device(struct aml *a, const char *name);
size_t aml_package(struct aml *a, uint8_t elements);
void aml_close(struct aml *a, size_t mark);

/* ResourceTemplate(): a buffer of descriptors, with its end tag and size filled in at the end. */
struct aml_resources {
    size_t pkg, size_at, start;
};
struct aml_resources aml_resources_begin(struct aml *a);
void aml_resources_end(struct aml *a, struct aml_resources r);
void aml_io(struct aml *a, uint16_t port, uint8_t len);
void aml_irq(struct aml *a, uint8_t irq); /* edge, active high */
void aml_memory32_fixed(struct aml *a, uint32_t base, uint32_t len);
/* Windows of a bridge. */
void aml_bus_window(struct aml *a, uint16_t first, uint16_t last);
void aml_io_window(struct aml *a, uint16_t first, uint16_t last);
void aml_memory32_window(struct aml *a, uint32_t first, uint32_t last);
void aml_memory64_window(struct aml *a, uint64_t first, uint64_t last);

#endif
