/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small allocations, cut out of 2 MiB chunks in slots of 512 bytes. Measured: 4096 x 512 B take one chunk, 4096 x 513 B
 * take two; the newest chunk with a hole that fits is used first; an empty chunk goes back at once.
 */
#include "sim.h"

#include <stdlib.h>

#define SLOT_BYTES 512u
#define SLOTS (unsigned)(GRANULE_BYTES / SLOT_BYTES)

struct chunk {
    unsigned free_slots;
    uint32_t requested_bytes[SLOTS]; /* at the first slot of an allocation; 0 elsewhere */
};

static unsigned slots_of(uint64_t size_bytes) {
    return (unsigned)((size_bytes + SLOT_BYTES - 1) / SLOT_BYTES);
}

/* The first of `wanted` free slots in a row; SLOTS: there are none. */
static unsigned find_hole(const struct chunk *chunk, unsigned wanted) {
    unsigned run = 0;

    for (unsigned slot = 0; slot < SLOTS; slot++) {
        if (chunk->requested_bytes[slot]) { /* on to the last slot of this allocation */
            slot += slots_of(chunk->requested_bytes[slot]) - 1;
            run = 0;
        } else if (++run == wanted) {
            return slot + 1 - wanted;
        }
    }
    return SLOTS;
}

CUresult chunk_allocate(CUcontext context, uint64_t size_bytes, CUdeviceptr *pointer) {
    const unsigned wanted = slots_of(size_bytes);
    struct block *block;
    unsigned slot = SLOTS;
    CUresult result;

    for (block = context->chunks; block; block = block->next) {
        if (block->chunk->free_slots >= wanted)
            slot = find_hole(block->chunk, wanted);
        if (slot < SLOTS)
            break;
    }
    if (!block) {
        struct chunk *chunk = calloc(1, sizeof(*chunk));

        if (!chunk)
            return CUDA_ERROR_OUT_OF_MEMORY;
        block = block_create(context, GRANULE_BYTES, &result);
        if (!block) {
            free(chunk);
            return result;
        }
        chunk->free_slots = SLOTS;
        block->chunk = chunk;
        block_link(&context->chunks, block);
        slot = 0;
    }
    block->chunk->requested_bytes[slot] = (uint32_t)size_bytes;
    block->chunk->free_slots -= wanted;
    *pointer = block->base + (uint64_t)slot * SLOT_BYTES;
    return CUDA_SUCCESS;
}

bool chunk_free(struct block *block, CUdeviceptr pointer) {
    const uint64_t offset = pointer - block->base;
    const unsigned slot = (unsigned)(offset / SLOT_BYTES);
    struct chunk *chunk = block->chunk;

    if (offset % SLOT_BYTES || !chunk->requested_bytes[slot])
        return false;
    chunk->free_slots += slots_of(chunk->requested_bytes[slot]);
    chunk->requested_bytes[slot] = 0;
    if (chunk->free_slots == SLOTS)
        block_destroy(block);
    return true;
}

bool chunk_range(const struct block *block, CUdeviceptr pointer, CUdeviceptr *base, uint64_t *size_bytes) {
    const uint64_t offset = pointer - block->base;

    for (unsigned slot = (unsigned)(offset / SLOT_BYTES) + 1; slot-- > 0;) {
        if (block->chunk->requested_bytes[slot]) {
            *base = block->base + (uint64_t)slot * SLOT_BYTES;
            *size_bytes = block->chunk->requested_bytes[slot];
            return pointer - *base < *size_bytes;
        }
    }
    return false;
}
