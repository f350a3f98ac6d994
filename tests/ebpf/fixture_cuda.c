/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A libcuda and a libcudart in one, for the witness's tests: addresses without memory behind them.
 *
 * A freed address is given out again at once, to whichever thread asks next, as a real allocator may do: that is where
 * a witness that looks at the wrong moment loses count.
 */
#include "fixture_cuda.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default"), noinline))
#define LARGEST_BYTES (1ULL << 40)
#define SLOTS (1 << 20)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t free_slots[SLOTS];
static unsigned char taken[SLOTS];
static uint32_t free_count, next_slot;
static int is_refusing;

static uint64_t take(void) {
    pthread_mutex_lock(&lock);
    uint32_t slot = free_count ? free_slots[--free_count] : next_slot++;
    if (slot >= SLOTS)
        abort();
    taken[slot] = 1;
    pthread_mutex_unlock(&lock);
    return FIXTURE_BASE + (uint64_t)slot * FIXTURE_STRIDE;
}

static int give_back(uint64_t address) {
    uint64_t slot = (address - FIXTURE_BASE) / FIXTURE_STRIDE;
    int result = CUDA_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    if (address >= FIXTURE_BASE && slot < next_slot && taken[slot]) {
        taken[slot] = 0;
        free_slots[free_count++] = (uint32_t)slot;
        result = 0;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORTED int cuMemAlloc_v2(uint64_t *address, size_t size_bytes) {
    if (size_bytes == FIXTURE_HANG)
        pause();
    if (size_bytes > LARGEST_BYTES)
        return CUDA_OUT_OF_MEMORY;
    *address = size_bytes ? take() : 0;
    return 0;
}

EXPORTED int cuMemFree_v2(uint64_t address) {
    if (is_refusing)
        return CUDA_INVALID_VALUE;
    return address ? give_back(address) : 0;
}

EXPORTED int cudaMalloc(void **address, size_t size_bytes) {
    if (size_bytes == FIXTURE_SLOW)
        usleep(FIXTURE_SLOW_US); /* as the first call of a process, which makes the context */
    volatile int result = cuMemAlloc_v2((uint64_t *)address, size_bytes); /* a real one does not end in a jump */
    return result;
}

EXPORTED int cudaFree(void *address) {
    return cuMemFree_v2((uint64_t)(uintptr_t)address);
}

/* As a free on a stream that is gone, or after an error that sticks: what it names stays alive. */
EXPORTED void fixture_refuse_frees(int refuse) {
    is_refusing = refuse;
}

/* Ways that no probe watches, as an application's own loader or an API that is not covered would be. */
EXPORTED uint64_t fixture_take_unseen(void) {
    return take();
}

EXPORTED int fixture_give_back_unseen(uint64_t address) {
    return give_back(address);
}
