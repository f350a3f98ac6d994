/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which slot of the credit page a device is. Three parties count devices, each in its own way: the program (ordinals,
 * after CUDA_VISIBLE_DEVICES), the resource manager (instances) and NVML (indices). What they share is the UUID, and
 * below the driver the PCI address.
 */
#ifndef CVG_DEVICE_H
#define CVG_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "driver.h"
#include "thread.h"

/* For the hook of a driver call; CVG_SLOT_NONE if the page has no such device or none is current. */
uint32_t device_slot(CUdevice device);
uint32_t device_slot_current(void);

enum device_lookup {
    DEVICE_FOUND,
    DEVICE_UNGUARDED, /* known, and the page has no slot for it: not ours to count */
    DEVICE_UNKNOWN    /* this process never asked the resource manager which device that is */
};

/* For the boundary: a resource-manager device instance; `known` tells whether the object's ancestry gave one. */
enum device_lookup device_slot_of_instance(bool known, uint32_t instance, uint32_t *slot);

/* What the driver's own questions to the resource manager reveal. */
void device_learn_instance(uint32_t instance, uint32_t gpu_id);
void device_learn_pci(uint32_t gpu_id, uint32_t domain, uint32_t bus, uint32_t device);

void device_forget_all(void);

#endif
