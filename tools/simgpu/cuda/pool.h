/* SPDX-License-Identifier: Apache-2.0 */
/* What the calls for memory pools (async.c) know of a pool; everybody else has sim.h. The lock is held throughout. */
#ifndef CONVGPU_SIM_CUDA_POOL_H
#define CONVGPU_SIM_CUDA_POOL_H

#include "sim.h"

#define POOL_REUSE_ATTRIBUTES 3

struct pool_chunk;

struct CUmemPoolHandle_st {
    CUdevice device;
    uint64_t max_bytes; /* 0: as much as there is */
    uint64_t threshold_bytes;
    uint64_t reserved_bytes, reserved_high_bytes; /* backed */
    uint64_t used_bytes, used_high_bytes;         /* allocated */
    int reuse[POOL_REUSE_ATTRIBUTES];             /* kept and given back: every reuse is allowed where nothing runs */
    bool doomed;                                  /* destroyed, but something is allocated in it */
    CUdeviceptr base;
    struct pool_chunk *chunks;
    uint64_t chunk_count;
    struct block *first; /* allocations by address */
    CUmemoryPool next;
};

CUmemoryPool pool_create(CUdevice device, uint64_t max_bytes); /* NULL: no memory for its own books */
bool pool_destroy(CUmemoryPool pool);                          /* false: it is the default one of its device */
CUmemoryPool pool_default(CUdevice device);
void pool_choose(CUdevice device, CUmemoryPool pool);
void pool_trim(CUmemoryPool pool, uint64_t keep_bytes);

#endif
