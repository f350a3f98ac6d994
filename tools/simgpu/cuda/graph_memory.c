/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of allocation nodes. A node has its address from the moment it is made; the memory behind it comes with
 * the launch and, once freed, is kept for other graphs of the device until it is trimmed. Measured with a node of
 * 512 MiB: built 0, launched +512, trimmed -512.
 *
 * Not measured: how the real driver cuts this memory up. Here every node has an object of whole granules.
 */
#include "sim.h"

#include <stdlib.h>

struct graph_memory {
    struct block block;
    uint64_t size_bytes;   /* of its addresses */
    uint64_t object_bytes; /* while it is backed: a spare object may be larger */
    unsigned holders;      /* nodes and executables, and one while it is backed */
    struct graph_memory *next;
};

struct spare {
    CUdevice device;
    uint32_t handle;
    uint64_t size_bytes;
    struct spare *next;
};

static struct graph_memory *memories;
static struct spare *spares;
static struct { uint64_t used_bytes, used_high_bytes, reserved_bytes, reserved_high_bytes; } figures[SIM_GPUS_MAX];

struct graph_memory *graph_memory_create(CUdevice device, uint64_t size_bytes, CUdeviceptr *pointer) {
    struct graph_memory *memory = calloc(1, sizeof(*memory));

    if (!memory)
        return NULL;
    memory->size_bytes = granules(size_bytes);
    memory->block.base = address_reserve(memory->size_bytes, GRANULE_BYTES, false);
    memory->block.size_bytes = memory->size_bytes;
    memory->block.requested_bytes = size_bytes;
    memory->block.kind = BLOCK_GRAPH;
    memory->block.device = device;
    memory->block.owner = memory;
    if (!memory->block.base || !block_enter(&memory->block)) {
        if (memory->block.base)
            address_release(memory->block.base, memory->size_bytes);
        free(memory);
        return NULL;
    }
    memory->holders = 1;
    memory->next = memories;
    memories = memory;
    *pointer = memory->block.base;
    return memory;
}

void graph_memory_hold(struct graph_memory *memory) {
    memory->holders++;
}

void graph_memory_release(struct graph_memory *memory) {
    struct graph_memory **link = &memories;

    if (--memory->holders)
        return;
    while (*link != memory)
        link = &(*link)->next;
    *link = memory->next;
    block_leave(&memory->block);
    address_release(memory->block.base, memory->size_bytes);
    free(memory);
}

bool graph_memory_backed(const struct graph_memory *memory) {
    return memory->block.handle != 0;
}

/* The smallest spare object that is large enough; NULL: there is none. */
static struct spare **best_spare(CUdevice device, uint64_t size_bytes) {
    struct spare **best = NULL;

    for (struct spare **link = &spares; *link; link = &(*link)->next)
        if ((*link)->device == device && (*link)->size_bytes >= size_bytes &&
            (!best || (*link)->size_bytes < (*best)->size_bytes))
            best = link;
    return best;
}

static void count(CUdevice device, int64_t used_bytes, int64_t reserved_bytes) {
    figures[device].used_bytes += (uint64_t)used_bytes;
    figures[device].reserved_bytes += (uint64_t)reserved_bytes;
    if (figures[device].used_bytes > figures[device].used_high_bytes)
        figures[device].used_high_bytes = figures[device].used_bytes;
    if (figures[device].reserved_bytes > figures[device].reserved_high_bytes)
        figures[device].reserved_high_bytes = figures[device].reserved_bytes;
}

CUresult graph_memory_back(struct graph_memory *memory) {
    const CUdevice device = memory->block.device;
    struct spare **link = best_spare(device, memory->size_bytes);
    CUresult result;

    if (link) {
        struct spare *spare = *link;

        *link = spare->next;
        memory->block.handle = spare->handle;
        memory->object_bytes = spare->size_bytes;
        free(spare);
    } else {
        result = rm_memory_create(device_of(device)->handle, memory->size_bytes, &memory->block.handle);
        if (result != CUDA_SUCCESS)
            return result;
        memory->object_bytes = memory->size_bytes;
        count(device, 0, (int64_t)memory->object_bytes);
    }
    count(device, (int64_t)memory->object_bytes, 0);
    graph_memory_hold(memory);
    return CUDA_SUCCESS;
}

void graph_memory_unback(struct graph_memory *memory) {
    const CUdevice device = memory->block.device;
    struct spare *spare = malloc(sizeof(*spare));

    count(device, -(int64_t)memory->object_bytes, 0);
    if (spare) {
        *spare = (struct spare){device, memory->block.handle, memory->object_bytes, spares};
        spares = spare;
    } else {
        rm_object_free(device_of(device)->handle, memory->block.handle);
        count(device, 0, -(int64_t)memory->object_bytes);
    }
    memory->block.handle = 0;
    graph_memory_release(memory);
}

static void trim(CUdevice device) {
    for (struct spare **link = &spares; *link;) {
        struct spare *spare = *link;

        if (spare->device != device) {
            link = &spare->next;
            continue;
        }
        *link = spare->next;
        rm_object_free(device_of(device)->handle, spare->handle);
        count(device, 0, -(int64_t)spare->size_bytes);
        free(spare);
    }
}

void graph_memory_release_device(CUdevice device) {
    for (struct graph_memory *memory = memories, *next; memory; memory = next) {
        next = memory->next;
        if (memory->block.device == device && graph_memory_backed(memory))
            graph_memory_unback(memory);
    }
    trim(device);
}

SIM_EXPORT CUresult cuDeviceGraphMemTrim(CUdevice device) {
    ENTER();
    if (!device_of(device))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    trim(device);
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value) {
    ENTER();
    if (!device_of(device))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    if (!value)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    switch (attr) {
    case CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT:
        *(cuuint64_t *)value = figures[device].used_bytes;
        break;
    case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH:
        *(cuuint64_t *)value = figures[device].used_high_bytes;
        break;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT:
        *(cuuint64_t *)value = figures[device].reserved_bytes;
        break;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH:
        *(cuuint64_t *)value = figures[device].reserved_high_bytes;
        break;
    default:
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    }
    LEAVE(CUDA_SUCCESS);
}
