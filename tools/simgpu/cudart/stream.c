/* SPDX-License-Identifier: Apache-2.0 */
/* Streams, what is allocated in their order, pools, and limits. */
#include "runtime.h"

_Static_assert(sizeof(struct cudaMemPoolProps) == sizeof(CUmemPoolProps), "one structure for both");
_Static_assert((int)cudaMemPoolAttrUsedMemHigh == (int)CU_MEMPOOL_ATTR_USED_MEM_HIGH, "one number for both");
_Static_assert((int)cudaLimitMallocHeapSize == (int)CU_LIMIT_MALLOC_HEAP_SIZE, "one number for both");

SIM_EXPORT cudaError_t cudaStreamCreate(cudaStream_t *pStream) {
    SIM_CUDART_CALL(cuStreamCreate, pStream, cudaStreamDefault);
}

SIM_EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t *pStream, unsigned int flags) {
    SIM_CUDART_CALL(cuStreamCreate, pStream, flags);
}

SIM_EXPORT cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    SIM_CUDART_CALL(cuStreamDestroy, stream);
}

SIM_EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    SIM_CUDART_CALL(cuStreamSynchronize, stream);
}

SIM_EXPORT cudaError_t cudaMallocAsync(void **devPtr, size_t size, cudaStream_t hStream) {
    SIM_CUDART_CALL(cuMemAllocAsync, (CUdeviceptr *)devPtr, size, hStream);
}

SIM_EXPORT cudaError_t cudaMallocFromPoolAsync(void **ptr, size_t size, cudaMemPool_t memPool, cudaStream_t stream) {
    SIM_CUDART_CALL(cuMemAllocFromPoolAsync, (CUdeviceptr *)ptr, size, memPool, stream);
}

SIM_EXPORT cudaError_t cudaFreeAsync(void *devPtr, cudaStream_t hStream) {
    if (!devPtr)
        return cudaSuccess;
    SIM_CUDART_CALL(cuMemFreeAsync, (CUdeviceptr)(uintptr_t)devPtr, hStream);
}

SIM_EXPORT cudaError_t cudaMemPoolCreate(cudaMemPool_t *memPool, const struct cudaMemPoolProps *poolProps) {
    SIM_CUDART_CALL(cuMemPoolCreate, memPool, (const CUmemPoolProps *)poolProps);
}

SIM_EXPORT cudaError_t cudaMemPoolDestroy(cudaMemPool_t memPool) {
    SIM_CUDART_CALL(cuMemPoolDestroy, memPool);
}

SIM_EXPORT cudaError_t cudaMemPoolTrimTo(cudaMemPool_t memPool, size_t minBytesToKeep) {
    SIM_CUDART_CALL(cuMemPoolTrimTo, memPool, minBytesToKeep);
}

SIM_EXPORT cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t memPool, enum cudaMemPoolAttr attr, void *value) {
    SIM_CUDART_CALL(cuMemPoolSetAttribute, memPool, (CUmemPool_attribute)attr, value);
}

SIM_EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t memPool, enum cudaMemPoolAttr attr, void *value) {
    SIM_CUDART_CALL(cuMemPoolGetAttribute, memPool, (CUmemPool_attribute)attr, value);
}

SIM_EXPORT cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *memPool, int device) {
    SIM_CUDART_CALL(cuDeviceGetDefaultMemPool, memPool, device);
}

SIM_EXPORT cudaError_t cudaDeviceGetMemPool(cudaMemPool_t *memPool, int device) {
    SIM_CUDART_CALL(cuDeviceGetMemPool, memPool, device);
}

SIM_EXPORT cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t memPool) {
    SIM_CUDART_CALL(cuDeviceSetMemPool, device, memPool);
}

SIM_EXPORT cudaError_t cudaDeviceSetLimit(enum cudaLimit limit, size_t value) {
    SIM_CUDART_CALL(cuCtxSetLimit, (CUlimit)limit, value);
}

SIM_EXPORT cudaError_t cudaDeviceGetLimit(size_t *pValue, enum cudaLimit limit) {
    SIM_CUDART_CALL(cuCtxGetLimit, pValue, (CUlimit)limit);
}
