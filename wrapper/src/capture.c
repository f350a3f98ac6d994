/* SPDX-License-Identifier: Apache-2.0 */
#include "capture.h"

#include <stdatomic.h>

/* Counted rather than asked for at each stream: looked at only when a thread is about to wait. */
static atomic_int captures;

enum {
    ERROR_INVALID_CONTEXT = 201,
    ERROR_INVALID_HANDLE = 400,
    ERROR_ILLEGAL_STATE = 401,
    ERROR_WRONG_THREAD = 908 /* of a capture: it goes on */
};

bool capture_is_on(void) {
    return atomic_load_explicit(&captures, memory_order_relaxed) > 0;
}

void capture_forget_all(void) {
    atomic_store_explicit(&captures, 0, memory_order_relaxed);
}

static CUresult begun(CUresult result) {
    if (result == CUDA_SUCCESS)
        atomic_fetch_add_explicit(&captures, 1, memory_order_relaxed);
    return result;
}

/* A capture that was spoilt ends as well, with an error; these errors mean that none ended. */
static CUresult ended(CUresult result) {
    if (result == ERROR_INVALID_CONTEXT || result == ERROR_INVALID_HANDLE || result == ERROR_ILLEGAL_STATE ||
        result == ERROR_WRONG_THREAD || result == CUDA_ERROR_NOT_FOUND || result == CUDA_ERROR_NO_DEVICE)
        return result;
    int now = atomic_load_explicit(&captures, memory_order_relaxed);
    while (now > 0 && !atomic_compare_exchange_weak(&captures, &now, now - 1))
        ;
    return result;
}

#define CAPTURE(name, parameters, arguments)                                                                           \
    CUresult name parameters {                                                                                         \
        return begun(driver()->name arguments);                                                                        \
    }
#define CAPTURED(name, parameters, arguments)                                                                          \
    CUresult name parameters {                                                                                         \
        return ended(driver()->name arguments);                                                                        \
    }
#define INIT(name, parameters, arguments)
#define RESOLVE(name, parameters, arguments)
#define ALLOC(name, parameters, arguments)
#define CONTEXT(name, parameters, arguments)
#define GROW(name, parameters, arguments)
#define ASYNC(name, parameters, arguments)
#define FREE(name, parameters, arguments)
#define END(name, parameters, arguments)
#define VIEW(name, parameters, arguments)
#define CVG_HOOK(name, kind, parameters, arguments) kind(name, parameters, arguments)
#include "../symbols.def"
