/* SPDX-License-Identifier: Apache-2.0 */
/* Memory with a shape, and memory of the host. */
#include "runtime.h"

#define TEXTURE_ELEMENT_BYTES 4 /* what NVIDIA's runtime says an element has, so the pitch is right for all */

/* Of an allocation that was refused, the address is NULL: as measured for cudaMalloc. */
static cudaError_t allocate_pitch(void **pointer, size_t *pitch, size_t width, size_t height) {
    const struct sim_cudart_driver *driver;
    cudaError_t error = sim_cudart_context(&driver);
    CUdeviceptr address = 0;

    if (error == cudaSuccess && (!pointer || !pitch))
        error = cudaErrorInvalidValue;
    if (error != cudaSuccess)
        return error;
    if (width && height)
        error = (cudaError_t)driver->p_cuMemAllocPitch(&address, pitch, width, height, TEXTURE_ELEMENT_BYTES);
    else
        *pitch = 0;
    *pointer = (void *)(uintptr_t)address;
    return error;
}

SIM_EXPORT cudaError_t cudaMallocPitch(void **devPtr, size_t *pitch, size_t width, size_t height) {
    return sim_cudart_report(allocate_pitch(devPtr, pitch, width, height));
}

SIM_EXPORT cudaError_t cudaMalloc3D(struct cudaPitchedPtr *pitchedDevPtr, struct cudaExtent extent) {
    cudaError_t error = cudaErrorInvalidValue;

    if (pitchedDevPtr) {
        error = allocate_pitch(&pitchedDevPtr->ptr, &pitchedDevPtr->pitch, extent.width, extent.height * extent.depth);
        pitchedDevPtr->xsize = extent.width;
        pitchedDevPtr->ysize = extent.height;
    }
    return sim_cudart_report(error);
}

SIM_EXPORT cudaError_t cudaMallocManaged(void **devPtr, size_t size, unsigned int flags) {
    SIM_CUDART_CALL(cuMemAllocManaged, (CUdeviceptr *)devPtr, size, flags);
}

SIM_EXPORT cudaError_t cudaMallocHost(void **ptr, size_t size) {
    SIM_CUDART_CALL(cuMemHostAlloc, ptr, size, 0);
}

SIM_EXPORT cudaError_t cudaHostAlloc(void **pHost, size_t size, unsigned int flags) {
    SIM_CUDART_CALL(cuMemHostAlloc, pHost, size, flags);
}

SIM_EXPORT cudaError_t cudaFreeHost(void *ptr) {
    if (!ptr)
        return cudaSuccess;
    SIM_CUDART_CALL(cuMemFreeHost, ptr);
}

/* Channels of 8, 16 or 32 bits, all of one size, one, two or four of them. 0: no format of the driver's. */
static int describe(const struct cudaChannelFormatDesc *format, struct cudaExtent extent,
                    CUDA_ARRAY3D_DESCRIPTOR *out) {
    static const CUarray_format formats[3][3] = {
        /* by kind, then bits */
        {CU_AD_FORMAT_SIGNED_INT8, CU_AD_FORMAT_SIGNED_INT16, CU_AD_FORMAT_SIGNED_INT32},
        {CU_AD_FORMAT_UNSIGNED_INT8, CU_AD_FORMAT_UNSIGNED_INT16, CU_AD_FORMAT_UNSIGNED_INT32},
        {0, CU_AD_FORMAT_HALF, CU_AD_FORMAT_FLOAT},
    };
    const int bits[] = {format->x, format->y, format->z, format->w};
    const int size = bits[0] == 8 ? 0 : bits[0] == 16 ? 1 : bits[0] == 32 ? 2 : -1;
    unsigned channels = 1;

    while (channels < 4 && bits[channels] == bits[0])
        channels++;
    for (unsigned i = channels; i < 4; i++)
        if (bits[i])
            return 0;
    if (size < 0 || (unsigned)format->f > cudaChannelFormatKindFloat || !formats[format->f][size])
        return 0;
    *out = (CUDA_ARRAY3D_DESCRIPTOR){.Width = extent.width,
                                     .Height = extent.height,
                                     .Depth = extent.depth,
                                     .Format = formats[format->f][size],
                                     .NumChannels = channels};
    return 1;
}

SIM_EXPORT cudaError_t cudaMallocArray(cudaArray_t *array, const struct cudaChannelFormatDesc *desc, size_t width,
                                       size_t height, unsigned int flags) {
    CUDA_ARRAY3D_DESCRIPTOR descriptor;

    if (flags) /* surfaces, gathers: as large, but not offered */
        return sim_cudart_report(cudaErrorNotSupported);
    if (!desc || !describe(desc, (struct cudaExtent){width, height, 0}, &descriptor))
        return sim_cudart_report(cudaErrorInvalidValue);
    SIM_CUDART_CALL(cuArray3DCreate, (CUarray *)array, &descriptor); /* measured: not cuArrayCreate */
}

SIM_EXPORT cudaError_t cudaFreeArray(cudaArray_t array) {
    if (!array)
        return cudaSuccess;
    SIM_CUDART_CALL(cuArrayDestroy, (CUarray)array);
}

SIM_EXPORT cudaError_t cudaMallocMipmappedArray(cudaMipmappedArray_t *mipmappedArray,
                                                const struct cudaChannelFormatDesc *desc, struct cudaExtent extent,
                                                unsigned int numLevels, unsigned int flags) {
    CUDA_ARRAY3D_DESCRIPTOR descriptor;

    if (flags)
        return sim_cudart_report(cudaErrorNotSupported);
    if (!desc || !describe(desc, extent, &descriptor))
        return sim_cudart_report(cudaErrorInvalidValue);
    SIM_CUDART_CALL(cuMipmappedArrayCreate, (CUmipmappedArray *)mipmappedArray, &descriptor, numLevels);
}

SIM_EXPORT cudaError_t cudaFreeMipmappedArray(cudaMipmappedArray_t mipmappedArray) {
    if (!mipmappedArray)
        return cudaSuccess;
    SIM_CUDART_CALL(cuMipmappedArrayDestroy, (CUmipmappedArray)mipmappedArray);
}

SIM_EXPORT cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *devPtr) {
    SIM_CUDART_CALL(cuIpcGetMemHandle, (CUipcMemHandle *)handle, (CUdeviceptr)(uintptr_t)devPtr);
}

SIM_EXPORT cudaError_t cudaIpcOpenMemHandle(void **devPtr, cudaIpcMemHandle_t handle, unsigned int flags) {
    CUipcMemHandle driver_handle;

    _Static_assert(sizeof(driver_handle) == sizeof(handle), "one handle for both");
    __builtin_memcpy(&driver_handle, &handle, sizeof(handle));
    SIM_CUDART_CALL(cuIpcOpenMemHandle, (CUdeviceptr *)devPtr, driver_handle, flags);
}

SIM_EXPORT cudaError_t cudaIpcCloseMemHandle(void *devPtr) {
    SIM_CUDART_CALL(cuIpcCloseMemHandle, (CUdeviceptr)(uintptr_t)devPtr);
}
