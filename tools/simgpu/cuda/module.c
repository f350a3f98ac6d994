/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Modules and launches in name only: any image is accepted, has every function that is asked for, and a launch does
 * nothing but what a first launch does to memory (limit.c). Nothing is computed.
 */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

struct CUfunc_st {
    struct CUfunc_st *next;
    char name[];
};

struct CUmod_st {
    CUcontext context;
    struct CUfunc_st *functions;
    struct CUmod_st *next;
};

static struct CUmod_st *modules; /* of all contexts */

static void destroy(struct CUmod_st **link) {
    struct CUmod_st *module = *link;

    *link = module->next;
    for (struct CUfunc_st *function = module->functions, *next; function; function = next) {
        next = function->next;
        free(function);
    }
    free(module);
}

static struct CUmod_st **find(CUmodule module) {
    struct CUmod_st **link = &modules;

    while (*link && *link != module)
        link = &(*link)->next;
    return *link ? link : NULL;
}

void modules_release_context(CUcontext context) {
    for (struct CUmod_st **link = &modules; *link;) {
        if ((*link)->context == context)
            destroy(link);
        else
            link = &(*link)->next;
    }
}

SIM_EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    struct CUmod_st *fresh;
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    if (result == CUDA_SUCCESS && (!module || !image))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = capture_check();
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    fresh = calloc(1, sizeof(*fresh));
    if (!fresh)
        LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
    result = limits_module_load(context);
    if (result != CUDA_SUCCESS) {
        free(fresh);
        LEAVE(result);
    }
    fresh->context = context;
    fresh->next = modules;
    modules = fresh;
    *module = fresh;
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions,
                                       CUjit_option *options, void **optionValues) {
    (void)numOptions, (void)options, (void)optionValues; /* nothing is compiled */
    return cuModuleLoadData(module, image);
}

SIM_EXPORT CUresult cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name) {
    struct CUfunc_st *function;

    ENTER();
    if (!hfunc || !name || !*name)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (!find(hmod))
        LEAVE(CUDA_ERROR_INVALID_HANDLE);
    for (function = hmod->functions; function && strcmp(function->name, name) != 0;)
        function = function->next;
    if (!function) {
        function = malloc(sizeof(*function) + strlen(name) + 1);
        if (!function)
            LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
        strcpy(function->name, name);
        function->next = hmod->functions;
        hmod->functions = function;
    }
    *hfunc = function;
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuModuleUnload(CUmodule hmod) {
    struct CUmod_st **link;

    ENTER();
    link = find(hmod);
    if (!link)
        LEAVE(CUDA_ERROR_INVALID_HANDLE);
    destroy(link);
    LEAVE(CUDA_SUCCESS);
}

static bool function_known(CUfunction function) {
    for (const struct CUmod_st *module = modules; module; module = module->next)
        for (const struct CUfunc_st *known = module->functions; known; known = known->next)
            if (known == function)
                return true;
    return false;
}

static CUresult launch(CUfunction function, uint64_t threads, uint64_t blocks, CUstream handle, bool per_thread) {
    struct CUstream_st *stream;
    CUresult result;

    ENTER();
    result = stream_find(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    if (!function_known(function))
        LEAVE(CUDA_ERROR_INVALID_HANDLE);
    if (!blocks || !threads || threads > 1024)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (stream->capture == CU_STREAM_CAPTURE_STATUS_INVALIDATED)
        LEAVE(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    if (stream->capture == CU_STREAM_CAPTURE_STATUS_ACTIVE)
        LEAVE(graph_add_kernel(stream->graph));
    LEAVE(limits_launch(stream->context ? stream->context : current_context()));
}

SIM_EXPORT CUresult cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
                                   unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ,
                                   unsigned int sharedMemBytes, CUstream hStream, void **kernelParams, void **extra) {
    (void)sharedMemBytes, (void)kernelParams, (void)extra;
    return launch(f, (uint64_t)blockDimX * blockDimY * blockDimZ, (uint64_t)gridDimX * gridDimY * gridDimZ, hStream,
                  false);
}

SIM_EXPORT CUresult cuLaunchKernel_ptsz(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                        unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                                        unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                                        void **kernelParams, void **extra);
SIM_EXPORT CUresult cuLaunchKernel_ptsz(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                        unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                                        unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                                        void **kernelParams, void **extra) {
    (void)sharedMemBytes, (void)kernelParams, (void)extra;
    return launch(f, (uint64_t)blockDimX * blockDimY * blockDimZ, (uint64_t)gridDimX * gridDimY * gridDimZ, hStream,
                  true);
}
