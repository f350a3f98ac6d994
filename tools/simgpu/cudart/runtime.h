/* SPDX-License-Identifier: Apache-2.0 */
/* What the modules of the simulated libcudart share. Names are prefixed: the static library lives in others' programs.
 */
#ifndef CONVGPU_SIM_CUDART_RUNTIME_H
#define CONVGPU_SIM_CUDART_RUNTIME_H

#include "cuda.h"
#include "cuda_runtime_api.h"

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
    CALL(cuMemGetInfo, 3020, (size_t *, size_t *))

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

/* Makes sure that this thread has a context: the one it chose, else the primary one of its device. */
cudaError_t sim_cudart_context(const struct sim_cudart_driver **driver);

#endif
