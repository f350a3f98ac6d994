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
typedef struct CUstream_st *CUstream;
typedef struct CUarray_st *CUarray;
typedef struct CUmipmappedArray_st *CUmipmappedArray;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
typedef struct CUmod_st *CUmodule;
typedef struct CUlib_st *CUlibrary;
typedef struct CUkern_st *CUkernel;
typedef struct CUfunc_st *CUfunction;
typedef struct CUgreenCtx_st *CUgreenCtx;
typedef struct CUmemPoolHandle_st *CUmemoryPool;
typedef unsigned long long CUmemGenericAllocationHandle;
typedef struct {
    uint8_t bytes[16];
} CUuuid;

/* The beginning of CUmemAllocationProp. */
typedef struct {
    int type;
    int requested_handle_types;
    int location_type;
    int location_id;
} CUmemAllocationProp;

typedef struct {
    size_t width;
    size_t height;
    int format;
    unsigned int channels;
} CUDA_ARRAY_DESCRIPTOR;

typedef struct {
    size_t width;
    size_t height;
    size_t depth;
    int format;
    unsigned int channels;
    unsigned int flags;
} CUDA_ARRAY3D_DESCRIPTOR;

enum { CU_MEM_LOCATION_TYPE_DEVICE = 1 };
enum { CU_LIMIT_STACK_SIZE = 0 };
enum { CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR = 39 };

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
