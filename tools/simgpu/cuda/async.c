/* SPDX-License-Identifier: Apache-2.0 */
/* Stream-ordered allocation and the calls for pools. In a capture an allocation becomes a node of the graph instead. */
#include "pool.h"

#include <stdbool.h>

static CUresult allocate_async(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream handle,
                               bool per_thread) {
    struct CUstream_st *stream;
    CUresult result = stream_find(handle, per_thread, &stream);
    CUdevice device;
    CUgraphNode node;

    if (result != CUDA_SUCCESS)
        return result;
    if (!dptr || bytesize == 0 || (pool && !pool_known(pool)))
        return CUDA_ERROR_INVALID_VALUE;
    device = (stream->context ? stream->context : current_context())->device;
    if (stream->capture == CU_STREAM_CAPTURE_STATUS_INVALIDATED)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (stream->capture == CU_STREAM_CAPTURE_STATUS_ACTIVE)
        return graph_add_allocation(stream->graph, device, bytesize, dptr, &node);
    if (!pool)
        pool = pool_current(device);
    return pool ? pool_allocate(pool, bytesize, dptr) : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult allocate(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream stream, bool per_thread) {
    ENTER();
    LEAVE(allocate_async(dptr, bytesize, pool, stream, per_thread));
}

SIM_EXPORT CUresult cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream) {
    return allocate(dptr, bytesize, NULL, hStream, false);
}

SIM_EXPORT CUresult cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream hStream);
SIM_EXPORT CUresult cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream hStream) {
    return allocate(dptr, bytesize, NULL, hStream, true);
}

SIM_EXPORT CUresult cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream) {
    return pool ? allocate(dptr, bytesize, pool, hStream, false) : CUDA_ERROR_INVALID_VALUE;
}

SIM_EXPORT CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
                                                 CUstream hStream);
SIM_EXPORT CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
                                                 CUstream hStream) {
    return pool ? allocate(dptr, bytesize, pool, hStream, true) : CUDA_ERROR_INVALID_VALUE;
}

static CUresult free_async(CUdeviceptr pointer, CUstream handle, bool per_thread) {
    struct CUstream_st *stream;
    CUresult result = stream_find(handle, per_thread, &stream);
    struct block *block;
    CUgraphNode node;

    if (result != CUDA_SUCCESS)
        return result;
    block = block_find(pointer);
    if (!block || block->kind == BLOCK_MANAGED)
        return CUDA_ERROR_INVALID_VALUE;
    if (stream->capture == CU_STREAM_CAPTURE_STATUS_INVALIDATED)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (stream->capture == CU_STREAM_CAPTURE_STATUS_ACTIVE)
        return graph_add_free(stream->graph, pointer, &node);
    return memory_free(block, pointer); /* memory of cuMemAlloc too: CUDA allows it */
}

SIM_EXPORT CUresult cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) {
    ENTER();
    LEAVE(free_async(dptr, hStream, false));
}

SIM_EXPORT CUresult cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream);
SIM_EXPORT CUresult cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream) {
    ENTER();
    LEAVE(free_async(dptr, hStream, true));
}

SIM_EXPORT CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps) {
    ENTER();
    if (!pool || !poolProps || poolProps->allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE || poolProps->handleTypes != CU_MEM_HANDLE_TYPE_NONE)
        LEAVE(CUDA_ERROR_NOT_SUPPORTED); /* pools of host memory, pools to share */
    if (!device_of(poolProps->location.id))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    *pool = pool_create(poolProps->location.id, poolProps->maxSize);
    LEAVE(*pool ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

SIM_EXPORT CUresult cuMemPoolDestroy(CUmemoryPool pool) {
    ENTER();
    LEAVE(pool_known(pool) && pool_destroy(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

SIM_EXPORT CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep) {
    ENTER();
    if (!pool_known(pool))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    pool_trim(pool, minBytesToKeep);
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
    CUresult result = CUDA_SUCCESS;

    ENTER();
    if (!value || !pool_known(pool))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    switch (attr) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        pool->reuse[attr - CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES] = *(int *)value != 0;
        break;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        pool->threshold_bytes = *(cuuint64_t *)value;
        break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: /* a high-water mark can only begin anew */
        result = *(cuuint64_t *)value ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
        pool->reserved_high_bytes = result == CUDA_SUCCESS ? pool->reserved_bytes : pool->reserved_high_bytes;
        break;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        result = *(cuuint64_t *)value ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
        pool->used_high_bytes = result == CUDA_SUCCESS ? pool->used_bytes : pool->used_high_bytes;
        break;
    default:
        result = CUDA_ERROR_INVALID_VALUE;
    }
    LEAVE(result);
}

SIM_EXPORT CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
    ENTER();
    if (!value || !pool_known(pool))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    switch (attr) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        *(int *)value = pool->reuse[attr - CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES];
        break;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        *(cuuint64_t *)value = pool->threshold_bytes;
        break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
        *(cuuint64_t *)value = pool->reserved_bytes;
        break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        *(cuuint64_t *)value = pool->reserved_high_bytes;
        break;
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        *(cuuint64_t *)value = pool->used_bytes;
        break;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        *(cuuint64_t *)value = pool->used_high_bytes;
        break;
    default:
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    }
    LEAVE(CUDA_SUCCESS);
}

static CUresult pool_of(CUmemoryPool *out, CUdevice dev, CUmemoryPool (*get)(CUdevice)) {
    ENTER();
    if (!out)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (!device_of(dev))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    *out = get(dev);
    LEAVE(*out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

SIM_EXPORT CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev) {
    return pool_of(pool_out, dev, pool_default);
}

SIM_EXPORT CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev) {
    return pool_of(pool, dev, pool_current);
}

SIM_EXPORT CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) {
    ENTER();
    if (!device_of(dev))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    if (!pool_known(pool) || pool->device != dev)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    pool_choose(dev, pool);
    LEAVE(CUDA_SUCCESS);
}
