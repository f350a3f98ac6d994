/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls the fixture library as told on standard input, one command a line, and answers each with a line:
 *
 *   runtime ALLOCATIONS FREES BYTES     cudaMalloc so often, then cudaFree so many of them
 *   driver ALLOCATIONS FREES BYTES      the same with cuMemAlloc_v2 and cuMemFree_v2
 *   fail COUNT                          cudaMalloc of more than there is
 *   hang                                a thread calls cudaMalloc and never comes back
 *   nothing                             cudaMalloc of 0 bytes, cudaFree of NULL, cudaFree of a wrong address
 *   unknown-free COUNT                  cudaFree of addresses that were not seen allocated
 *   refused-free ALLOCATIONS FREES BYTES      as `runtime`, but every free fails once before
 *   missed-free BYTES                   cudaMalloc, a free that nobody sees, cudaMalloc of the same address
 *   threads THREADS ALLOCATIONS FREES BYTES   in each thread, interleaved
 *   fork ALLOCATIONS FREES BYTES        in a child that then ends; answers with the child's pid
 *   leader-exit                         the first thread ends, another goes on reading
 *   time COUNT                          nanoseconds for a pair of cuMemAlloc_v2 and cuMemFree_v2
 */
#include "fixture_cuda.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct work {
    long allocations, frees;
    size_t size_bytes;
};

static void must(int good, const char *what) {
    if (!good) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

static void runtime_calls(struct work work) {
    void **addresses = calloc((size_t)work.allocations, sizeof(void *));
    for (long i = 0; i < work.allocations; i++)
        must(cudaMalloc(&addresses[i], work.size_bytes) == 0, "cudaMalloc failed");
    for (long i = 0; i < work.frees; i++)
        must(cudaFree(addresses[i]) == 0, "cudaFree failed");
    free(addresses);
}

static void driver_calls(struct work work) {
    uint64_t *addresses = calloc((size_t)work.allocations, sizeof(uint64_t));
    for (long i = 0; i < work.allocations; i++)
        must(cuMemAlloc_v2(&addresses[i], work.size_bytes) == 0, "cuMemAlloc_v2 failed");
    for (long i = 0; i < work.frees; i++)
        must(cuMemFree_v2(addresses[i]) == 0, "cuMemFree_v2 failed");
    free(addresses);
}

static void refused_frees(struct work work) {
    void **addresses = calloc((size_t)work.allocations, sizeof(void *));
    for (long i = 0; i < work.allocations; i++)
        must(cudaMalloc(&addresses[i], work.size_bytes) == 0, "cudaMalloc failed");
    fixture_refuse_frees(1);
    for (long i = 0; i < work.allocations; i++)
        must(cudaFree(addresses[i]) == CUDA_INVALID_VALUE, "cudaFree should have failed");
    fixture_refuse_frees(0);
    for (long i = 0; i < work.frees; i++)
        must(cudaFree(addresses[i]) == 0, "cudaFree failed");
    free(addresses);
}

/* Each free is followed by an allocation as long as frees are due: addresses wander between threads. */
static void *interleaved(void *argument) {
    struct work work = *(struct work *)argument;
    void *held = NULL;
    for (long i = 0; i < work.allocations; i++) {
        if (held && work.frees > 0) {
            must(cudaFree(held) == 0, "cudaFree failed");
            work.frees--;
        }
        must(cudaMalloc(&held, work.size_bytes) == 0, "cudaMalloc failed");
    }
    return NULL;
}

static void *hang(void *unused) {
    void *address;
    (void)unused;
    cudaMalloc(&address, FIXTURE_HANG);
    return NULL;
}

static void threads(long count, struct work work) {
    pthread_t *ids = calloc((size_t)count, sizeof(pthread_t));
    for (long i = 0; i < count; i++)
        must(pthread_create(&ids[i], NULL, interleaved, &work) == 0, "no thread");
    for (long i = 0; i < count; i++)
        pthread_join(ids[i], NULL);
    free(ids);
}

static long time_pairs(long count) {
    struct timespec start, end;
    uint64_t address;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (long i = 0; i < count; i++) {
        cuMemAlloc_v2(&address, 4096);
        cuMemFree_v2(address);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((end.tv_sec - start.tv_sec) * 1000000000L + end.tv_nsec - start.tv_nsec) / count;
}

static void *serve(void *unused) {
    char line[256], name[32];
    long a, b, c, d;
    (void)unused;
    while (fgets(line, sizeof(line), stdin)) {
        int words = sscanf(line, "%31s %ld %ld %ld %ld", name, &a, &b, &c, &d);
        long answer = 0;
        if (words == 4 && !strcmp(name, "runtime")) {
            runtime_calls((struct work){a, b, (size_t)c});
        } else if (words == 4 && !strcmp(name, "driver")) {
            driver_calls((struct work){a, b, (size_t)c});
        } else if (words == 4 && !strcmp(name, "refused-free")) {
            refused_frees((struct work){a, b, (size_t)c});
        } else if (words == 2 && !strcmp(name, "fail")) {
            void *address;
            for (long i = 0; i < a; i++)
                must(cudaMalloc(&address, (size_t)1 << 50) == CUDA_OUT_OF_MEMORY, "should have failed");
        } else if (words == 1 && !strcmp(name, "hang")) {
            pthread_t other;
            must(pthread_create(&other, NULL, hang, NULL) == 0, "no thread");
        } else if (words == 1 && !strcmp(name, "nothing")) {
            void *address;
            must(cudaMalloc(&address, 0) == 0 && address == NULL, "cudaMalloc of 0 bytes");
            must(cudaFree(NULL) == 0, "cudaFree of NULL");
            must(cudaFree((void *)4096) == CUDA_INVALID_VALUE, "cudaFree of a wrong address");
        } else if (words == 2 && !strcmp(name, "unknown-free")) {
            for (long i = 0; i < a; i++)
                must(cudaFree((void *)fixture_take_unseen()) == 0, "cudaFree failed");
        } else if (words == 2 && !strcmp(name, "missed-free")) {
            void *first, *second;
            must(cudaMalloc(&first, (size_t)a) == 0, "cudaMalloc failed");
            must(fixture_give_back_unseen((uint64_t)first) == 0, "free failed");
            must(cudaMalloc(&second, (size_t)a) == 0 && first == second, "another address");
        } else if (words == 5 && !strcmp(name, "threads")) {
            threads(a, (struct work){b, c, (size_t)d});
        } else if (words == 4 && !strcmp(name, "fork")) {
            pid_t child = fork();
            if (child == 0) {
                runtime_calls((struct work){a, b, (size_t)c});
                _exit(0);
            }
            must(waitpid(child, NULL, 0) == child, "no child");
            answer = child;
        } else if (words == 2 && !strcmp(name, "time")) {
            answer = time_pairs(a);
        } else if (words == 1 && !strcmp(name, "leader-exit")) {
            pthread_t other;
            must(pthread_create(&other, NULL, serve, NULL) == 0, "no thread");
            puts("0");
            fflush(stdout);
            pthread_exit(NULL);
        } else {
            must(0, "unknown command");
        }
        printf("%ld\n", answer);
        fflush(stdout);
    }
    exit(0);
}

int main(void) {
    serve(NULL);
}
