/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls whose memory nobody can tell beforehand, and calls that only give back: made from symbols.def, since they are
 * all alike. The driver is asked first. So what is served from a pool, a loaded module or a warm graph costs no more
 * than this hook; only if the boundary refused something, the call waits for what it lacked and is made again.
 */
#include "reserve.h"

#define GROW(name, parameters, arguments)                                                                              \
    CUresult name parameters {                                                                                         \
        struct charge charge;                                                                                          \
        if (!charge_begin(&charge, CVG_API_##name))                                                                    \
            return driver()->name arguments;                                                                           \
        CUresult result = CUDA_ERROR_OUT_OF_MEMORY;                                                                    \
        while (charge_attempt(&charge, &result))                                                                       \
            result = driver()->name arguments;                                                                         \
        return result;                                                                                                 \
    }
#define ASYNC(name, parameters, arguments)                                                                             \
    CUresult name parameters {                                                                                         \
        struct charge charge;                                                                                          \
        if (!charge_begin(&charge, CVG_API_##name))                                                                    \
            return driver()->name arguments;                                                                           \
        charge_on_stream(&charge, hStream);                                                                            \
        CUresult result = CUDA_ERROR_OUT_OF_MEMORY;                                                                    \
        while (charge_attempt(&charge, &result))                                                                       \
            result = driver()->name arguments;                                                                         \
        return result;                                                                                                 \
    }
#define FREE(name, parameters, arguments)                                                                              \
    CUresult name parameters {                                                                                         \
        hook_enter();                                                                                                  \
        const CUresult result = driver()->name arguments;                                                              \
        hook_leave();                                                                                                  \
        return result;                                                                                                 \
    }
#define INIT(name, parameters, arguments)
#define RESOLVE(name, parameters, arguments)
#define ALLOC(name, parameters, arguments)
#define CONTEXT(name, parameters, arguments)
#define END(name, parameters, arguments)
#define CAPTURE(name, parameters, arguments)
#define CAPTURED(name, parameters, arguments)
#define VIEW(name, parameters, arguments)
#define CVG_HOOK(name, kind, parameters, arguments) kind(name, parameters, arguments)
#include "../symbols.def"
