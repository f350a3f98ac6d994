/* SPDX-License-Identifier: Apache-2.0 */
/* The conversation with the resource manager: one client per process, begun in the order in which libcuda begins it. */
#include "rm_abi.h"
#include "sim.h"
#include "transport.h"

#include <string.h>
#include <sys/ioctl.h>

#define FIRST_HANDLE 0x5c000001u /* libcuda chooses its objects' handles itself, in this range */

static int control = -1;
static uint32_t client, next_handle = FIRST_HANDLE;

static CUresult result_of(uint32_t status) {
    if (status == RM_OK)
        return CUDA_SUCCESS;
    return status == RM_ERR_NO_MEMORY ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_UNKNOWN;
}

static CUresult allocate(uint32_t parent, uint32_t class_id, void *parameters, uint32_t size, uint32_t *handle) {
    struct rm_alloc alloc = {.client = client,
                             .parent = parent,
                             .object = *handle,
                             .class_id = class_id,
                             .parameters = (uint64_t)(uintptr_t)parameters,
                             .parameters_size = size};

    if (ioctl(control, _IOWR(RM_IOCTL_LETTER, RM_ESC_ALLOC, struct rm_alloc), &alloc) != 0)
        return CUDA_ERROR_OPERATING_SYSTEM;
    *handle = alloc.object;
    return result_of(alloc.status);
}

static CUresult ask(uint32_t command, void *parameters, uint32_t size) {
    struct rm_control block = {.client = client,
                               .object = client,
                               .command = command,
                               .parameters = (uint64_t)(uintptr_t)parameters,
                               .parameters_size = size};

    if (ioctl(control, _IOWR(RM_IOCTL_LETTER, RM_ESC_CONTROL, struct rm_control), &block) != 0)
        return CUDA_ERROR_OPERATING_SYSTEM;
    return result_of(block.status);
}

CUresult rm_start(void) {
    control = transport_open();
    if (control < 0)
        return CUDA_ERROR_NO_DEVICE;
    return allocate(0, RM_CLASS_ROOT_CLIENT, NULL, 0, &client);
}

/* Asks for every GPU's identity, as libcuda does at start, and picks the instance of the one at this address. */
CUresult rm_device_instance(uint32_t domain, uint32_t bus, uint32_t slot, uint32_t *instance) {
    uint32_t ids[RM_GPU_IDS_MAX * 2];
    CUresult result = ask(RM_CMD_GPU_GET_PROBED_IDS, ids, sizeof(ids));

    for (unsigned i = 0; result == CUDA_SUCCESS && i < RM_GPU_IDS_MAX && ids[i] != RM_GPU_ID_NONE; i++) {
        struct rm_gpu_pci_info pci = {.gpu_id = ids[i]};
        union {
            struct rm_gpu_id_info info;
            uint64_t space[RM_GPU_ID_INFO_SIZE / 8];
        } old = {.info.gpu_id = ids[i]}, id = old;

        result = ask(RM_CMD_GPU_GET_ID_INFO, &old, RM_GPU_ID_INFO_SIZE);
        if (result == CUDA_SUCCESS)
            result = ask(RM_CMD_GPU_GET_ID_INFO_V2, &id, RM_GPU_ID_INFO_V2_SIZE);
        if (result == CUDA_SUCCESS)
            result = ask(RM_CMD_GPU_GET_PCI_INFO, &pci, sizeof(pci));
        if (result == CUDA_SUCCESS && pci.domain == domain && pci.bus == bus && pci.slot == slot) {
            *instance = id.info.device_instance;
            return CUDA_SUCCESS;
        }
    }
    return result == CUDA_SUCCESS ? CUDA_ERROR_NO_DEVICE : result;
}

CUresult rm_device_create(uint32_t instance, uint32_t *handle) {
    uint32_t parameters[14] = {instance}; /* NV0080_ALLOC_PARAMETERS is 56 bytes; the instance comes first */
    uint32_t subdevice = next_handle + 1, unused[1] = {0};
    CUresult result;

    *handle = next_handle;
    next_handle += 2;
    result = allocate(client, RM_CLASS_DEVICE, parameters, sizeof(parameters), handle);
    if (result == CUDA_SUCCESS)
        result = allocate(*handle, RM_CLASS_SUBDEVICE, unused, sizeof(unused), &subdevice);
    return result;
}

CUresult rm_memory_create(uint32_t device_handle, uint64_t size_bytes, uint32_t *handle) {
    struct rm_memory_parameters parameters;
    CUresult result;

    memset(&parameters, 0, sizeof(parameters));
    parameters.size_bytes = size_bytes;
    parameters.alignment = GRANULE_BYTES;
    *handle = next_handle++;
    result = allocate(device_handle, RM_CLASS_MEMORY_LOCAL, &parameters, sizeof(parameters), handle);
    if (result != CUDA_SUCCESS)
        *handle = 0;
    return result;
}

CUresult rm_memory_duplicate(uint32_t device_handle, uint32_t source_client, uint32_t source_object, uint32_t *handle) {
    struct rm_dup_object block = {.client = client,
                                  .parent = device_handle,
                                  .object = next_handle,
                                  .source_client = source_client,
                                  .source_object = source_object};

    *handle = next_handle++;
    if (ioctl(control, _IOWR(RM_IOCTL_LETTER, RM_ESC_DUP_OBJECT, struct rm_dup_object), &block) != 0)
        return CUDA_ERROR_OPERATING_SYSTEM;
    return block.status == RM_ERR_OBJECT_NOT_FOUND ? CUDA_ERROR_INVALID_VALUE : result_of(block.status);
}

uint32_t rm_client(void) {
    return client;
}

void rm_object_free(uint32_t parent, uint32_t handle) {
    struct rm_free block = {.client = client, .parent = parent, .object = handle};

    /* Fails only when the server has gone, and then there is nothing left to free. */
    (void)ioctl(control, _IOWR(RM_IOCTL_LETTER, RM_ESC_FREE, struct rm_free), &block);
}

CUresult rm_stats(uint32_t sim_index, struct sim_stats *out) {
    return transport_stats(control, sim_index, 0, out) == 0 ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}
