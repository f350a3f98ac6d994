/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the modules of the simulated libcuda share.
 *
 * One lock guards all state of the process; it is held across the ioctl, as the real libcuda holds its own there.
 * Public functions take it with ENTER and give it back with LEAVE; functions of this header expect it to be held unless
 * they say otherwise. Current contexts are per thread and need no lock.
 */
#ifndef CONVGPU_SIM_CUDA_SIM_H
#define CONVGPU_SIM_CUDA_SIM_H

#include "cuda.h"
#include "sim_abi.h"

#include <stdbool.h>

#define SIM_EXPORT __attribute__((visibility("default")))

#define GRANULE_BYTES (2ull * 1024 * 1024) /* of physical allocations (measured on an H200) */

struct chunk;

/* One video-memory object and the addresses that mean it. */
struct block {
    CUdeviceptr base;
    uint64_t size_bytes;      /* of the addresses and of the memory: a multiple of the granule */
    uint64_t requested_bytes; /* as asked; of no meaning when it is a chunk */
    uint32_t handle;
    struct chunk *chunk; /* not NULL: shared by small allocations */
    struct CUctx_st *context;
    struct block *next, *previous; /* blocks of the context */
};

struct visible_device {
    uint32_t sim_index; /* NVML index */
    uint32_t handle;    /* of the resource manager's device object */
    uint32_t instance;
    uint64_t total_bytes;
    uint64_t context_bytes;
    uint32_t pci_domain, pci_bus, pci_device;
    uint8_t uuid[16];
    char name[SIM_NAME_BYTES];
};

#define CONTEXT_OBJECTS 17 /* as libcuda 580 makes them on an H100 */

/* Never freed, so that a stale handle is recognised and not mistaken for a new one: about 100 bytes per context. */
struct CUctx_st {
    CUdevice device;
    bool primary;
    bool active;       /* owns memory and may be used */
    unsigned retained; /* primary only */
    uint32_t objects[CONTEXT_OBJECTS];
    struct block *blocks;  /* large ones */
    struct block *chunks;  /* shared ones, newest first */
    struct CUctx_st *next; /* all contexts */
};

/* init.c */
CUresult sim_enter(void); /* takes the lock, unless it returns an error: not initialised, or a forked child */
void sim_leave(void);
#define ENTER()                                                                                                        \
    do {                                                                                                               \
        CUresult entered = sim_enter();                                                                                \
        if (entered != CUDA_SUCCESS)                                                                                   \
            return entered;                                                                                            \
    } while (0)
#define LEAVE(result) return sim_leave_with(result)
CUresult sim_leave_with(CUresult result);

/* visible.c: what CUDA_VISIBLE_DEVICES (NULL: not set) leaves of `count` devices; *chosen becomes their indices. */
CUresult visible_choose(const char *text, const struct visible_device *all, unsigned count, unsigned *chosen,
                        unsigned *chosen_count);

/* device.c */
CUresult devices_start(void);
const struct visible_device *device_of(CUdevice ordinal); /* NULL: no such device */

/* rm.c */
CUresult rm_start(void);
CUresult rm_device_instance(uint32_t domain, uint32_t bus, uint32_t slot, uint32_t *instance);
CUresult rm_device_create(uint32_t instance, uint32_t *handle);
CUresult rm_memory_create(uint32_t device_handle, uint64_t size_bytes, uint32_t *handle);
void rm_object_free(uint32_t parent, uint32_t handle);
CUresult rm_stats(uint32_t sim_index, struct sim_stats *out);

/* context.c, current.c */
bool context_known(CUcontext context); /* whether the handle was ever given out */
CUcontext current_context(void);       /* of this thread, NULL: none; may be destroyed */
CUresult current_usable(CUcontext *context);
bool current_push(CUcontext context);
void current_forget(CUcontext context); /* the context is destroyed: off the top of this thread's stack */

/* memory.c, chunk.c */
void memory_release_context(CUcontext context);
struct block *block_find(CUdeviceptr pointer);
struct block *block_create(CUcontext context, uint64_t asked_bytes, CUresult *result);
void block_destroy(struct block *block);
CUresult chunk_allocate(CUcontext context, uint64_t size_bytes, CUdeviceptr *pointer);
bool chunk_free(struct block *block, CUdeviceptr pointer); /* false: no allocation begins there */
/* The allocation that `pointer` is in; false: none. */
bool chunk_range(const struct block *block, CUdeviceptr pointer, CUdeviceptr *base, uint64_t *size_bytes);

#endif
