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

/* An H200's. Programs size their work by them, and the stack arena is as large as they make it (limit.c). */
#define MULTIPROCESSORS 132
#define THREADS_PER_MULTIPROCESSOR 2048

struct chunk;

enum block_kind {
    BLOCK_LINEAR,  /* cuMemAlloc, cuMemAllocPitch, and the chunks of small allocations */
    BLOCK_MANAGED, /* cuMemAllocManaged: no video memory of its own */
    BLOCK_HOST,    /* cuMemHostAlloc: likewise */
    BLOCK_POOL,    /* cut out of a pool; owner: the pool */
    BLOCK_MAPPED,  /* cuMemMap; owner: the physical allocation */
    BLOCK_GRAPH,   /* of an allocation node; owner: its struct graph_memory */
    BLOCK_IPC      /* another process's memory, opened here; owner: whose it is */
};

/* A range of addresses that means something, and the video-memory object behind it where it has one of its own. */
struct block {
    CUdeviceptr base;
    uint64_t size_bytes;      /* of the addresses: mostly a multiple of the granule */
    uint64_t requested_bytes; /* as asked; of no meaning when it is a chunk */
    uint32_t handle;          /* 0: none of its own */
    enum block_kind kind;
    CUdevice device;
    CUcontext context;   /* NULL: belongs to the device, as pools and mappings do */
    struct chunk *chunk; /* not NULL: shared by small allocations */
    void *owner;
    struct block *next, *previous; /* blocks of the context, or of the pool by address */
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

/* limit.c */
struct limits {
    uint64_t stack_bytes, fifo_bytes, heap_bytes;
    uint64_t arena_stack_bytes; /* the stack size that the arena was made for */
    bool heap_chosen;
    uint32_t heap_tables, heap; /* objects, 0: not taken yet */
};

/* stream.c */
struct stream_memory {
    unsigned live, most; /* streams now, and the most there have been */
    uint32_t *objects;
    unsigned object_count;
};

#define CONTEXT_OBJECTS 17 /* as libcuda 580 makes them on an H100 */

/* Never freed, so that a stale handle is recognised and not mistaken for a new one: about 100 bytes per context. */
struct CUctx_st {
    CUdevice device;
    bool primary;
    bool active;                       /* owns memory and may be used */
    unsigned retained;                 /* primary only */
    uint32_t objects[CONTEXT_OBJECTS]; /* the last one is the stack arena */
    struct limits limits;
    struct stream_memory stream_memory;
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
CUresult rm_memory_create(uint32_t device_handle, uint64_t size_bytes, uint32_t *handle); /* *handle: 0 if refused */
/* Another process's memory under a handle of ours; CUDA_ERROR_INVALID_VALUE: it has gone. */
CUresult rm_memory_duplicate(uint32_t device_handle, uint32_t source_client, uint32_t source_object, uint32_t *handle);
uint32_t rm_client(void);
void rm_object_free(uint32_t parent, uint32_t handle);
CUresult rm_stats(uint32_t sim_index, struct sim_stats *out);

/* context.c, current.c */
bool context_known(CUcontext context);           /* whether the handle was ever given out */
bool context_active_on(CUdevice device);         /* whether any context of the device is */
uint64_t context_arena_bytes(CUcontext context); /* of the stack arena at the default limit, as configured */
CUcontext current_context(void);                 /* of this thread, NULL: none; may be destroyed */
CUresult current_usable(CUcontext *context);
bool current_push(CUcontext context);
void current_forget(CUcontext context); /* the context is destroyed: off the top of this thread's stack */

/* address.c: addresses of this process, and what they mean */
CUdeviceptr address_reserve(uint64_t size_bytes, uint64_t alignment, bool accessible); /* 0: there are none */
void address_release(CUdeviceptr base, uint64_t size_bytes);
bool block_enter(struct block *block); /* from now on found by its addresses; false: no memory for that */
void block_leave(struct block *block);
struct block *block_find(CUdeviceptr pointer);
void block_link(struct block **list, struct block *block);
void block_unlink(struct block **list, struct block *block);
uint64_t granules(uint64_t size_bytes); /* rounded up; UINT64_MAX: too large for that */

/* memory.c, chunk.c */
void memory_release_context(CUcontext context);
/* A block of the context that takes this many bytes of video memory. The caller links it into a list of its context. */
struct block *block_create(CUcontext context, uint64_t asked_bytes, CUresult *result);
/* One around an object that exists (0: none), which is freed where this fails. */
struct block *block_adopt(CUcontext context, enum block_kind kind, uint64_t size_bytes, uint32_t handle,
                          CUresult *result);
void block_destroy(struct block *block);
CUresult memory_free(struct block *block, CUdeviceptr pointer); /* whatever cuMemFree takes */
CUresult chunk_allocate(CUcontext context, uint64_t size_bytes, CUdeviceptr *pointer);
bool chunk_free(struct block *block, CUdeviceptr pointer); /* false: no allocation begins there */
/* The allocation that `pointer` is in; false: none. */
bool chunk_range(const struct block *block, CUdeviceptr pointer, CUdeviceptr *base, uint64_t *size_bytes);

/* pool.c */
CUmemoryPool pool_current(CUdevice device); /* NULL: no memory for its own books */
bool pool_known(CUmemoryPool pool);
CUresult pool_allocate(CUmemoryPool pool, uint64_t size_bytes, CUdeviceptr *pointer);
void pool_free(struct block *block);
void pools_synchronize(CUdevice device); /* what is free and above the threshold goes back */
void pools_release_device(CUdevice device);

/* stream.c, capture.c */
struct CUstream_st {
    CUcontext context; /* NULL: the special streams, which every context has */
    bool legacy;
    enum CUstreamCaptureStatus_enum capture;
    CUstreamCaptureMode mode;
    const void *capturing_thread;
    CUgraph graph; /* of the capture */
    struct CUstream_st *next;
    struct CUstream_st *next_capturing;
};
/* What a handle means to this thread; `per_thread`: called through a _ptsz symbol. */
CUresult stream_find(CUstream handle, bool per_thread, struct CUstream_st **stream);
void streams_release_context(CUcontext context);
CUresult capture_check(void); /* CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: a capture forbids what is not a stream's */
void capture_invalidate(struct CUstream_st *stream);
void capture_drop(struct CUstream_st *stream);

/* graph.c, graph_memory.c */
struct graph_memory;
CUgraph graph_new(void);
void graph_drop(CUgraph graph);
CUresult graph_add_allocation(CUgraph graph, CUdevice device, uint64_t size_bytes, CUdeviceptr *pointer,
                              CUgraphNode *node);
CUresult graph_add_free(CUgraph graph, CUdeviceptr pointer, CUgraphNode *node);
CUresult graph_add_kernel(CUgraph graph);
struct graph_memory *graph_memory_create(CUdevice device, uint64_t size_bytes, CUdeviceptr *pointer);
void graph_memory_hold(struct graph_memory *memory);
void graph_memory_release(struct graph_memory *memory);
bool graph_memory_backed(const struct graph_memory *memory);
CUresult graph_memory_back(struct graph_memory *memory);
void graph_memory_unback(struct graph_memory *memory);
void graph_memory_release_device(CUdevice device);

/* array.c, module.c, limit.c */
void arrays_release_context(CUcontext context);
void modules_release_context(CUcontext context);
void limits_start(CUcontext context);
void limits_release(CUcontext context);
CUresult limits_module_load(CUcontext context);
CUresult limits_launch(CUcontext context);

#endif
