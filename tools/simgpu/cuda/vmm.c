/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtual memory management: physical allocations, reserved addresses, and mappings of one into the other.
 *
 * Measured: cuMemCreate of 1 GiB takes it at once; mapping takes nothing; releasing the handle of mapped memory gives
 * nothing back; the unmapping that follows gives all of it. cuMemRetainAllocationHandle returns the same handle value.
 * Physical memory belongs to the device and outlives contexts.
 */
#include "sim.h"

#include <stdlib.h>

struct physical {
    CUdevice device;
    uint32_t handle;
    uint64_t size_bytes;
    unsigned references; /* of the handle */
    unsigned mappings;
    struct physical *next;
};

struct reservation {
    CUdeviceptr base;
    uint64_t size_bytes;
    struct reservation *next;
};

static struct physical *physicals;
static struct reservation *reservations;

static struct physical *find(CUmemGenericAllocationHandle handle) {
    for (struct physical *physical = physicals; physical; physical = physical->next)
        if ((uintptr_t)physical == handle && physical->references)
            return physical;
    return NULL;
}

static void drop_unused(struct physical *physical) {
    struct physical **link = &physicals;

    if (physical->references || physical->mappings)
        return;
    while (*link != physical)
        link = &(*link)->next;
    *link = physical->next;
    rm_object_free(device_of(physical->device)->handle, physical->handle);
    free(physical);
}

static CUresult check(const CUmemAllocationProp *prop) {
    if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE || prop->requestedHandleTypes != CU_MEM_HANDLE_TYPE_NONE)
        return CUDA_ERROR_NOT_SUPPORTED; /* host memory, memory to share through a descriptor */
    return device_of(prop->location.id) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

static bool whole_granules(uint64_t value) {
    return value != 0 && value % GRANULE_BYTES == 0;
}

SIM_EXPORT CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                                  CUmemAllocationGranularity_flags option) {
    CUresult result;

    ENTER();
    result = check(prop);
    if (result == CUDA_SUCCESS && (!granularity || option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        *granularity = GRANULE_BYTES;
    LEAVE(result);
}

SIM_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
                                unsigned long long flags) {
    struct physical *physical;
    CUresult result;

    ENTER();
    result = check(prop);
    if (result == CUDA_SUCCESS && (!handle || !whole_granules(size) || flags))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    physical = calloc(1, sizeof(*physical));
    if (!physical)
        LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
    result = rm_memory_create(device_of(prop->location.id)->handle, size, &physical->handle);
    if (result != CUDA_SUCCESS) {
        free(physical);
        LEAVE(result);
    }
    physical->device = prop->location.id;
    physical->size_bytes = size;
    physical->references = 1;
    physical->next = physicals;
    physicals = physical;
    *handle = (uintptr_t)physical;
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    struct physical *physical;

    ENTER();
    physical = find(handle);
    if (!physical)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    physical->references--;
    drop_unused(physical);
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr) {
    struct physical *physical;
    struct block *block;

    ENTER();
    block = block_find((CUdeviceptr)(uintptr_t)addr);
    if (!handle || !block || block->kind != BLOCK_MAPPED)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    physical = block->owner;
    physical->references++;
    *handle = (uintptr_t)physical;
    LEAVE(CUDA_SUCCESS);
}

/* The reservation that the whole range lies in; NULL: none. */
static struct reservation *reservation_of(CUdeviceptr base, uint64_t size_bytes) {
    struct reservation *reservation = reservations;

    while (reservation && (base < reservation->base || size_bytes > reservation->size_bytes ||
                           base - reservation->base > reservation->size_bytes - size_bytes))
        reservation = reservation->next;
    return reservation;
}

SIM_EXPORT CUresult cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr,
                                        unsigned long long flags) {
    struct reservation *reservation;

    ENTER();
    (void)addr; /* a wish, which the driver need not grant either */
    if (!ptr || !whole_granules(size) || alignment & (alignment - 1) || flags)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    reservation = calloc(1, sizeof(*reservation));
    if (reservation)
        reservation->base = address_reserve(size, alignment > GRANULE_BYTES ? alignment : GRANULE_BYTES, false);
    if (!reservation || !reservation->base) {
        free(reservation);
        LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
    }
    reservation->size_bytes = size;
    reservation->next = reservations;
    reservations = reservation;
    *ptr = reservation->base;
    LEAVE(CUDA_SUCCESS);
}

/* Whether anything is mapped in the range. */
static bool any_mapped(CUdeviceptr base, uint64_t size_bytes) {
    for (uint64_t offset = 0; offset < size_bytes; offset += GRANULE_BYTES)
        if (block_find(base + offset))
            return true;
    return false;
}

SIM_EXPORT CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size) {
    struct reservation **link = &reservations, *reservation;

    ENTER();
    while (*link && (*link)->base != ptr)
        link = &(*link)->next;
    reservation = *link;
    if (!reservation || reservation->size_bytes != size || any_mapped(ptr, size))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    *link = reservation->next;
    address_release(ptr, size);
    free(reservation);
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                             unsigned long long flags) {
    struct physical *physical;
    struct block *block;

    ENTER();
    physical = find(handle);
    if (!physical || !whole_granules(size) || size > physical->size_bytes || ptr % GRANULE_BYTES || offset || flags ||
        !reservation_of(ptr, size) || any_mapped(ptr, size))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    block = calloc(1, sizeof(*block));
    if (!block)
        LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
    block->base = ptr;
    block->size_bytes = size;
    block->requested_bytes = size;
    block->kind = BLOCK_MAPPED;
    block->device = physical->device;
    block->owner = physical;
    if (!block_enter(block)) {
        free(block);
        LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
    }
    physical->mappings++;
    LEAVE(CUDA_SUCCESS);
}

/* Whether the range is made of whole mappings. */
static bool whole_mappings(CUdeviceptr base, uint64_t size_bytes) {
    for (uint64_t offset = 0; offset < size_bytes;) {
        const struct block *block = block_find(base + offset);

        if (!block || block->kind != BLOCK_MAPPED || block->base != base + offset)
            return false;
        offset += block->size_bytes;
        if (offset > size_bytes)
            return false;
    }
    return true;
}

SIM_EXPORT CUresult cuMemUnmap(CUdeviceptr ptr, size_t size) {
    ENTER();
    if (!whole_granules(size) || !whole_mappings(ptr, size))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    for (uint64_t offset = 0; offset < size;) {
        struct block *block = block_find(ptr + offset);
        struct physical *physical = block->owner;

        offset += block->size_bytes;
        block_leave(block);
        free(block);
        physical->mappings--;
        drop_unused(physical);
    }
    LEAVE(CUDA_SUCCESS);
}

/* Checked and forgotten: simulated memory has no access to give. */
SIM_EXPORT CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count) {
    ENTER();
    if (!desc || !count || !whole_granules(size) || !whole_mappings(ptr, size))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++)
        if (desc[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE && !device_of(desc[i].location.id))
            LEAVE(CUDA_ERROR_INVALID_DEVICE);
    LEAVE(CUDA_SUCCESS);
}
