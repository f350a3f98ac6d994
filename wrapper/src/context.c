/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver begins, and contexts. A context takes hundreds of MiB in some 20 allocations below one call, and nobody
 * can tell how much without making one. So what the largest one took on this device is reserved beforehand: as this
 * process measured it, or as the daemon hints from another. The first context of all is tried without; if the boundary
 * refuses a part of it, libcuda undoes the rest and reports out of memory, as it does on a full card, and the call
 * is made again once there is room for what it had and what it lacked.
 */
#include "client.h"
#include "clock.h"
#include "device.h"
#include "driver.h"
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

CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev) {
    struct charge charge;
    if (pctx == NULL || !charge_begin(&charge, CVG_API_cuDevicePrimaryCtxRetain))
        return driver()->cuDevicePrimaryCtxRetain(pctx, dev);
    charge_expect_context(&charge, device_slot(dev), primary_is_active(dev));
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result))
        result = driver()->cuDevicePrimaryCtxRetain(pctx, dev);
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
