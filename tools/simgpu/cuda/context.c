/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts: a few video-memory objects that cost what the server says a context costs. */
#include "sim.h"

#include <stdbool.h>
#include <stdlib.h>

static struct CUctx_st primaries[SIM_GPUS_MAX]; /* by visible ordinal: a primary context keeps its handle */
static CUcontext others;

bool context_known(CUcontext context) {
    for (unsigned i = 0; i < SIM_GPUS_MAX; i++)
        if (context == &primaries[i])
            return device_of((CUdevice)i) != NULL;
    for (CUcontext other = others; other; other = other->next)
        if (other == context)
            return true;
    return false;
}

/*
 * The objects of a context in the order in which libcuda 580 asks for them on an H100, as traced there, in bytes as
 * asked; the driver rounds each up to 2 MiB. The last one is the rest of what a context is configured to cost.
 */
static const uint64_t asked_bytes[CONTEXT_OBJECTS - 1] = {
    4325376,       GRANULE_BYTES, GRANULE_BYTES, GRANULE_BYTES, GRANULE_BYTES, GRANULE_BYTES,
    GRANULE_BYTES, GRANULE_BYTES, GRANULE_BYTES, GRANULE_BYTES, GRANULE_BYTES, GRANULE_BYTES,
    GRANULE_BYTES, GRANULE_BYTES, 72116352,      GRANULE_BYTES,
};

/*
 * Measured too: where the last but one is refused, what is made later is not sound; every later context of the process
 * ends in CUDA_ERROR_LAUNCH_FAILED. Where any other is refused, a later attempt succeeds.
 */
#define FRAGILE_OBJECT (CONTEXT_OBJECTS - 2)
static bool broken;

static uint64_t object_bytes(uint64_t context_bytes, unsigned object) {
    uint64_t left_bytes = context_bytes;

    for (unsigned i = 0; i < object; i++) {
        uint64_t taken_bytes = (asked_bytes[i] + GRANULE_BYTES - 1) / GRANULE_BYTES * GRANULE_BYTES;

        left_bytes -= taken_bytes < left_bytes ? taken_bytes : left_bytes;
    }
    return object < CONTEXT_OBJECTS - 1 && asked_bytes[object] < left_bytes ? asked_bytes[object] : left_bytes;
}

uint64_t context_arena_bytes(CUcontext context) {
    const uint64_t left_bytes = object_bytes(device_of(context->device)->context_bytes, CONTEXT_OBJECTS - 1);

    return granules(left_bytes);
}

bool context_active_on(CUdevice device) {
    if (primaries[device].active)
        return true;
    for (CUcontext other = others; other; other = other->next)
        if (other->active && other->device == device)
            return true;
    return false;
}

static CUresult activate(CUcontext context) {
    const struct visible_device *device = device_of(context->device);
    CUresult result = broken ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS;

    for (unsigned i = 0; i < CONTEXT_OBJECTS; i++) {
        uint64_t size_bytes = object_bytes(device->context_bytes, i);

        context->objects[i] = 0;
        if (result == CUDA_SUCCESS && size_bytes)
            result = rm_memory_create(device->handle, size_bytes, &context->objects[i]);
        if (result == CUDA_ERROR_OUT_OF_MEMORY && i == FRAGILE_OBJECT)
            broken = true;
        if (result != CUDA_SUCCESS) {
            while (i--)
                if (context->objects[i])
                    rm_object_free(device->handle, context->objects[i]);
            return result;
        }
    }
    limits_start(context);
    context->active = true;
    return CUDA_SUCCESS;
}

static void deactivate(CUcontext context) {
    if (!context->active)
        return;
    streams_release_context(context);
    modules_release_context(context);
    arrays_release_context(context);
    memory_release_context(context);
    limits_release(context);
    for (unsigned i = 0; i < CONTEXT_OBJECTS; i++)
        if (context->objects[i])
            rm_object_free(device_of(context->device)->handle, context->objects[i]);
    context->active = false;
    if (context_active_on(context->device))
        return;
    pools_release_device(context->device);
    graph_memory_release_device(context->device);
}

SIM_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev) {
    CUresult result = CUDA_SUCCESS;

    ENTER();
    if (!pctx)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (!device_of(dev))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    primaries[dev].device = dev;
    primaries[dev].primary = true;
    if (!primaries[dev].active)
        result = activate(&primaries[dev]);
    if (result == CUDA_SUCCESS) {
        primaries[dev].retained++;
        *pctx = &primaries[dev];
    }
    LEAVE(result);
}

static CUresult primary_release(CUdevice dev) {
    ENTER();
    if (!device_of(dev))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    if (primaries[dev].retained == 0)
        LEAVE(CUDA_ERROR_INVALID_CONTEXT);
    if (--primaries[dev].retained == 0)
        deactivate(&primaries[dev]);
    LEAVE(CUDA_SUCCESS);
}

/* Takes the memory away whoever retains it; they stay retainers, and the next to retain makes it anew. */
static CUresult primary_reset(CUdevice dev) {
    ENTER();
    if (!device_of(dev))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    deactivate(&primaries[dev]);
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev) {
    return primary_release(dev);
}

SIM_EXPORT CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev) {
    return primary_reset(dev);
}

#undef cuDevicePrimaryCtxRelease
SIM_EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice dev);
SIM_EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice dev) {
    return primary_release(dev);
}

#undef cuDevicePrimaryCtxReset
SIM_EXPORT CUresult cuDevicePrimaryCtxReset(CUdevice dev);
SIM_EXPORT CUresult cuDevicePrimaryCtxReset(CUdevice dev) {
    return primary_reset(dev);
}

SIM_EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active) {
    ENTER();
    if (!flags || !active)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (!device_of(dev))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    *flags = 0;
    *active = primaries[dev].active;
    LEAVE(CUDA_SUCCESS);
}

static CUresult create(CUcontext *pctx, CUdevice dev) {
    CUcontext context;
    CUresult result;

    ENTER();
    if (!pctx)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (!device_of(dev))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    context = calloc(1, sizeof(*context));
    if (!context)
        LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
    context->device = dev;
    result = activate(context);
    if (result == CUDA_SUCCESS && !current_push(context)) {
        deactivate(context);
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result != CUDA_SUCCESS) {
        free(context); /* nobody has seen its handle */
        LEAVE(result);
    }
    context->next = others;
    others = context;
    *pctx = context;
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev);
SIM_EXPORT CUresult cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev) {
    (void)flags; /* scheduling of the waiting thread: nothing is waited for here */
    return create(pctx, dev);
}

SIM_EXPORT CUresult cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams, unsigned int flags,
                                   CUdevice dev);
SIM_EXPORT CUresult cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams, unsigned int flags,
                                   CUdevice dev) {
    (void)flags;
    return paramsArray || numParams ? CUDA_ERROR_NOT_SUPPORTED : create(pctx, dev);
}

SIM_EXPORT CUresult cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags,
                                   CUdevice dev) {
    (void)flags;
    return ctxCreateParams ? CUDA_ERROR_NOT_SUPPORTED : create(pctx, dev);
}

SIM_EXPORT CUresult cuCtxDestroy_v2(CUcontext ctx) {
    ENTER();
    if (!ctx)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (!context_known(ctx) || ctx->primary)
        LEAVE(CUDA_ERROR_INVALID_CONTEXT);
    if (!ctx->active)
        LEAVE(CUDA_ERROR_CONTEXT_IS_DESTROYED);
    deactivate(ctx);
    current_forget(ctx);
    LEAVE(CUDA_SUCCESS);
}
