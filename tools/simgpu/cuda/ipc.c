/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of another process: its handle names the owner's object, and opening it duplicates that object. Measured: the
 * opener is charged nothing, by NVML and at the boundary alike; the owner keeps the whole charge. When the owner frees
 * it or ends, the memory is the opener's, and NVML charges it.
 */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#define HANDLE_MAGIC 0x49504331u /* "IPC1" */

/* What the 64 bytes of a handle are here. */
struct shared {
    uint32_t magic;
    uint32_t client;
    uint32_t object;
    uint32_t padding;
    uint64_t size_bytes;
    uint64_t offset_bytes;
    uint8_t uuid[16];
};

_Static_assert(sizeof(struct shared) <= CU_IPC_HANDLE_SIZE, "fits a handle");

/* Behind a block that was opened. */
struct opening {
    uint32_t client;
    uint32_t object;
    unsigned references;
};

SIM_EXPORT CUresult cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr) {
    struct shared shared = {.magic = HANDLE_MAGIC};
    const struct block *block;
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    block = block_find(dptr);
    if (!pHandle || !block || block->kind != BLOCK_LINEAR)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    shared.client = rm_client();
    shared.object = block->handle;
    shared.size_bytes = block->size_bytes;
    shared.offset_bytes = dptr - block->base;
    memcpy(shared.uuid, device_of(block->device)->uuid, sizeof(shared.uuid));
    memset(pHandle, 0, sizeof(*pHandle));
    memcpy(pHandle->reserved, &shared, sizeof(shared));
    LEAVE(CUDA_SUCCESS);
}

/* The memory, if this context opened it before: then its address is given out again and counted. */
static struct block *opened_before(CUcontext context, const struct shared *shared) {
    for (struct block *block = context->blocks; block; block = block->next) {
        const struct opening *opening = block->owner;

        if (block->kind == BLOCK_IPC && opening->client == shared->client && opening->object == shared->object)
            return block;
    }
    return NULL;
}

static struct block *open_shared(CUcontext context, const struct shared *shared, CUresult *result) {
    const struct visible_device *device = device_of(context->device);
    struct opening *opening = calloc(1, sizeof(*opening));
    struct block *block = NULL;
    uint32_t handle;

    if (!opening) {
        *result = CUDA_ERROR_OUT_OF_MEMORY;
        return NULL;
    }
    *result = rm_memory_duplicate(device->handle, shared->client, shared->object, &handle);
    if (*result == CUDA_SUCCESS)
        block = block_adopt(context, BLOCK_IPC, shared->size_bytes, handle, result);
    if (!block) {
        free(opening);
        return NULL;
    }
    opening->client = shared->client;
    opening->object = shared->object;
    block->owner = opening;
    block_link(&context->blocks, block);
    return block;
}

static CUresult open_handle(CUdeviceptr *pdptr, const CUipcMemHandle *handle, unsigned flags) {
    struct shared shared;
    struct block *block;
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    memcpy(&shared, handle->reserved, sizeof(shared));
    if (result == CUDA_SUCCESS &&
        (!pdptr || flags > CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS || shared.magic != HANDLE_MAGIC))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS && memcmp(shared.uuid, device_of(context->device)->uuid, sizeof(shared.uuid)) != 0)
        result = CUDA_ERROR_NOT_SUPPORTED; /* of another device: peer access is not simulated */
    if (result == CUDA_SUCCESS && shared.client == rm_client())
        result = CUDA_ERROR_INVALID_CONTEXT; /* the owner has it already */
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    block = opened_before(context, &shared);
    if (!block)
        block = open_shared(context, &shared, &result);
    if (block) {
        ((struct opening *)block->owner)->references++;
        *pdptr = block->base + shared.offset_bytes;
    }
    LEAVE(result);
}

SIM_EXPORT CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags) {
    return open_handle(pdptr, &handle, Flags);
}

#undef cuIpcOpenMemHandle
SIM_EXPORT CUresult cuIpcOpenMemHandle(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags);
SIM_EXPORT CUresult cuIpcOpenMemHandle(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags) {
    return open_handle(pdptr, &handle, Flags);
}

SIM_EXPORT CUresult cuIpcCloseMemHandle(CUdeviceptr dptr) {
    struct opening *opening;
    struct block *block;

    ENTER();
    block = block_find(dptr);
    if (!block || block->kind != BLOCK_IPC)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    opening = block->owner;
    if (--opening->references == 0)
        block_destroy(block);
    LEAVE(CUDA_SUCCESS);
}
