/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many threads allocate and free in one context at random; each writes its mark into the ranges it holds, so that two
 * overlapping allocations are noticed. Prints `leaked <bytes> overlaps <n> failures <n>` and nothing else.
 */
#include <cuda_runtime_api.h>

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define THREADS 8
#define ROUNDS 397 /* a prime: no figure comes out right by symmetry */
#define HELD 16
#define LIVE_MAX (THREADS * HELD)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    uintptr_t base;
    size_t size_bytes;
} live[LIVE_MAX];
static unsigned overlaps, failures;

static void enter(unsigned slot, uintptr_t base, size_t size_bytes) {
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < LIVE_MAX; i++)
        if (live[i].size_bytes && base < live[i].base + live[i].size_bytes && live[i].base < base + size_bytes)
            overlaps++;
    live[slot].base = base;
    live[slot].size_bytes = size_bytes;
    pthread_mutex_unlock(&lock);
}

static void leave(unsigned slot) {
    pthread_mutex_lock(&lock);
    live[slot].size_bytes = 0;
    pthread_mutex_unlock(&lock);
}

static void *work(void *argument) {
    const unsigned thread = (unsigned)(uintptr_t)argument;
    unsigned seed = thread + 1, failed = 0;
    void *held[HELD] = {NULL};

    for (unsigned round = 0; round < ROUNDS + HELD; round++) {
        unsigned at = round % HELD;
        size_t size_bytes = (size_t)1 << (rand_r(&seed) % 23);

        size_bytes += (size_t)rand_r(&seed) % size_bytes;
        if (held[at]) {
            leave(thread * HELD + at);
            failed += cudaFree(held[at]) != cudaSuccess;
            held[at] = NULL;
        }
        if (round >= ROUNDS)
            continue;
        if (cudaMalloc(&held[at], size_bytes) == cudaSuccess)
            enter(thread * HELD + at, (uintptr_t)held[at], size_bytes);
        else
            failed++;
    }
    __atomic_add_fetch(&failures, failed, __ATOMIC_RELAXED);
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    size_t before_bytes, after_bytes, total_bytes;

    if (cudaMemGetInfo(&before_bytes, &total_bytes) != cudaSuccess)
        return 1;
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)i);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    if (cudaMemGetInfo(&after_bytes, &total_bytes) != cudaSuccess)
        return 1;
    printf("leaked %lld overlaps %u failures %u\n", (long long)(before_bytes - after_bytes), overlaps, failures);
    return 0;
}
