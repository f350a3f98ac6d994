/* SPDX-License-Identifier: Apache-2.0 */
/* Which context a thread works in: a stack per thread. */
#include "sim.h"

#define DEPTH_MAX 64

static _Thread_local CUcontext stack[DEPTH_MAX];
static _Thread_local unsigned depth;

CUcontext current_context(void) {
    return depth ? stack[depth - 1] : NULL;
}

CUresult current_usable(CUcontext *context) {
    *context = current_context();
    if (!*context)
        return CUDA_ERROR_INVALID_CONTEXT;
    return (*context)->active ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

bool current_push(CUcontext context) {
    if (depth == DEPTH_MAX)
        return false;
    stack[depth++] = context;
    return true;
}

void current_forget(CUcontext context) {
    if (current_context() == context) /* further down, and in other threads, it stays as a destroyed one: measured */
        depth--;
}

SIM_EXPORT CUresult cuCtxGetCurrent(CUcontext *pctx) {
    ENTER();
    if (!pctx)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    *pctx = current_context();
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuCtxSetCurrent(CUcontext ctx) {
    ENTER();
    if (ctx && !context_known(ctx))
        LEAVE(CUDA_ERROR_INVALID_CONTEXT);
    if (depth)
        depth--;
    if (ctx)
        current_push(ctx); /* there is room: one was taken off, or none was there */
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuCtxPushCurrent_v2(CUcontext ctx) {
    ENTER();
    if (!ctx)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (!context_known(ctx))
        LEAVE(CUDA_ERROR_INVALID_CONTEXT);
    LEAVE(current_push(ctx) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

SIM_EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *pctx) {
    ENTER();
    if (!depth)
        LEAVE(CUDA_ERROR_INVALID_CONTEXT);
    depth--;
    if (pctx)
        *pctx = stack[depth];
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuCtxGetDevice(CUdevice *device) {
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    if (result == CUDA_SUCCESS && !device)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        *device = context->device;
    LEAVE(result);
}

/* Nothing computes, so nothing is waited for; but pools give back at this moment what was freed in them. */
static CUresult synchronize(CUcontext context) {
    CUresult result = capture_check();

    if (result == CUDA_SUCCESS)
        pools_synchronize(context->device);
    return result;
}

SIM_EXPORT CUresult cuCtxSynchronize(void) {
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    LEAVE(result == CUDA_SUCCESS ? synchronize(context) : result);
}

/* From CUDA 13 on the plain names take a context; NULL means the current one. */
SIM_EXPORT CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext ctx);
SIM_EXPORT CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext ctx) {
    if (!ctx)
        return cuCtxGetDevice(device);
    ENTER();
    if (!context_known(ctx))
        LEAVE(CUDA_ERROR_INVALID_CONTEXT);
    if (!device)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    *device = ctx->device;
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuCtxSynchronize_v2(CUcontext ctx);
SIM_EXPORT CUresult cuCtxSynchronize_v2(CUcontext ctx) {
    if (!ctx)
        return cuCtxSynchronize();
    ENTER();
    if (!context_known(ctx))
        LEAVE(CUDA_ERROR_INVALID_CONTEXT);
    LEAVE(ctx->active ? synchronize(ctx) : CUDA_ERROR_CONTEXT_IS_DESTROYED);
}
