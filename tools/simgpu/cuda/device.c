/* SPDX-License-Identifier: Apache-2.0 */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

static struct visible_device devices[SIM_GPUS_MAX];
static unsigned device_count;

static CUresult read_all(struct visible_device *all, unsigned *count) {
    struct sim_stats stats;

    *count = 1;
    for (unsigned i = 0; i < *count; i++) {
        CUresult result = rm_stats(i, &stats);

        if (result != CUDA_SUCCESS)
            return result;
        *count = stats.gpu_count < SIM_GPUS_MAX ? stats.gpu_count : SIM_GPUS_MAX;
        all[i].sim_index = i;
        all[i].total_bytes = stats.total_bytes;
        all[i].context_bytes = stats.context_bytes;
        all[i].pci_domain = stats.pci_domain;
        all[i].pci_bus = stats.pci_bus;
        all[i].pci_device = stats.pci_device;
        memcpy(all[i].uuid, stats.uuid, sizeof(stats.uuid));
        memcpy(all[i].name, stats.name, sizeof(stats.name));
    }
    return CUDA_SUCCESS;
}

CUresult devices_start(void) {
    struct visible_device all[SIM_GPUS_MAX];
    unsigned count, chosen[SIM_GPUS_MAX];
    CUresult result = read_all(all, &count);

    memset(devices, 0, sizeof(devices));
    device_count = 0;
    if (result == CUDA_SUCCESS)
        result = visible_choose(getenv("CUDA_VISIBLE_DEVICES"), all, count, chosen, &device_count);
    if (result == CUDA_SUCCESS && device_count == 0)
        return CUDA_ERROR_NO_DEVICE;
    for (unsigned i = 0; result == CUDA_SUCCESS && i < device_count; i++) {
        struct visible_device *device = &devices[i];

        *device = all[chosen[i]];
        result = rm_device_instance(device->pci_domain, device->pci_bus, device->pci_device, &device->instance);
        if (result == CUDA_SUCCESS)
            result = rm_device_create(device->instance, &device->handle);
    }
    return result;
}

const struct visible_device *device_of(CUdevice ordinal) {
    return ordinal >= 0 && (unsigned)ordinal < device_count ? &devices[ordinal] : NULL;
}

SIM_EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    ENTER();
    if (!device)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (!device_of(ordinal))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    *device = ordinal;
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuDeviceGetCount(int *count) {
    ENTER();
    if (!count)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    *count = (int)device_count;
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuDeviceGetName(char *name, int len, CUdevice dev) {
    const struct visible_device *device;

    ENTER();
    if (!name || len <= 0)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    device = device_of(dev);
    if (!device)
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    strncpy(name, device->name, (size_t)len);
    name[len - 1] = '\0';
    LEAVE(CUDA_SUCCESS);
}

static CUresult get_uuid(CUuuid *uuid, CUdevice dev) {
    ENTER();
    if (!uuid)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (!device_of(dev))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    memcpy(uuid->bytes, device_of(dev)->uuid, sizeof(uuid->bytes));
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev) {
    return get_uuid(uuid, dev);
}

#undef cuDeviceGetUuid
SIM_EXPORT CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice dev);
SIM_EXPORT CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice dev) {
    return get_uuid(uuid, dev);
}

SIM_EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev) {
    ENTER();
    if (!bytes)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (!device_of(dev))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    *bytes = device_of(dev)->total_bytes;
    LEAVE(CUDA_SUCCESS);
}

#define ATTRIBUTES_END 150 /* CUDA 13.0 knows attributes below this number */

/* What is not listed here is 0: "no" for a capability. Figures that programs size their work by are an H200's. */
static int attribute_of(const struct visible_device *device, CUdevice_attribute attribute) {
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        return 1024;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
        return 32;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        return MULTIPROCESSORS;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
        return THREADS_PER_MULTIPROCESSOR;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
        return 512; /* the pitch of cuMemAllocPitch */
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
        return 1;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        return 9;
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID:
        return (int)device->pci_domain;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
        return (int)device->pci_bus;
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID:
        return (int)device->pci_device;
    default:
        return 0;
    }
}

SIM_EXPORT CUresult cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev) {
    ENTER();
    if (!pi || (int)attrib <= 0 || (int)attrib >= ATTRIBUTES_END)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (!device_of(dev))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    *pi = attribute_of(device_of(dev), attrib);
    LEAVE(CUDA_SUCCESS);
}
