/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Refuses every object of every way to take memory in turn, one at a time: each must end as out of memory, and not a
 * byte may be left behind. Run with hook.c preloaded, which refuses and counts.
 */
#define _GNU_SOURCE

#include "ways.h"

/* Each way undoes what it did and returns what the driver said. */
static CUresult way_pool(void) {
    CUdeviceptr pointer;
    CUresult result = GET(cuMemAllocAsync)(&pointer, 100 * MIB, NULL);

    if (result == CUDA_SUCCESS)
        GET(cuMemFreeAsync)(pointer, NULL);
    GET(cuCtxSynchronize)();
    return result;
}

static CUresult way_array(void) {
    const CUDA_ARRAY3D_DESCRIPTOR description = {64, 64, 64, CU_AD_FORMAT_HALF, 4, 0};
    CUmipmappedArray array;
    CUresult result = GET(cuMipmappedArrayCreate)(&array, &description, 3);

    if (result == CUDA_SUCCESS)
        GET(cuMipmappedArrayDestroy)(array);
    return result;
}

static CUresult way_vmm(void) {
    CUmemGenericAllocationHandle handle;
    CUresult result = GET(cuMemCreate)(&handle, 2 * MIB, &on_device, 0);

    if (result == CUDA_SUCCESS)
        GET(cuMemRelease)(handle);
    return result;
}

static CUresult way_pitch(void) {
    CUdeviceptr pointer;
    size_t pitch;
    CUresult result = GET(cuMemAllocPitch)(&pointer, &pitch, 5000, 5000, 4);

    if (result == CUDA_SUCCESS)
        GET(cuMemFree)(pointer);
    return result;
}

/* In contexts of their own, so that what stays with a context goes. */
static CUresult in_context(CUresult (*work)(void)) {
    CUcontext context;
    CUresult result = GET(cuCtxCreate)(&context, NULL, 0, 0);

    if (result == CUDA_SUCCESS) {
        result = work();
        GET(cuCtxDestroy)(context);
    }
    return result;
}

static void (*refuse)(unsigned);
static unsigned chosen;

static CUresult work_streams(void) {
    CUresult result = CUDA_SUCCESS;
    CUstream each;

    refuse(chosen);
    for (int i = 0; i < 41 && result == CUDA_SUCCESS; i++)
        result = GET(cuStreamCreate)(&each, 0);
    return result;
}

static CUresult work_limits(void) {
    CUfunction function;
    CUmodule module;
    CUresult result;

    refuse(chosen);
    result = GET(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, 2 * KIB);
    if (result == CUDA_SUCCESS)
        result = GET(cuCtxSetLimit)(CU_LIMIT_MALLOC_HEAP_SIZE, 64 * MIB);
    if (result == CUDA_SUCCESS)
        result = GET(cuModuleLoadData)(&module, "an image");
    if (result == CUDA_SUCCESS)
        result = GET(cuModuleGetFunction)(&function, module, "kernel");
    if (result == CUDA_SUCCESS)
        result = GET(cuLaunchKernel)(function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
    return result;
}

static CUresult way_streams(void) {
    return in_context(work_streams);
}

static CUresult way_limits(void) {
    return in_context(work_limits);
}

static CUresult way_graph(void) {
    CUdeviceptr first, second;
    CUgraphExec one = graph_of(6 * MIB, 0, &first), other = graph_of(9 * MIB, 0, &second);
    CUresult result = GET(cuGraphLaunch)(one, NULL);

    if (result == CUDA_SUCCESS) {
        result = GET(cuGraphLaunch)(other, NULL);
        if (result == CUDA_SUCCESS)
            GET(cuMemFree)(second);
        GET(cuMemFree)(first);
    }
    GET(cuGraphExecDestroy)(one);
    GET(cuGraphExecDestroy)(other);
    GET(cuDeviceGraphMemTrim)(0);
    return result;
}

int main(void) {
    static const struct {
        const char *name;
        CUresult (*run)(void);
    } ways[] = {{"pool", way_pool},   {"array", way_array},     {"vmm", way_vmm},      {"pitch", way_pitch},
                {"graph", way_graph}, {"streams", way_streams}, {"limits", way_limits}};
    unsigned long long (*live_bytes)(void) =
        (unsigned long long (*)(void))dlsym(RTLD_DEFAULT, "simgpu_hook_live_bytes");
    int (*refused)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "simgpu_hook_refused");

    start();
    refuse = (void (*)(unsigned))dlsym(RTLD_DEFAULT, "simgpu_hook_refuse");
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        const unsigned long long before_bytes = live_bytes();
        unsigned oom = 0, leaks = 0;

        for (chosen = 0;; chosen++) {
            CUresult result;

            if (ways[i].run != way_streams && ways[i].run != way_limits)
                refuse(chosen);
            result = ways[i].run();
            leaks += live_bytes() != before_bytes;
            if (!refused())
                break;
            oom += result == CUDA_ERROR_OUT_OF_MEMORY;
        }
        printf("%s refusals %u out-of-memory %u leaks %u\n", ways[i].name, chosen, oom, leaks);
    }
    return 0;
}
