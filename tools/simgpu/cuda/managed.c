/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that lives with the host: managed and pinned. Neither takes video memory at the boundary (measured: 1 GiB of
 * either, +0 for hook and NVML alike), so no call to the resource manager is made. It is plain memory of the process.
 * On a real GPU managed memory moves to the device when a kernel touches it, and only the device's own figure shows it;
 * no kernel runs here.
 */
#include "sim.h"

static CUresult allocate(enum block_kind kind, uint64_t size_bytes, CUdeviceptr *pointer) {
    const uint64_t rounded_bytes = granules(size_bytes);
    struct block *block;
    CUcontext context;
    CUresult result = current_usable(&context);

    if (result == CUDA_SUCCESS && size_bytes == 0)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = capture_check();
    if (result == CUDA_SUCCESS && rounded_bytes == UINT64_MAX)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS)
        return result;
    block = block_adopt(context, kind, rounded_bytes, 0, &result);
    if (!block)
        return result;
    block->requested_bytes = size_bytes;
    block_link(&context->blocks, block);
    *pointer = block->base;
    return CUDA_SUCCESS;
}

SIM_EXPORT CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags) {
    ENTER();
    if (!dptr || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    LEAVE(allocate(BLOCK_MANAGED, bytesize, dptr));
}

static CUresult allocate_host(void **pp, size_t bytesize) {
    CUdeviceptr pointer;
    CUresult result;

    ENTER();
    if (!pp)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    result = allocate(BLOCK_HOST, bytesize, &pointer);
    if (result == CUDA_SUCCESS)
        *pp = (void *)(uintptr_t)pointer;
    LEAVE(result);
}

SIM_EXPORT CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags) {
    (void)Flags; /* portable, mapped, write-combined: all of it is */
    return allocate_host(pp, bytesize);
}

SIM_EXPORT CUresult cuMemAllocHost_v2(void **pp, size_t bytesize) {
    return allocate_host(pp, bytesize);
}

SIM_EXPORT CUresult cuMemFreeHost(void *p) {
    struct block *block;

    ENTER();
    block = p ? block_find((CUdeviceptr)(uintptr_t)p) : NULL;
    if (!block || block->kind != BLOCK_HOST || block->base != (CUdeviceptr)(uintptr_t)p)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    block_destroy(block);
    LEAVE(CUDA_SUCCESS);
}
