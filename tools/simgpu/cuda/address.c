/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses are reserved in the process itself: they collide with nothing, as under unified addressing. Those of video
 * memory have no access, so whoever touches simulated memory is told by a fault; managed and pinned host memory is
 * plain memory of the process.
 */
#define _GNU_SOURCE

#include "sim.h"

#include <search.h>
#include <sys/mman.h>

static void *tree; /* of all blocks, by address */

/* Overlapping ranges compare equal, so that a one-byte key finds the block that it lies in. */
static int compare(const void *left, const void *right) {
    const struct block *a = left, *b = right;

    if (a->base + a->size_bytes <= b->base)
        return -1;
    return b->base + b->size_bytes <= a->base;
}

struct block *block_find(CUdeviceptr pointer) {
    struct block key = {.base = pointer, .size_bytes = 1};
    struct block **found = tfind(&key, &tree, compare);

    return found ? *found : NULL;
}

bool block_enter(struct block *block) {
    return tsearch(block, &tree, compare) != NULL;
}

void block_leave(struct block *block) {
    tdelete(block, &tree, compare);
}

void block_link(struct block **list, struct block *block) {
    block->previous = NULL;
    block->next = *list;
    if (block->next)
        block->next->previous = block;
    *list = block;
}

void block_unlink(struct block **list, struct block *block) {
    *(block->previous ? &block->previous->next : list) = block->next;
    if (block->next)
        block->next->previous = block->previous;
}

uint64_t granules(uint64_t size_bytes) {
    if (size_bytes > UINT64_MAX - GRANULE_BYTES)
        return UINT64_MAX;
    return (size_bytes + GRANULE_BYTES - 1) / GRANULE_BYTES * GRANULE_BYTES;
}

CUdeviceptr address_reserve(uint64_t size_bytes, uint64_t alignment, bool accessible) {
    const int protection = accessible ? PROT_READ | PROT_WRITE : PROT_NONE;
    const uint64_t all_bytes = size_bytes + alignment;
    char *all, *aligned;

    if (all_bytes < size_bytes)
        return 0;
    all = mmap(NULL, all_bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return 0;
    aligned = (char *)(((uintptr_t)all + alignment - 1) / alignment * alignment);
    if (aligned > all)
        munmap(all, (size_t)(aligned - all));
    munmap(aligned + size_bytes, (size_t)(all + all_bytes - (aligned + size_bytes)));
    return (CUdeviceptr)(uintptr_t)aligned;
}

void address_release(CUdeviceptr base, uint64_t size_bytes) {
    munmap((void *)(uintptr_t)base, size_bytes);
}
