/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's side of a credit page, exported by libconvgpu-page.so. Python calls it through cffi, which reads this
 * header after convgpu_abi.h: plain declarations only, preprocessor lines are skipped by the reader.
 *
 * Why a library: Python has no 64-bit compare-and-swap on mapped memory, and the wrapper works on the same words at
 * the same moment. Every function is lock-free, never allocates and never fails; `device` is a slot below
 * CVG_DEVICES_MAX, and a slot out of range does nothing and returns 0.
 */
#ifndef CONVGPU_PAGE_H
#define CONVGPU_PAGE_H

#include <stdint.h>

#include "convgpu_abi.h"

/* Clears the page and makes it that of one process. Only before its descriptor is sent to anybody. */
void cvg_page_init(struct cvg_page *page, uint64_t instance, int32_t pid, uint64_t start_ticks);

/*
 * Fills the next free slot: a 16-byte UUID, the PCI address as NVML gives it. Returns the slot, or CVG_DEVICES_MAX if
 * all are taken. Only before the descriptor is sent: the wrapper reads these fields without synchronisation.
 */
uint32_t cvg_page_add_device(struct cvg_page *page, const uint8_t *uuid, uint32_t pci_domain, uint32_t pci_bus,
                             uint32_t pci_device, uint32_t nvml_index);

/* The limit is for display in the process (cuMemGetInfo while the daemon is away); may change at any time. */
void cvg_page_set_limit(struct cvg_page *page, uint32_t device, uint64_t limit_bytes);

/* What a context costs on this device, as measured by some process before; 0: not known. */
void cvg_page_set_context_hint(struct cvg_page *page, uint32_t device, uint64_t size_bytes);

/*
 * Before CVG_GRANTED is sent: the bytes become the asker's. They are not added to credit, the asker books them as
 * reserved when the message arrives. Returns granted_bytes after it. Undone by cvg_page_ungrant if the message could
 * not be sent.
 */
uint64_t cvg_page_grant(struct cvg_page *page, uint32_t device, uint64_t size_bytes);

/* Takes back a grant whose message nobody received. Returns granted_bytes after it. */
uint64_t cvg_page_ungrant(struct cvg_page *page, uint32_t device, uint64_t size_bytes);

/* Takes back all idle credit. Returns the bytes taken, by which granted_bytes has shrunk. */
uint64_t cvg_page_reclaim(struct cvg_page *page, uint32_t device);

/* Not 0: the process announces each of its frees. Set it before reclaiming, so that no free falls in between. */
void cvg_page_set_wanted(struct cvg_page *page, uint32_t wanted);

/* Not 0: when the daemon is away, the process takes memory without asking rather than wait for it to come back. */
void cvg_page_set_fail_open(struct cvg_page *page, uint32_t fail_open);

/* Overwrites granted_bytes: for a restarted daemon that heals the account of a grant which was lost on the way. */
void cvg_page_set_granted(struct cvg_page *page, uint32_t device, uint64_t size_bytes);

/*
 * Copies one account. The process moves bytes between credit, reserved and used while this reads, so it reads until
 * two copies agree (at most 64 times). Returns 1 if they did, 0 if the copy is only field by field exact.
 */
int cvg_page_read(const struct cvg_page *page, uint32_t device, struct cvg_device_account *out);

#endif
