/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linear memory. Above 1 MiB an allocation is a video-memory object of its own, rounded up to 2 MiB; up to 1 MiB it is
 * cut out of a shared chunk (chunk.c). Both were measured: 1000 x 1025 KiB take 2000 MiB, 1000 x 64 KiB take 64 MiB.
 */
#include "sim.h"

#include <stdlib.h>

#define SHARED_MAX_BYTES (1024ull * 1024)
#define PITCH_BYTES 512ull /* measured: 1 Mi rows of 1 B take 512 MiB */

struct block *block_adopt(CUcontext context, enum block_kind kind, uint64_t size_bytes, uint32_t handle,
                          CUresult *result) {
    const bool accessible = kind == BLOCK_MANAGED || kind == BLOCK_HOST;
    struct block *block = calloc(1, sizeof(*block));

    *result = CUDA_SUCCESS;
    if (block) {
        block->base = address_reserve(size_bytes, GRANULE_BYTES, accessible);
        block->size_bytes = size_bytes;
        block->requested_bytes = size_bytes;
        block->handle = handle;
        block->kind = kind;
        block->context = context;
        block->device = context->device;
    }
    if (block && block->base && block_enter(block))
        return block;
    *result = CUDA_ERROR_OUT_OF_MEMORY;
    if (block && block->base)
        address_release(block->base, size_bytes);
    if (handle)
        rm_object_free(device_of(context->device)->handle, handle);
    free(block);
    return NULL;
}

struct block *block_create(CUcontext context, uint64_t asked_bytes, CUresult *result) {
    uint32_t handle;

    *result = rm_memory_create(device_of(context->device)->handle, asked_bytes, &handle);
    return *result == CUDA_SUCCESS ? block_adopt(context, BLOCK_LINEAR, granules(asked_bytes), handle, result) : NULL;
}

void block_destroy(struct block *block) {
    CUcontext context = block->context;

    block_unlink(block->chunk ? &context->chunks : &context->blocks, block);
    block_leave(block);
    if (block->handle)
        rm_object_free(device_of(context->device)->handle, block->handle);
    address_release(block->base, block->size_bytes);
    if (block->kind == BLOCK_IPC)
        free(block->owner);
    free(block->chunk);
    free(block);
}

void memory_release_context(CUcontext context) {
    while (context->blocks)
        block_destroy(context->blocks);
    while (context->chunks)
        block_destroy(context->chunks);
}

static CUresult allocate_block(CUcontext context, uint64_t size_bytes, CUdeviceptr *pointer) {
    struct block *block;
    CUresult result;

    if (granules(size_bytes) == UINT64_MAX)
        return CUDA_ERROR_OUT_OF_MEMORY;
    /* Measured: below a granule libcuda asks for one, above it for the very size, which the driver rounds up. */
    block = block_create(context, size_bytes < GRANULE_BYTES ? GRANULE_BYTES : size_bytes, &result);
    if (!block)
        return result;
    block->requested_bytes = size_bytes;
    block_link(&context->blocks, block);
    *pointer = block->base;
    return CUDA_SUCCESS;
}

static CUresult allocate(CUcontext context, uint64_t size_bytes, CUdeviceptr *pointer) {
    CUresult result = capture_check();

    if (result != CUDA_SUCCESS)
        return result;
    return size_bytes <= SHARED_MAX_BYTES ? chunk_allocate(context, size_bytes, pointer)
                                          : allocate_block(context, size_bytes, pointer);
}

SIM_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize) {
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    if (result == CUDA_SUCCESS && (!dptr || bytesize == 0))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = allocate(context, bytesize, dptr);
    LEAVE(result);
}

SIM_EXPORT CUresult cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height,
                                       unsigned int ElementSizeBytes) {
    const bool element_known = ElementSizeBytes == 4 || ElementSizeBytes == 8 || ElementSizeBytes == 16;
    const size_t pitch = (WidthInBytes + PITCH_BYTES - 1) / PITCH_BYTES * PITCH_BYTES;
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    if (result == CUDA_SUCCESS && (!dptr || !pPitch || !WidthInBytes || !Height || !element_known))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS && (pitch < WidthInBytes || Height > SIZE_MAX / pitch))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result == CUDA_SUCCESS)
        result = allocate(context, pitch * Height, dptr);
    if (result == CUDA_SUCCESS)
        *pPitch = pitch;
    LEAVE(result);
}

CUresult memory_free(struct block *block, CUdeviceptr pointer) {
    if (block->chunk)
        return chunk_free(block, pointer) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    if (block->base != pointer)
        return CUDA_ERROR_INVALID_VALUE;
    switch (block->kind) {
    case BLOCK_LINEAR:
    case BLOCK_MANAGED:
        block_destroy(block);
        return CUDA_SUCCESS;
    case BLOCK_POOL:
        pool_free(block);
        return CUDA_SUCCESS;
    case BLOCK_GRAPH:
        if (!graph_memory_backed(block->owner))
            return CUDA_ERROR_INVALID_VALUE;
        graph_memory_unback(block->owner);
        return CUDA_SUCCESS;
    default: /* has a call of its own: cuMemFreeHost, cuMemUnmap, cuIpcCloseMemHandle */
        return CUDA_ERROR_INVALID_VALUE;
    }
}

SIM_EXPORT CUresult cuMemFree_v2(CUdeviceptr dptr) {
    CUcontext current;
    struct block *block;
    CUresult result;

    ENTER();
    if (dptr == 0)
        LEAVE(CUDA_SUCCESS);
    if (current_usable(&current) == CUDA_ERROR_CONTEXT_IS_DESTROYED)
        LEAVE(CUDA_ERROR_CONTEXT_IS_DESTROYED);
    block = block_find(dptr); /* of whatever context: addresses are unique */
    if (!block)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    result = capture_check();
    LEAVE(result == CUDA_SUCCESS ? memory_free(block, dptr) : result);
}
