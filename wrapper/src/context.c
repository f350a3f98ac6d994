/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver begins, and contexts. A context takes hundreds of MiB in some 20 allocations below one call, and nobody
 * can tell how much without making one. So what the largest one took on this device is reserved beforehand: as this
 * process measured it, or as the daemon hints from another. The first context of all is tried without; if the boundary
 * refuses a part of it, libcuda undoes the rest and reports out of memory, as it does on a full card, and the call
 * is made again once there is room for what it had and what it lacked.
 */
#include <stdatomic.h>

#include "client.h"
#include "clock.h"
#include "device.h"
#include "driver.h"
#include "managed.h"
#include "reserve.h"

/* Joined before the driver starts, so that the wrapper sees it ask which device instance is which GPU. */
CUresult cuInit(unsigned int flags) {
    if (!client_is_passive() && thread_state.depth == 0)
        (void)client_join(DEADLINE_NEVER);
    return driver()->cuInit(flags);
}

/* Retaining a context that is there takes nothing; the runtime does it all the time. */
static bool primary_is_active(CUdevice device) {
    unsigned int flags;
    int active;
    return driver()->cuDevicePrimaryCtxGetState(device, &flags, &active) == CUDA_SUCCESS && active != 0;
}

/* By ordinal: the primary context as it was last handed out, to know whose memory ends with it. */
enum { PRIMARIES_KEPT = 64 };
static _Atomic(CUcontext) primaries[PRIMARIES_KEPT];

static void note_primary(CUdevice device, CUcontext context) {
    if (device >= 0 && device < PRIMARIES_KEPT)
        atomic_store_explicit(&primaries[device], context, memory_order_relaxed);
}

static CUcontext noted_primary(CUdevice device) {
    return device >= 0 && device < PRIMARIES_KEPT ? atomic_load_explicit(&primaries[device], memory_order_relaxed)
                                                  : NULL;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev) {
    struct charge charge;
    if (pctx == NULL || !charge_begin(&charge, CVG_API_cuDevicePrimaryCtxRetain))
        return driver()->cuDevicePrimaryCtxRetain(pctx, dev);
    charge_expect_context(&charge, device_slot(dev), primary_is_active(dev));
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result))
        result = driver()->cuDevicePrimaryCtxRetain(pctx, dev);
    if (result == CUDA_SUCCESS)
        note_primary(dev, *pctx);
    return result;
}

/* The generations of cuCtxCreate differ in what stands between the first argument and the last. */
#define CONTEXT_CREATE(name, parameters, arguments)                                                                    \
    CUresult name parameters {                                                                                         \
        struct charge charge;                                                                                          \
        if (pctx == NULL || !charge_begin(&charge, CVG_API_##name))                                                    \
            return driver()->name arguments;                                                                           \
        charge_expect_context(&charge, device_slot(dev), false);                                                       \
        CUresult result = CUDA_ERROR_OUT_OF_MEMORY;                                                                    \
        while (charge_attempt(&charge, &result))                                                                       \
            result = driver()->name arguments;                                                                         \
        return result;                                                                                                 \
    }

CONTEXT_CREATE(cuCtxCreate_v2, (CUcontext * pctx, unsigned int flags, CUdevice dev), (pctx, flags, dev))
CONTEXT_CREATE(cuCtxCreate_v3, (CUcontext * pctx, void *paramsArray, int numParams, unsigned int flags, CUdevice dev),
               (pctx, paramsArray, numParams, flags, dev))
CONTEXT_CREATE(cuCtxCreate_v4, (CUcontext * pctx, void *ctxCreateParams, unsigned int flags, CUdevice dev),
               (pctx, ctxCreateParams, flags, dev))

/* It comes with the primary context of its device, if that is not there yet. */
CUresult cuGreenCtxCreate(CUgreenCtx *phCtx, void *desc, CUdevice dev, unsigned int flags) {
    struct charge charge;
    if (phCtx == NULL || !charge_begin(&charge, CVG_API_cuGreenCtxCreate))
        return driver()->cuGreenCtxCreate(phCtx, desc, dev, flags);
    charge_expect_context(&charge, device_slot(dev), primary_is_active(dev));
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result))
        result = driver()->cuGreenCtxCreate(phCtx, desc, dev, flags);
    return result;
}

/* ---- Limits of a context ---- */

/*
 * Room for the stacks of all threads that can run at once: multiprocessors x threads of each x bytes (on an H200, 8 KiB
 * instead of 1 KiB took 1848 MiB = 132 x 2048 x 7 KiB, at once). 0: it does not grow, or the driver does not say.
 */
static uint64_t stack_growth_bytes(size_t value) {
    CUdevice device;
    size_t now;
    int processors;
    int threads;
    if (driver()->cuCtxGetDevice(&device) != CUDA_SUCCESS ||
        driver()->cuCtxGetLimit(&now, CU_LIMIT_STACK_SIZE) != CUDA_SUCCESS || value <= now ||
        driver()->cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device) != CUDA_SUCCESS ||
        driver()->cuDeviceGetAttribute(&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, device) !=
            CUDA_SUCCESS)
        return 0;
    uint64_t growth_bytes;
    const uint64_t stacks = (uint64_t)processors * (uint64_t)threads;
    return __builtin_mul_overflow(stacks, value - now, &growth_bytes) ? UINT64_MAX : growth_bytes;
}

/* The malloc heap is taken when a module is loaded or a kernel launched, and waits there. */
CUresult cuCtxSetLimit(int limit, size_t value) {
    struct charge charge;
    if (!charge_begin(&charge, CVG_API_cuCtxSetLimit))
        return driver()->cuCtxSetLimit(limit, value);
    if (limit == CU_LIMIT_STACK_SIZE) {
        charge.is_guess = true;
        charge_expect(&charge, device_slot_current(), stack_growth_bytes(value));
    }
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result))
        result = driver()->cuCtxSetLimit(limit, value);
    return result;
}

/* ---- The end of a context ---- */

#define CONTEXT_DESTROY(name)                                                                                          \
    CUresult name(CUcontext ctx) {                                                                                     \
        hook_enter();                                                                                                  \
        const CUresult result = driver()->name(ctx);                                                                   \
        if (result == CUDA_SUCCESS)                                                                                    \
            managed_end_context(ctx);                                                                                  \
        hook_leave();                                                                                                  \
        return result;                                                                                                 \
    }

/* Released by its last holder, or reset, a primary context is there no more. */
#define PRIMARY_LEAVE(name)                                                                                            \
    CUresult name(CUdevice dev) {                                                                                      \
        hook_enter();                                                                                                  \
        const CUresult result = driver()->name(dev);                                                                   \
        if (result == CUDA_SUCCESS && noted_primary(dev) != NULL && !primary_is_active(dev))                           \
            managed_end_context(noted_primary(dev));                                                                   \
        hook_leave();                                                                                                  \
        return result;                                                                                                 \
    }

CONTEXT_DESTROY(cuCtxDestroy)
CONTEXT_DESTROY(cuCtxDestroy_v2)
PRIMARY_LEAVE(cuDevicePrimaryCtxRelease)
PRIMARY_LEAVE(cuDevicePrimaryCtxRelease_v2)
PRIMARY_LEAVE(cuDevicePrimaryCtxReset)
PRIMARY_LEAVE(cuDevicePrimaryCtxReset_v2)
