/* SPDX-License-Identifier: Apache-2.0 */
/* The devices that the server plays: what they are and how much of them is taken. */
#ifndef CONVGPU_SIM_RM_DEVICE_H
#define CONVGPU_SIM_RM_DEVICE_H

#include "sim_abi.h"

#include <stdbool.h>
#include <stdint.h>

#define DEVICE_NONE (-1)

struct device {
    uint32_t instance;
    uint32_t gpu_id;
    uint32_t pci_domain;
    uint32_t pci_bus;
    uint32_t pci_device;
    uint64_t total_bytes;
    uint64_t used_bytes;
    uint64_t context_bytes;
    uint8_t uuid[16];
    char name[SIM_NAME_BYTES];
};

/* Makes `count` devices, each with the same memory, default UUIDs and PCI addresses. */
void devices_setup(unsigned count, uint64_t total_bytes, uint64_t context_bytes);

/* Replace the defaults of one device; false: the text is not a UUID ("GPU-..."), not a PCI address, or already used. */
bool device_set_uuid(unsigned index, const char *text);
bool device_set_pci(unsigned index, const char *text);

unsigned devices_count(void);
struct device *device_at(int index);
int device_index_of_instance(uint32_t instance); /* DEVICE_NONE: no such device; so below */
int device_index_of_gpu_id(uint32_t gpu_id);

/* Takes memory; false: not so much is left. */
bool device_take(int index, uint64_t size_bytes);
void device_give(int index, uint64_t size_bytes);

/* Writes "GPU-xxxxxxxx-..." with its end, 41 bytes. */
void device_uuid_text(const struct device *device, char text[41]);

#endif
