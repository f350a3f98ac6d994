/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the benchmark programs share. They are C++ for nvcc (the real runtime, linked statically) and for g++ with the
 * simulated runtime's headers; what only the real one has stands under __CUDACC__.
 */
#ifndef CONVGPU_BENCH_COMMON_H
#define CONVGPU_BENCH_COMMON_H

#include <cuda_runtime_api.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIB (1024ULL * 1024)

static inline long long now_ns() {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* The driver script reads standard output line by line; an error is a line as well, and ends the program. */
#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        const cudaError_t code = (call);                                                                               \
        if (code != cudaSuccess) {                                                                                     \
            printf("error %s: %s\n", #call, cudaGetErrorString(code));                                                 \
            fflush(stdout);                                                                                            \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

static inline void say(const char *text) {
    puts(text);
    fflush(stdout);
}

/* Waits for the driver script's next line. False: it has closed the pipe. */
static inline bool next_line(char *line, int size_bytes) {
    if (fgets(line, size_bytes, stdin) == NULL)
        return false;
    line[strcspn(line, "\n")] = '\0';
    return true;
}

#endif
