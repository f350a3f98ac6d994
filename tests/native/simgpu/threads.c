/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many threads allocate and free in one context at random; each writes its mark into the ranges it holds, so that two
 * overlapping allocations are noticed. Prints `leaked <bytes> overlaps <n> failures <n>` and nothing else. With the
 * argument `async` they do it in the order of streams of their own, in one pool.
 */
#include <cuda_runtime_api.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
static bool in_streams;

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

static cudaError_t allocate(void **pointer, size_t size_bytes, cudaStream_t stream) {
    return in_streams ? cudaMallocAsync(pointer, size_bytes, stream) : cudaMalloc(pointer, size_bytes);
}

static cudaError_t release(void *pointer, cudaStream_t stream) {
    return in_streams ? cudaFreeAsync(pointer, stream) : cudaFree(pointer);
}

static void *work(void *argument) {
    const unsigned thread = (unsigned)(uintptr_t)argument;
    unsigned seed = thread + 1, failed = 0;
    void *held[HELD] = {NULL};
    cudaStream_t stream = NULL;

    if (in_streams)
        failed += cudaStreamCreate(&stream) != cudaSuccess;

    for (unsigned round = 0; round < ROUNDS + HELD; round++) {
        unsigned at = round % HELD;
        size_t size_bytes = (size_t)1 << (rand_r(&seed) % 23);

        size_bytes += (size_t)rand_r(&seed) % size_bytes;
        if (held[at]) {
            leave(thread * HELD + at);
            failed += release(held[at], stream) != cudaSuccess;
            held[at] = NULL;
        }
        if (in_streams && at == 0)
            failed += cudaStreamSynchronize(stream) != cudaSuccess;
        if (round >= ROUNDS)
            continue;
        if (allocate(&held[at], size_bytes, stream) == cudaSuccess)
            enter(thread * HELD + at, (uintptr_t)held[at], size_bytes);
        else
            failed++;
    }
    if (in_streams)
        failed += cudaStreamDestroy(stream) != cudaSuccess;
    __atomic_add_fetch(&failures, failed, __ATOMIC_RELAXED);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    size_t before_bytes, after_bytes, total_bytes;
    cudaStream_t streams[THREADS];

    in_streams = argc == 2 && strcmp(argv[1], "async") == 0;
    for (unsigned i = 0; in_streams && i < THREADS; i++) /* what streams take stays: it is no leak */
        if (cudaStreamCreate(&streams[i]) != cudaSuccess)
            return 1;
    for (unsigned i = 0; in_streams && i < THREADS; i++)
        if (cudaStreamDestroy(streams[i]) != cudaSuccess)
            return 1;
    if (cudaMemGetInfo(&before_bytes, &total_bytes) != cudaSuccess)
        return 1;
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)i);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    cudaDeviceSynchronize();
    if (cudaMemGetInfo(&after_bytes, &total_bytes) != cudaSuccess)
        return 1;
    printf("leaked %lld overlaps %u failures %u\n", (long long)(before_bytes - after_bytes), overlaps, failures);
    return 0;
}
