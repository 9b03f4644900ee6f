/*
 * The PC machine: the only owner of addresses and interrupt numbers. An explicit
 * list of devices; only what is listed here exists.
 */
#ifndef BOARD_PC_H
#define BOARD_PC_H

#include "boot/acpi.h"
#include "boot/boot.h"
#include "dev/virtio/virtio_rng.h"
#include "ringer/vm.h"

#define PC_MAX_DISKS 16

struct pc_config {
    /* Character back ends; write == NULL: the device is not there (the serial port always is, its output then vanishes). */
    struct chardev serial, debugcon, virtio_console;
    const struct blockdev *disk[PC_MAX_DISKS];
    unsigned ndisk;
    bool hpet, pc_testdev;
    bool hypercalls; /* ringer/hypercall.h; its console is the serial port's back end */
    bool fw_signature; /* tell test guests that the processor below is QEMU's TCG */
    uint16_t debug_exit_port; /* 0: none */
    struct entropy entropy; /* of the virtio entropy device */
    /* Defer work of block devices to a thread of its own. */
    void (*defer)(void *ctx, void (*fn)(void *), void *arg);
    void *defer_ctx;
    /* Where virtio notifications are taken when the engine can send them there; its thread starts after pc_new and ends before
     * pc_free. NULL: on the vCPUs. */
    struct host_loop *loop;
    /* What to boot. The bytes it points to must stay until pc_free: a reset loads them again. */
    struct boot_spec boot;
};

struct pc;

/* Build the machine on vm (created by vm_new, vCPUs not yet): CPUID policy, vCPUs, devices, map, firmware tables, boot image.
 * NULL with one line in err. *usage: the error is the user's (bad image), not ours. */
struct pc *pc_new(struct vm *vm, const struct pc_config *cfg, bool *usage, char *err, size_t errcap);
/* Input of the serial port / the virtio console. */
struct chardev_sink pc_serial_sink(struct pc *pc);
struct chardev_sink pc_virtio_console_sink(struct pc *pc);
/* Press the power button (ACPI). Takes the device lock. */
void pc_power_button(struct pc *pc);
/* After the vCPU threads have ended. Frees the devices, not vm. */
void pc_free(struct pc *pc);

#endif
