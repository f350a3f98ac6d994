/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory pools: a range of addresses that is backed in chunks of 32 MiB as allocations need them, and what is cut out
 * of it. Measured with the default pool: 100 MiB take 128 MiB, 100 MiB more take 96, so an allocation may lie across
 * chunks; after both are freed and the device is synchronised, all 224 MiB are given back.
 *
 * Not measured: an allocation goes where the fewest chunks are missing, lowest address first; a pool made by the
 * program has chunks of the same size.
 */
#include "pool.h"

#include <stdlib.h>

#define CHUNK_BYTES (32ull * 1024 * 1024) /* the first allocation asks the driver for 33554432 bytes */
#define SLOT_BYTES 512ull
#define SPAN_FACTOR 2 /* of addresses to memory: holes must not be what an allocation fails of */

struct pool_chunk {
    uint32_t handle; /* 0: not backed */
    unsigned users;
    bool fresh; /* backed for the allocation that is being made */
};

static struct CUmemPoolHandle_st *pools;
static CUmemoryPool default_of[SIM_GPUS_MAX], current_of[SIM_GPUS_MAX];

bool pool_known(CUmemoryPool pool) {
    for (CUmemoryPool known = pools; known; known = known->next)
        if (known == pool)
            return !known->doomed;
    return false;
}

CUmemoryPool pool_create(CUdevice device, uint64_t max_bytes) {
    const uint64_t chunks = device_of(device)->total_bytes / CHUNK_BYTES * SPAN_FACTOR + 1;
    CUmemoryPool pool = calloc(1, sizeof(*pool));

    if (pool) {
        pool->device = device;
        pool->max_bytes = max_bytes;
        pool->chunk_count = chunks;
        pool->chunks = calloc(chunks, sizeof(*pool->chunks));
        pool->base = address_reserve(chunks * CHUNK_BYTES, GRANULE_BYTES, false);
        for (unsigned i = 0; i < POOL_REUSE_ATTRIBUTES; i++)
            pool->reuse[i] = 1;
    }
    if (!pool || !pool->chunks || !pool->base) {
        if (pool && pool->base)
            address_release(pool->base, chunks * CHUNK_BYTES);
        free(pool ? pool->chunks : NULL);
        free(pool);
        return NULL;
    }
    pool->next = pools;
    pools = pool;
    return pool;
}

static void end(CUmemoryPool pool) {
    CUmemoryPool *link = &pools;

    while (*link != pool)
        link = &(*link)->next;
    *link = pool->next;
    address_release(pool->base, pool->chunk_count * CHUNK_BYTES);
    free(pool->chunks);
    free(pool);
}

static CUresult back_chunk(CUmemoryPool pool, struct pool_chunk *chunk) {
    CUresult result;

    if (pool->max_bytes && pool->reserved_bytes + CHUNK_BYTES > pool->max_bytes)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = rm_memory_create(device_of(pool->device)->handle, CHUNK_BYTES, &chunk->handle);
    if (result != CUDA_SUCCESS)
        return result;
    chunk->fresh = true;
    pool->reserved_bytes += CHUNK_BYTES;
    return CUDA_SUCCESS;
}

static void unback_chunk(CUmemoryPool pool, struct pool_chunk *chunk) {
    rm_object_free(device_of(pool->device)->handle, chunk->handle);
    chunk->handle = 0;
    pool->reserved_bytes -= CHUNK_BYTES;
}

void pool_trim(CUmemoryPool pool, uint64_t keep_bytes) {
    for (uint64_t i = pool->chunk_count; i-- > 0 && pool->reserved_bytes > keep_bytes;)
        if (pool->chunks[i].handle && !pool->chunks[i].users)
            unback_chunk(pool, &pool->chunks[i]);
}

bool pool_destroy(CUmemoryPool pool) {
    if (pool == default_of[pool->device])
        return false;
    if (current_of[pool->device] == pool)
        current_of[pool->device] = NULL;
    pool->doomed = true; /* what is allocated in it stays until it is freed */
    pool_trim(pool, 0);
    if (!pool->first)
        end(pool);
    return true;
}

CUmemoryPool pool_default(CUdevice device) {
    if (!default_of[device])
        default_of[device] = pool_create(device, 0);
    return default_of[device];
}

CUmemoryPool pool_current(CUdevice device) {
    return current_of[device] ? current_of[device] : pool_default(device);
}

void pool_choose(CUdevice device, CUmemoryPool pool) {
    current_of[device] = pool;
}

static unsigned missing_chunks(CUmemoryPool pool, uint64_t offset, uint64_t size_bytes) {
    unsigned missing = 0;

    for (uint64_t i = offset / CHUNK_BYTES; i <= (offset + size_bytes - 1) / CHUNK_BYTES; i++)
        missing += !pool->chunks[i].handle;
    return missing;
}

