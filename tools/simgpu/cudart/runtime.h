/* SPDX-License-Identifier: Apache-2.0 */
/* What the modules of the simulated libcudart share. Names are prefixed: the static library lives in others' programs.
 */
#ifndef CONVGPU_SIM_CUDART_RUNTIME_H
#define CONVGPU_SIM_CUDART_RUNTIME_H

#include "cuda.h"
#include "cuda_runtime_api.h"

#include "driver_names.h"

#define SIM_EXPORT __attribute__((visibility("default")))

#define RUNTIME_DEVICES_MAX 64

/*
 * The driver's functions, resolved as NVIDIA's runtime does it: dlopen of libcuda.so.1, dlsym of cuGetProcAddress_v2,
 * and that for everything else. CALL(base name, version of the variant that is wanted, its signature).
 */
#define DRIVER_CALLS(CALL)                                                                                             \
    CALL(cuInit, 2000, (unsigned int))                                                                                 \
    CALL(cuDriverGetVersion, 2020, (int *))                                                                            \
    CALL(cuDeviceGetCount, 2000, (int *))                                                                              \
    CALL(cuDevicePrimaryCtxRetain, 7000, (CUcontext *, CUdevice))                                                      \
    CALL(cuDevicePrimaryCtxRelease, 11000, (CUdevice))                                                                 \
    CALL(cuDevicePrimaryCtxReset, 11000, (CUdevice))                                                                   \
    CALL(cuCtxGetCurrent, 4000, (CUcontext *))                                                                         \
    CALL(cuCtxSetCurrent, 4000, (CUcontext))                                                                           \
    CALL(cuCtxSynchronize, 2000, (void))                                                                               \
    CALL(cuMemAlloc, 3020, (CUdeviceptr *, size_t))                                                                    \
    CALL(cuMemFree, 3020, (CUdeviceptr))                                                                               \
    CALL(cuMemGetInfo, 3020, (size_t *, size_t *))                                                                     \
    CALL(cuMemAllocPitch, 3020, (CUdeviceptr *, size_t *, size_t, size_t, unsigned int))                               \
    CALL(cuMemAllocManaged, 6000, (CUdeviceptr *, size_t, unsigned int))                                               \
    CALL(cuMemHostAlloc, 2020, (void **, size_t, unsigned int))                                                        \
    CALL(cuMemFreeHost, 2000, (void *))                                                                                \
    CALL(cuArray3DCreate, 3020, (CUarray *, const CUDA_ARRAY3D_DESCRIPTOR *))                                          \
    CALL(cuArrayDestroy, 2000, (CUarray))                                                                              \
    CALL(cuMipmappedArrayCreate, 5000, (CUmipmappedArray *, const CUDA_ARRAY3D_DESCRIPTOR *, unsigned int))            \
    CALL(cuMipmappedArrayDestroy, 5000, (CUmipmappedArray))                                                            \
    CALL(cuMemAllocAsync, 11020, (CUdeviceptr *, size_t, CUstream))                                                    \
    CALL(cuMemAllocFromPoolAsync, 11020, (CUdeviceptr *, size_t, CUmemoryPool, CUstream))                              \
    CALL(cuMemFreeAsync, 11020, (CUdeviceptr, CUstream))                                                               \
    CALL(cuMemPoolCreate, 11020, (CUmemoryPool *, const CUmemPoolProps *))                                             \
    CALL(cuMemPoolDestroy, 11020, (CUmemoryPool))                                                                      \
    CALL(cuMemPoolTrimTo, 11020, (CUmemoryPool, size_t))                                                               \
    CALL(cuMemPoolSetAttribute, 11020, (CUmemoryPool, CUmemPool_attribute, void *))                                    \
    CALL(cuMemPoolGetAttribute, 11020, (CUmemoryPool, CUmemPool_attribute, void *))                                    \
    CALL(cuDeviceGetDefaultMemPool, 11020, (CUmemoryPool *, CUdevice))                                                 \
    CALL(cuDeviceGetMemPool, 11020, (CUmemoryPool *, CUdevice))                                                        \
    CALL(cuDeviceSetMemPool, 11020, (CUdevice, CUmemoryPool))                                                          \
    CALL(cuStreamCreate, 2000, (CUstream *, unsigned int))                                                             \
    CALL(cuStreamDestroy, 4000, (CUstream))                                                                            \
    CALL(cuStreamSynchronize, 2000, (CUstream))                                                                        \
    CALL(cuCtxSetLimit, 3010, (CUlimit, size_t))                                                                       \
    CALL(cuCtxGetLimit, 3010, (size_t *, CUlimit))                                                                     \
    CALL(cuIpcGetMemHandle, 4010, (CUipcMemHandle *, CUdeviceptr))                                                     \
    CALL(cuIpcOpenMemHandle, 11000, (CUdeviceptr *, CUipcMemHandle, unsigned int))                                     \
    CALL(cuIpcCloseMemHandle, 4010, (CUdeviceptr))

#define DRIVER_FIELD(name, version, signature) CUresult(*p_##name) signature;
struct sim_cudart_driver {
    DRIVER_CALLS(DRIVER_FIELD)
};
#undef DRIVER_FIELD

/* The driver, loaded and initialised; NULL with *error: why not. Tried again at every call, as NVIDIA's does. */
const struct sim_cudart_driver *sim_cudart_driver(cudaError_t *error);

/* The functions alone, not initialised; NULL: no driver on this machine. */
const struct sim_cudart_driver *sim_cudart_functions(void);

/* Remembers an error for cudaGetLastError of this thread, and returns it. */
cudaError_t sim_cudart_report(cudaError_t error);

/*
 * Calls a driver function in this thread's context and reports what it says. The runtime's types are the driver's under
 * other names, and their numbers are equal (asserted where one is cast to the other).
 */
#define SIM_CUDART_CALL(name, ...)                                                                                     \
    do {                                                                                                               \
        const struct sim_cudart_driver *driver;                                                                        \
        cudaError_t error = sim_cudart_context(&driver);                                                               \
        if (error == cudaSuccess)                                                                                      \
            error = (cudaError_t)driver->p_##name(__VA_ARGS__);                                                        \
        return sim_cudart_report(error);                                                                               \
    } while (0)

/* Makes sure that this thread has a context: the one it chose, else the primary one of its device. */
cudaError_t sim_cudart_context(const struct sim_cudart_driver **driver);

#endif
