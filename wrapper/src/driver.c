/* SPDX-License-Identifier: Apache-2.0 */
#include "driver.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>

#include "libc.h"
#include "log.h"

/* A driver function of any signature; converted back before every call. */
typedef void (*any_function)(void);

static CUresult absent(void);

/* What stands in for a function that the loaded libcuda does not have. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define CVG_HOOK(name, kind, parameters, arguments)                                                                    \
    static CUresult missing_##name parameters {                                                                        \
        return absent();                                                                                               \
    }
#define CVG_CALL(name, parameters)                                                                                     \
    static CUresult missing_##name parameters {                                                                        \
        return absent();                                                                                               \
    }
#include "../symbols.def"
#pragma GCC diagnostic pop

static const struct driver missing = {
#define CVG_HOOK(name, kind, parameters, arguments) .name = missing_##name,
#define CVG_CALL(name, parameters) .name = missing_##name,
#include "../symbols.def"
};

static struct driver learned;
static struct route {
    const char *name;
    any_function hook;
    any_function real; /* null until learned, and where libcuda has none */
} routes[] = {
#define CVG_HOOK(name, kind, parameters, arguments) {#name, (any_function)name, NULL},
#include "../symbols.def"
};
enum { ROUTES = sizeof(routes) / sizeof(routes[0]) };

static atomic_int progress;
enum { UNLEARNED = 0, COPYING = 1, LEARNED = 2 };

static CUresult absent(void) {
    return atomic_load_explicit(&progress, memory_order_acquire) == LEARNED ? CUDA_ERROR_NOT_FOUND
                                                                            : CUDA_ERROR_NO_DEVICE;
}

/* ISO C has no conversion between the two kinds of pointers; POSIX promises that the bits are the same. */
static any_function to_function(void *pointer) {
    any_function function;
    memcpy(&function, &pointer, sizeof(function));
    return function;
}

static void *to_pointer(any_function function) {
    void *pointer;
    memcpy(&pointer, &function, sizeof(pointer));
    return pointer;
}

/*
 * No lock is held around dlopen and dlsym: the loader has a lock of its own, and a library's constructor may call CUDA
 * while its thread holds that one. Every thread that comes first looks everything up; one of them publishes it.
 */
static bool learn(void) {
    const struct libc_functions *libc = libc_functions();
    if (libc->dlopen == NULL || libc->dlsym == NULL)
        return false;
    /* The handle is kept on purpose: it pins libcuda, so that the pointers below stay valid. */
    void *library = libc->dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL)
        return false;
    struct driver found = missing;
    any_function hooked[ROUTES];
    unsigned int next = 0;
    any_function function;
#define CVG_HOOK(name, kind, parameters, arguments)                                                                    \
    function = to_function(libc->dlsym(library, #name));                                                               \
    if (function != NULL)                                                                                              \
        found.name = (CUresult(*) parameters)function;                                                                 \
    hooked[next++] = function;
#define CVG_CALL(name, parameters)                                                                                     \
    function = to_function(libc->dlsym(library, #name));                                                               \
    if (function != NULL)                                                                                              \
        found.name = (CUresult(*) parameters)function;
#include "../symbols.def"
    if (libc->dlerror != NULL)
        (void)libc->dlerror(); /* a call that this driver lacks is no error of the program */
    int expected = UNLEARNED;
    if (atomic_compare_exchange_strong_explicit(&progress, &expected, COPYING, memory_order_acquire,
                                                memory_order_acquire)) {
        learned = found;
        for (unsigned int index = 0; index < ROUTES; index++)
            routes[index].real = hooked[index];
        atomic_store_explicit(&progress, LEARNED, memory_order_release);
        log_debug("libcuda is loaded, %u calls are hooked", next);
    }
    while (atomic_load_explicit(&progress, memory_order_acquire) != LEARNED)
        ; /* another thread copies a few hundred bytes */
    return true;
}

static bool is_learned(void) {
    return atomic_load_explicit(&progress, memory_order_acquire) == LEARNED || learn();
}

const struct driver *driver(void) {
    return is_learned() ? &learned : &missing;
}

void *driver_route(void *found) {
    if (found == NULL || atomic_load_explicit(&progress, memory_order_acquire) != LEARNED)
        return found;
    for (unsigned int index = 0; index < ROUTES; index++)
        if (to_pointer(routes[index].real) == found)
            return to_pointer(routes[index].hook);
    return found;
}

bool driver_hook_named(const char *name, void **hook, void **real) {
    for (unsigned int index = 0; index < ROUTES; index++)
        if (strcmp(routes[index].name, name) == 0) {
            *hook = to_pointer(routes[index].hook);
            *real = is_learned() ? to_pointer(routes[index].real) : NULL;
            return true;
        }
    return false;
}
