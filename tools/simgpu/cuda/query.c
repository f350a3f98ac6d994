/* SPDX-License-Identifier: Apache-2.0 */
/* Questions about memory: how much there is, and what a pointer means. */
#include "sim.h"

static bool range_of(CUdeviceptr pointer, const struct block **block, CUdeviceptr *base, uint64_t *size_bytes) {
    *block = block_find(pointer);
    if (!*block)
        return false;
    if ((*block)->chunk)
        return chunk_range(*block, pointer, base, size_bytes);
    if ((*block)->kind == BLOCK_GRAPH && !graph_memory_backed((*block)->owner))
        return false;
    *base = (*block)->base;
    *size_bytes = (*block)->requested_bytes;
    return pointer - *base < *size_bytes;
}

SIM_EXPORT CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    struct sim_stats stats;
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    if (result == CUDA_SUCCESS)
        result = rm_stats(device_of(context->device)->sim_index, &stats);
    if (result == CUDA_SUCCESS && free)
        *free = stats.total_bytes - stats.used_bytes;
    if (result == CUDA_SUCCESS && total)
        *total = stats.total_bytes;
    LEAVE(result);
}

SIM_EXPORT CUresult cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr) {
    const struct block *block;
    uint64_t size_bytes;
    CUdeviceptr base;
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    if (!range_of(dptr, &block, &base, &size_bytes))
        LEAVE(CUDA_ERROR_NOT_FOUND);
    if (pbase)
        *pbase = base;
    if (psize)
        *psize = size_bytes;
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr) {
    const struct block *block;
    uint64_t size_bytes;
    CUdeviceptr base;

    ENTER();
    if (!data || !range_of(ptr, &block, &base, &size_bytes))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)data = block->context;
        break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = block->kind == BLOCK_HOST ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)data = ptr;
        break;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(bool *)data = block->kind == BLOCK_MANAGED;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = block->device;
        break;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)data = base;
        break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)data = size_bytes;
        break;
    default:
        LEAVE(CUDA_ERROR_NOT_SUPPORTED);
    }
    LEAVE(CUDA_SUCCESS);
}
