/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions that resolve and do nothing: multicast, which needs several GPUs behind an NVSwitch, and the variants with
 * 32-bit addresses from before CUDA 3.2. What a real driver does with the latter was not measured.
 */
#include "sim.h"

SIM_EXPORT CUresult cuMulticastCreate(CUmemGenericAllocationHandle *mcHandle, const CUmulticastObjectProp *prop) {
    (void)mcHandle, (void)prop;
    return CUDA_ERROR_NOT_SUPPORTED;
}

SIM_EXPORT CUresult cuMulticastAddDevice(CUmemGenericAllocationHandle mcHandle, CUdevice dev) {
    (void)mcHandle, (void)dev;
    return CUDA_ERROR_NOT_SUPPORTED;
}

SIM_EXPORT CUresult cuMulticastBindMem(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
                                       CUmemGenericAllocationHandle memHandle, size_t memOffset, size_t size,
                                       unsigned long long flags) {
    (void)mcHandle, (void)mcOffset, (void)memHandle, (void)memOffset, (void)size, (void)flags;
    return CUDA_ERROR_NOT_SUPPORTED;
}

SIM_EXPORT CUresult cuMulticastBindAddr(CUmemGenericAllocationHandle mcHandle, size_t mcOffset, CUdeviceptr memptr,
                                        size_t size, unsigned long long flags) {
    (void)mcHandle, (void)mcOffset, (void)memptr, (void)size, (void)flags;
    return CUDA_ERROR_NOT_SUPPORTED;
}

SIM_EXPORT CUresult cuMulticastUnbind(CUmemGenericAllocationHandle mcHandle, CUdevice dev, size_t mcOffset,
                                      size_t size) {
    (void)mcHandle, (void)dev, (void)mcOffset, (void)size;
    return CUDA_ERROR_NOT_SUPPORTED;
}

/* The plain names are macros for today's variants; here they mean themselves. */
#undef cuMemAlloc
#undef cuMemAllocPitch
#undef cuMemFree

SIM_EXPORT CUresult cuMemAlloc(CUdeviceptr_v1 *dptr, unsigned int bytesize);
SIM_EXPORT CUresult cuMemAlloc(CUdeviceptr_v1 *dptr, unsigned int bytesize) {
    (void)dptr, (void)bytesize;
    return CUDA_ERROR_NOT_SUPPORTED;
}

SIM_EXPORT CUresult cuMemAllocPitch(CUdeviceptr_v1 *dptr, unsigned int *pPitch, unsigned int WidthInBytes,
                                    unsigned int Height, unsigned int ElementSizeBytes);
SIM_EXPORT CUresult cuMemAllocPitch(CUdeviceptr_v1 *dptr, unsigned int *pPitch, unsigned int WidthInBytes,
                                    unsigned int Height, unsigned int ElementSizeBytes) {
    (void)dptr, (void)pPitch, (void)WidthInBytes, (void)Height, (void)ElementSizeBytes;
    return CUDA_ERROR_NOT_SUPPORTED;
}

SIM_EXPORT CUresult cuMemFree(CUdeviceptr_v1 dptr);
SIM_EXPORT CUresult cuMemFree(CUdeviceptr_v1 dptr) {
    (void)dptr;
    return CUDA_ERROR_NOT_SUPPORTED;
}
