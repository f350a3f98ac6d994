/* SPDX-License-Identifier: Apache-2.0 */
#include "runtime.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>

#ifdef SIM_OLD_DLSYM
/* glibc 2.34 moved these from libdl to libc under a new version; the old one still exists and runs everywhere. */
#if defined(__x86_64__)
__asm__(".symver dlopen, dlopen@GLIBC_2.2.5\n.symver dlsym, dlsym@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver dlopen, dlopen@GLIBC_2.17\n.symver dlsym, dlsym@GLIBC_2.17");
#endif
#endif

typedef CUresult (*get_proc_address)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sim_cudart_driver functions;
static bool loaded;

static bool resolve(get_proc_address get, const char *name, int version, void **out) {
    CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;

    return get(name, out, version, CU_GET_PROC_ADDRESS_DEFAULT, &status) == CUDA_SUCCESS && *out &&
           status == CU_GET_PROC_ADDRESS_SUCCESS;
}

static bool load(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    void *entry = library ? dlsym(library, "cuGetProcAddress_v2") : NULL;
    get_proc_address get = (get_proc_address)entry;

    /* The library stays open for the life of the process. */
#define RESOLVE(name, version, signature) &&resolve(get, #name, version, (void **)&functions.p_##name)
    return get DRIVER_CALLS(RESOLVE);
}

const struct sim_cudart_driver *sim_cudart_functions(void) {
    bool ok;

    pthread_mutex_lock(&lock);
    if (!loaded)
        loaded = load();
    ok = loaded;
    pthread_mutex_unlock(&lock);
    return ok ? &functions : NULL;
}

const struct sim_cudart_driver *sim_cudart_driver(cudaError_t *error) {
    const struct sim_cudart_driver *driver = sim_cudart_functions();

    *error = driver ? (cudaError_t)driver->p_cuInit(0) : cudaErrorInsufficientDriver;
    return *error == cudaSuccess ? driver : NULL;
}
