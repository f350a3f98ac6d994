/* SPDX-License-Identifier: Apache-2.0 */
#include "runtime.h"

#include <pthread.h>
#include <stdbool.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static CUcontext primaries[RUNTIME_DEVICES_MAX]; /* those that this runtime retains */

static _Thread_local int chosen_device;
static _Thread_local cudaError_t last_error;

cudaError_t sim_cudart_report(cudaError_t error) {
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

static cudaError_t retain(const struct sim_cudart_driver *driver, int device, CUcontext *context) {
    cudaError_t error = cudaSuccess;

    pthread_mutex_lock(&lock);
    if (!primaries[device])
        error = (cudaError_t)driver->p_cuDevicePrimaryCtxRetain(&primaries[device], device);
    *context = primaries[device];
    pthread_mutex_unlock(&lock);
    return error;
}

static bool is_primary(CUcontext context) {
    bool found = false;

    pthread_mutex_lock(&lock);
    for (int i = 0; i < RUNTIME_DEVICES_MAX; i++)
        found |= primaries[i] == context;
    pthread_mutex_unlock(&lock);
    return found;
}

cudaError_t sim_cudart_context(const struct sim_cudart_driver **driver) {
    CUcontext current = NULL, primary;
    cudaError_t error;

    *driver = sim_cudart_driver(&error);
    if (!*driver)
        return error;
    (*driver)->p_cuCtxGetCurrent(&current);
    if (current && !is_primary(current))
        return cudaSuccess; /* set through the driver API: that is the one to use */
    error = retain(*driver, chosen_device, &primary);
    if (error == cudaSuccess && current != primary)
        error = (cudaError_t)(*driver)->p_cuCtxSetCurrent(primary);
    return error;
}

SIM_EXPORT cudaError_t cudaMalloc(void **devPtr, size_t size) {
    const struct sim_cudart_driver *driver;
    cudaError_t error = sim_cudart_context(&driver);
    CUdeviceptr pointer = 0;

    if (error == cudaSuccess && !devPtr)
        error = cudaErrorInvalidValue;
    if (error != cudaSuccess)
        return sim_cudart_report(error);
    if (size != 0)
        error = (cudaError_t)driver->p_cuMemAlloc(&pointer, size);
    *devPtr = (void *)(uintptr_t)pointer; /* NULL when refused, and for no bytes: measured */
    return sim_cudart_report(error);
}

SIM_EXPORT cudaError_t cudaFree(void *devPtr) {
    const struct sim_cudart_driver *driver;
    cudaError_t error = sim_cudart_context(&driver);

    if (error == cudaSuccess && devPtr)
        error = (cudaError_t)driver->p_cuMemFree((CUdeviceptr)(uintptr_t)devPtr);
    return sim_cudart_report(error);
}

SIM_EXPORT cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    const struct sim_cudart_driver *driver;
    cudaError_t error = sim_cudart_context(&driver);

    if (error == cudaSuccess)
        error = (cudaError_t)driver->p_cuMemGetInfo(free, total);
    return sim_cudart_report(error);
}

SIM_EXPORT cudaError_t cudaSetDevice(int device) {
    const struct sim_cudart_driver *driver;
    cudaError_t error;
    CUcontext primary;
    int count = 0;

    driver = sim_cudart_driver(&error);
    if (driver)
        error = (cudaError_t)driver->p_cuDeviceGetCount(&count);
    if (error == cudaSuccess && (device < 0 || device >= count || device >= RUNTIME_DEVICES_MAX))
        error = cudaErrorInvalidDevice;
    if (error == cudaSuccess)
        error = retain(driver, device, &primary); /* since CUDA 12 the context is made here */
    if (error == cudaSuccess)
        error = (cudaError_t)driver->p_cuCtxSetCurrent(primary);
    if (error == cudaSuccess)
        chosen_device = device;
    return sim_cudart_report(error);
}

SIM_EXPORT cudaError_t cudaGetDevice(int *device) {
    cudaError_t error;

    if (sim_cudart_driver(&error) && !device)
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess)
        *device = chosen_device;
    return sim_cudart_report(error);
}

SIM_EXPORT cudaError_t cudaGetDeviceCount(int *count) {
    cudaError_t error;
    const struct sim_cudart_driver *driver = sim_cudart_driver(&error);

    if (driver)
        error = (cudaError_t)driver->p_cuDeviceGetCount(count);
    return sim_cudart_report(error);
}

SIM_EXPORT cudaError_t cudaDeviceSynchronize(void) {
    const struct sim_cudart_driver *driver;
    cudaError_t error = sim_cudart_context(&driver);

    if (error == cudaSuccess)
        error = (cudaError_t)driver->p_cuCtxSynchronize();
    return sim_cudart_report(error);
}

SIM_EXPORT cudaError_t cudaDeviceReset(void) {
    cudaError_t error;
    const struct sim_cudart_driver *driver = sim_cudart_driver(&error);

    if (!driver)
        return sim_cudart_report(error);
    pthread_mutex_lock(&lock);
    if (primaries[chosen_device]) {
        driver->p_cuDevicePrimaryCtxRelease(chosen_device);
        primaries[chosen_device] = NULL;
    }
    error = (cudaError_t)driver->p_cuDevicePrimaryCtxReset(chosen_device);
    pthread_mutex_unlock(&lock);
    driver->p_cuCtxSetCurrent(NULL);
    return sim_cudart_report(error);
}

/* Without a usable driver that is the answer, for ever: as measured. */
static cudaError_t last_or_driver(void) {
    cudaError_t error;

    return sim_cudart_driver(&error) ? last_error : error;
}

SIM_EXPORT cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_or_driver();

    last_error = cudaSuccess;
    return error;
}

SIM_EXPORT cudaError_t cudaPeekAtLastError(void) {
    return last_or_driver();
}

SIM_EXPORT cudaError_t cudaDriverGetVersion(int *driverVersion) {
    const struct sim_cudart_driver *driver = sim_cudart_functions();

    if (!driverVersion)
        return sim_cudart_report(cudaErrorInvalidValue);
    *driverVersion = 0;
    return driver ? sim_cudart_report((cudaError_t)driver->p_cuDriverGetVersion(driverVersion)) : cudaSuccess;
}

SIM_EXPORT cudaError_t cudaRuntimeGetVersion(int *runtimeVersion) {
    if (!runtimeVersion)
        return sim_cudart_report(cudaErrorInvalidValue);
    *runtimeVersion = CUDART_VERSION;
    return cudaSuccess;
}
