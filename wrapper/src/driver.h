/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CUDA driver as the wrapper sees it: the few types of its API that hooked calls use, and the table of the real
 * functions, learned from the loaded libcuda.
 */
#ifndef CVG_DRIVER_H
#define CVG_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef uint64_t cuuint64_t;
typedef struct CUctx_st *CUcontext;
typedef struct {
    uint8_t bytes[16];
} CUuuid;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100, /* here: a program calls a driver that is not loaded */
    CUDA_ERROR_NOT_FOUND = 500  /* here: the loaded driver has no such call */
};

/* Position in symbols.def, from 1: the `api` of a message. */
enum cvg_api {
    CVG_API_BOUNDARY = 0,
#define CVG_HOOK(name, kind, parameters, arguments) CVG_API_##name,
#include "../symbols.def"
    CVG_API_END
};

/* The real functions. Never null: what the loaded driver lacks answers CUDA_ERROR_NOT_FOUND. */
struct driver {
#define CVG_HOOK(name, kind, parameters, arguments) CUresult(*name) parameters;
#define CVG_CALL(name, parameters) CUresult(*name) parameters;
#include "../symbols.def"
};

/* The table; learned at the first call that finds libcuda loaded. Lock-free once learned. */
const struct driver *driver(void);

/*
 * Replaces a pointer to a real hooked function by the hook, and leaves every other pointer alone. By pointer and never
 * by name: cuGetProcAddress("cuMemAlloc", 12000) is cuMemAlloc_v2 and ("cuMemAlloc", 2000) is another function.
 */
void *driver_route(void *found);

/* The hook and the real function of a name, or false if the name is not hooked. `real` is null if libcuda lacks it. */
bool driver_hook_named(const char *name, void **hook, void **real);

/* Exported in the driver's place. */
#define CVG_EXPORT __attribute__((visibility("default")))
#define CVG_HOOK(name, kind, parameters, arguments) CVG_EXPORT CUresult name parameters;
#include "../symbols.def"

#endif
