/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linear memory. Above 1 MiB an allocation is a video-memory object of its own, rounded up to 2 MiB; up to 1 MiB it is
 * cut out of a shared chunk (chunk.c). Both were measured: 1000 x 1025 KiB take 2000 MiB, 1000 x 64 KiB take 64 MiB.
 *
 * Addresses are reserved in the process itself, without access: they collide with nothing, as under unified addressing,
 * and whoever touches simulated memory is told by a fault.
 */
#define _GNU_SOURCE

#include "sim.h"

#include <search.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SHARED_MAX_BYTES (1024ull * 1024)

static void *tree; /* of all blocks, by address */

/* Overlapping ranges compare equal, so that a one-byte key finds the block that it lies in. */
static int compare(const void *left, const void *right) {
    const struct block *a = left, *b = right;

    if (a->base + a->size_bytes <= b->base)
        return -1;
    return b->base + b->size_bytes <= a->base;
}

struct block *block_find(CUdeviceptr pointer) {
    struct block key = {.base = pointer, .size_bytes = 1};
    struct block **found = tfind(&key, &tree, compare);

    return found ? *found : NULL;
}

static CUdeviceptr reserve(uint64_t size_bytes) {
    uint64_t all_bytes = size_bytes + GRANULE_BYTES;
    char *all = all_bytes < size_bytes
                    ? MAP_FAILED
                    : mmap(NULL, all_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *aligned;

    if (all == MAP_FAILED)
        return 0;
    aligned = (char *)(((uintptr_t)all + GRANULE_BYTES - 1) / GRANULE_BYTES * GRANULE_BYTES);
    if (aligned > all)
        munmap(all, (size_t)(aligned - all));
    munmap(aligned + size_bytes, (size_t)(all + all_bytes - (aligned + size_bytes)));
    return (CUdeviceptr)(uintptr_t)aligned;
}

static void unreserve(CUdeviceptr base, uint64_t size_bytes) {
    munmap((void *)(uintptr_t)base, size_bytes);
}

/* Asks for this many bytes and has whole granules. The caller enters the block into a list of its context. */
struct block *block_create(CUcontext context, uint64_t asked_bytes, CUresult *result) {
    const uint64_t size_bytes = (asked_bytes + GRANULE_BYTES - 1) / GRANULE_BYTES * GRANULE_BYTES;
    const uint32_t device_handle = device_of(context->device)->handle;
    struct block *block = calloc(1, sizeof(*block));

    *result = block ? rm_memory_create(device_handle, asked_bytes, &block->handle) : CUDA_ERROR_OUT_OF_MEMORY;
    if (*result != CUDA_SUCCESS) {
        free(block);
        return NULL;
    }
    block->base = reserve(size_bytes);
    block->size_bytes = size_bytes;
    block->context = context;
    if (!block->base || !tsearch(block, &tree, compare)) {
        rm_object_free(device_handle, block->handle);
        if (block->base)
            unreserve(block->base, size_bytes);
        free(block);
        *result = CUDA_ERROR_OUT_OF_MEMORY;
        return NULL;
    }
    return block;
}

void block_destroy(struct block *block) {
    CUcontext context = block->context;
    struct block **first = block->chunk ? &context->chunks : &context->blocks;

    *(block->previous ? &block->previous->next : first) = block->next;
    if (block->next)
        block->next->previous = block->previous;
    tdelete(block, &tree, compare);
    rm_object_free(device_of(context->device)->handle, block->handle);
    unreserve(block->base, block->size_bytes);
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

    if (size_bytes > UINT64_MAX - GRANULE_BYTES)
        return CUDA_ERROR_OUT_OF_MEMORY;
    /* Measured: below a granule libcuda asks for one, above it for the very size, which the driver rounds up. */
    block = block_create(context, size_bytes < GRANULE_BYTES ? GRANULE_BYTES : size_bytes, &result);
    if (!block)
        return result;
    block->requested_bytes = size_bytes;
    block->next = context->blocks;
    if (block->next)
        block->next->previous = block;
    context->blocks = block;
    *pointer = block->base;
    return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize) {
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    if (result == CUDA_SUCCESS && (!dptr || bytesize == 0))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = bytesize <= SHARED_MAX_BYTES ? chunk_allocate(context, bytesize, dptr)
                                              : allocate_block(context, bytesize, dptr);
    LEAVE(result);
}

SIM_EXPORT CUresult cuMemFree_v2(CUdeviceptr dptr) {
    CUcontext current;
    struct block *block;

    ENTER();
    if (dptr == 0)
        LEAVE(CUDA_SUCCESS);
    if (current_usable(&current) == CUDA_ERROR_CONTEXT_IS_DESTROYED)
        LEAVE(CUDA_ERROR_CONTEXT_IS_DESTROYED);
    block = block_find(dptr); /* of whatever context: addresses are unique */
    if (!block)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (block->chunk)
        LEAVE(chunk_free(block, dptr) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
    if (block->base != dptr)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    block_destroy(block);
    LEAVE(CUDA_SUCCESS);
}