/* The best hole of this size and the allocation before it (NULL: none); false: no hole is large enough. */
static bool find_hole(CUmemoryPool pool, uint64_t size_bytes, uint64_t *offset, struct block **before) {
    uint64_t begin = 0, end_offset;
    unsigned fewest = 0;
    bool found = false;

    for (struct block *block = pool->first, *previous = NULL;; previous = block, block = block->next) {
        end_offset = block ? block->base - pool->base : pool->chunk_count * CHUNK_BYTES;
        if (end_offset - begin >= size_bytes) {
            unsigned missing = missing_chunks(pool, begin, size_bytes);

            if (!found || missing < fewest) {
                found = true;
                fewest = missing;
                *offset = begin;
                *before = previous;
            }
        }
        if (!block || (found && !fewest))
            return found;
        begin = block->base + block->size_bytes - pool->base;
    }
}

/* Backs what is missing under a range; takes back what it took where one chunk is refused. */
static CUresult back(CUmemoryPool pool, uint64_t first, uint64_t last) {
    CUresult result = CUDA_SUCCESS;

    for (uint64_t i = first; i <= last && result == CUDA_SUCCESS; i++)
        if (!pool->chunks[i].handle)
            result = back_chunk(pool, &pool->chunks[i]);
    for (uint64_t i = first; i <= last; i++) {
        if (result != CUDA_SUCCESS && pool->chunks[i].fresh)
            unback_chunk(pool, &pool->chunks[i]);
        pool->chunks[i].fresh = false;
    }
    return result;
}

static void count_users(CUmemoryPool pool, const struct block *block, int change) {
    const uint64_t offset = block->base - pool->base;

    for (uint64_t i = offset / CHUNK_BYTES; i <= (offset + block->size_bytes - 1) / CHUNK_BYTES; i++)
        pool->chunks[i].users = (unsigned)((int)pool->chunks[i].users + change);
}

CUresult pool_allocate(CUmemoryPool pool, uint64_t size_bytes, CUdeviceptr *pointer) {
    const uint64_t rounded_bytes = (size_bytes + SLOT_BYTES - 1) / SLOT_BYTES * SLOT_BYTES;
    struct block *block, *before = NULL;
    uint64_t offset = 0;
    CUresult result;

    if (rounded_bytes < size_bytes || !find_hole(pool, rounded_bytes, &offset, &before))
        return CUDA_ERROR_OUT_OF_MEMORY;
    block = calloc(1, sizeof(*block));
    if (!block)
        return CUDA_ERROR_OUT_OF_MEMORY;
    block->base = pool->base + offset;
    block->size_bytes = rounded_bytes;
    block->requested_bytes = size_bytes;
    block->kind = BLOCK_POOL;
    block->device = pool->device;
    block->owner = pool;
    result = back(pool, offset / CHUNK_BYTES, (offset + rounded_bytes - 1) / CHUNK_BYTES);
    if (result == CUDA_SUCCESS && !block_enter(block))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS) {
        free(block);
        return result;
    }
    block->previous = before;
    block->next = before ? before->next : pool->first;
    *(before ? &before->next : &pool->first) = block;
    if (block->next)
        block->next->previous = block;
    count_users(pool, block, 1);
    pool->used_bytes += rounded_bytes;
    if (pool->used_bytes > pool->used_high_bytes)
        pool->used_high_bytes = pool->used_bytes;
    if (pool->reserved_bytes > pool->reserved_high_bytes)
        pool->reserved_high_bytes = pool->reserved_bytes;
    *pointer = block->base;
    return CUDA_SUCCESS;
}

/* The chunks stay until something synchronises, unless nobody can use the pool any more. */
void pool_free(struct block *block) {
    CUmemoryPool pool = block->owner;

    count_users(pool, block, -1);
    pool->used_bytes -= block->size_bytes;
    block_unlink(&pool->first, block);
    block_leave(block);
    free(block);
    if (!pool->doomed)
        return;
    pool_trim(pool, 0);
    if (!pool->first)
        end(pool);
}

void pools_synchronize(CUdevice device) {
    for (CUmemoryPool pool = pools; pool; pool = pool->next)
        if (pool->device == device)
            pool_trim(pool, pool->threshold_bytes);
}

/* Nothing of the device is left. Pools keep their handles, and the default one is the current one again. */
void pools_release_device(CUdevice device) {
    current_of[device] = NULL;
    for (CUmemoryPool pool = pools, next; pool; pool = next) {
        bool doomed = pool->doomed;

        next = pool->next;
        if (pool->device != device)
            continue;
        pool->doomed = false; /* or the last block would take the pool along */
        while (pool->first)
            pool_free(pool->first);
        pool_trim(pool, 0);
        if (pool == default_of[device])
            pool->threshold_bytes = 0;
        if (doomed)
            end(pool);
    }
}
