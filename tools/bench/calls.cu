/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times CUDA calls on demand. Prints "ready" when its context stands, then reads commands from standard input and
 * answers each with one line of nanoseconds, one figure a sample:
 *
 *   pair SIZE COUNT             cudaMalloc + cudaFree, COUNT samples
 *   async SIZE COUNT            cudaMallocAsync + cudaFreeAsync in one stream, pool warm; real runtime only
 *   launch BATCH COUNT          COUNT samples: BATCH empty kernels and a synchronisation, per kernel; real runtime only
 *   threads THREADS SIZE COUNT  one sample: THREADS threads, COUNT pairs each, wall time per pair
 *   hold SIZE COUNT             cudaMalloc alone, COUNT samples; kept until the process ends
 *   nothing                     an empty answer
 */
#include "common.h"

#include <sched.h>
#include <thread>
#include <vector>

#define WARM_UP 5
#define LINE_BYTES 256

static void answer(const std::vector<long long> &samples_ns) {
    for (long long sample_ns : samples_ns)
        printf("%lld ", sample_ns);
    say("");
}

/*
 * Commands of one thread run on the last processor that the program may use, the same one for native and wrapped: where
 * a process happens to run makes more of a difference than what is to be measured. The others run where they like.
 */
static cpu_set_t anywhere;

static void run_on(bool last_only) {
    cpu_set_t wanted = anywhere;
    int last = CPU_SETSIZE - 1;

    while (!CPU_ISSET(last, &anywhere))
        last--;
    if (last_only) {
        CPU_ZERO(&wanted);
        CPU_SET(last, &wanted);
    }
    if (sched_setaffinity(0, sizeof(wanted), &wanted) != 0) {
        perror("error sched_setaffinity");
        exit(1);
    }
}

static void pair(size_t size_bytes, int count, std::vector<long long> *samples_ns) {
    for (int i = -WARM_UP; i < count; i++) {
        void *pointer = NULL;
        const long long begin_ns = now_ns();
        CHECK(cudaMalloc(&pointer, size_bytes));
        CHECK(cudaFree(pointer));
        if (i >= 0)
            samples_ns->push_back(now_ns() - begin_ns);
    }
}

static void hold(size_t size_bytes, int count, std::vector<long long> *samples_ns) {
    for (int i = 0; i < count; i++) {
        void *pointer = NULL;
        const long long begin_ns = now_ns();
        CHECK(cudaMalloc(&pointer, size_bytes));
        samples_ns->push_back(now_ns() - begin_ns);
    }
}

static void run_threads(int threads, size_t size_bytes, int count, std::vector<long long> *samples_ns) {
    std::vector<std::thread> running;
    const long long begin_ns = now_ns();

    for (int i = 0; i < threads; i++)
        running.emplace_back([=] {
            for (int j = 0; j < count; j++) {
                void *pointer = NULL;
                CHECK(cudaMalloc(&pointer, size_bytes));
                CHECK(cudaFree(pointer));
            }
        });
    for (std::thread &thread : running)
        thread.join();
    samples_ns->push_back((now_ns() - begin_ns) / ((long long)threads * count));
}

#ifdef __CUDACC__
__global__ void nothing() {
}

static cudaStream_t stream;

/* The pool keeps what it has (threshold at its highest), so that a pair is a warm one. */
static void prepare() {
    cudaMemPool_t pool;
    unsigned long long threshold_bytes = ~0ULL;

    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaDeviceGetDefaultMemPool(&pool, 0));
    CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold_bytes));
}

static void async(size_t size_bytes, int count, std::vector<long long> *samples_ns) {
    for (int i = -WARM_UP; i < count; i++) {
        void *pointer = NULL;
        const long long begin_ns = now_ns();
        CHECK(cudaMallocAsync(&pointer, size_bytes, stream));
        CHECK(cudaFreeAsync(pointer, stream));
        if (i >= 0)
            samples_ns->push_back(now_ns() - begin_ns);
    }
    CHECK(cudaStreamSynchronize(stream));
}

static void launch(int batch, int count, std::vector<long long> *samples_ns) {
    for (int i = -WARM_UP; i < count; i++) {
        const long long begin_ns = now_ns();
        for (int j = 0; j < batch; j++)
            nothing<<<1, 1, 0, stream>>>();
        CHECK(cudaStreamSynchronize(stream));
        if (i >= 0)
            samples_ns->push_back((now_ns() - begin_ns) / batch);
    }
    CHECK(cudaGetLastError());
}
#else
static void prepare() {
}
#endif

int main() {
    char line[LINE_BYTES];

    CHECK(cudaFree(0));
    prepare();
    if (sched_getaffinity(0, sizeof(anywhere), &anywhere) != 0) {
        perror("error sched_getaffinity");
        return 1;
    }
    say("ready");
    while (next_line(line, sizeof(line))) {
        std::vector<long long> samples_ns;
        size_t size_bytes;
        int first, count;

        run_on(strncmp(line, "pair", 4) == 0 || strncmp(line, "async", 5) == 0 || strncmp(line, "launch", 6) == 0);
        if (sscanf(line, "pair %zu %d", &size_bytes, &count) == 2) {
            pair(size_bytes, count, &samples_ns);
        } else if (sscanf(line, "hold %zu %d", &size_bytes, &count) == 2) {
            hold(size_bytes, count, &samples_ns);
        } else if (sscanf(line, "threads %d %zu %d", &first, &size_bytes, &count) == 3) {
            run_threads(first, size_bytes, count, &samples_ns);
#ifdef __CUDACC__
        } else if (sscanf(line, "async %zu %d", &size_bytes, &count) == 2) {
            async(size_bytes, count, &samples_ns);
        } else if (sscanf(line, "launch %d %d", &first, &count) == 2) {
            launch(first, count, &samples_ns);
#endif
        } else if (strcmp(line, "nothing") != 0) {
            printf("error '%s' is not a command of this program\n", line);
            return 2;
        }
        answer(samples_ns);
    }
    return 0;
}
