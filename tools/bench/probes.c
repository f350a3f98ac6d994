/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long calls take that the witness watches: the process of probes.py. No header of CUDA is needed, so it compiles
 * on any machine.
 *
 *   probes LIBCUDA LIBCUDART       then on standard input, a line each:
 *   NAME BATCHES                   answers with the nanoseconds of each batch, taking and giving: "TAKE GIVE TAKE GIVE"
 *
 * A batch is BATCH calls that take and as many that give, one after the other, after a first batch that is not counted.
 */
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH 64
#define SIZE_BYTES 4096
#define GRANULE_BYTES (2ULL << 20)

typedef int (*call)();

static void *libraries[2];

static call find(const char *name) {
    call found = (call)dlsym(libraries[!strncmp(name, "cuda", 4)], name);
    if (!found) {
        fprintf(stderr, "%s: not in this library\n", name);
        exit(1);
    }
    return found;
}

static void must(int result, const char *what) {
    if (result) {
        fprintf(stderr, "%s: error %d\n", what, result);
        exit(1);
    }
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* How the arguments of a pair of calls look. */
enum shape { PLAIN, FLAGGED, STREAM, HANDLE, DESCRIBED };

static const struct pair {
    const char *name, *take, *give;
    enum shape shape;
} pairs[] = {
    {"linear", "cuMemAlloc_v2", "cuMemFree_v2", PLAIN},
    {"managed", "cuMemAllocManaged", "cuMemFree_v2", FLAGGED},
    {"async", "cuMemAllocAsync", "cuMemFreeAsync", STREAM},
    {"handle", "cuMemCreate", "cuMemRelease", HANDLE},
    {"array", "cuArray3DCreate_v2", "cuArrayDestroy", DESCRIBED},
    {"host", "cuMemHostAlloc", "cuMemFreeHost", FLAGGED},
    {"runtime-linear", "cudaMalloc", "cudaFree", PLAIN},
    {"runtime-async", "cudaMallocAsync", "cudaFreeAsync", STREAM},
    {"runtime-managed", "cudaMallocManaged", "cudaFree", FLAGGED},
};

static const struct {
    int type, handle_types, location, device;
    uint64_t unused[2];
} property = {1, 0, 1, 0, {0, 0}}; /* CUmemAllocationProp: pinned memory of device 0 */

static const struct {
    uint64_t width, height, depth;
    unsigned format, channels, flags, unused;
} description = {64, 16, 0, 0x20, 1, 0, 0}; /* CUDA_ARRAY3D_DESCRIPTOR: floats */

static void batch(const struct pair *pair, call take, call give, uint64_t *take_ns, uint64_t *give_ns) {
    uint64_t held[BATCH], begin = now_ns();
    for (int i = 0; i < BATCH; i++) {
        int result = 0;
        switch (pair->shape) {
        case PLAIN:
            result = take(&held[i], (size_t)SIZE_BYTES);
            break;
        case FLAGGED: /* cuMemHostAlloc takes 0 flags, managed memory 1: attached to all */
            result = take(&held[i], (size_t)SIZE_BYTES, strstr(pair->take, "anaged") ? 1u : 0u);
            break;
        case STREAM:
            result = take(&held[i], (size_t)SIZE_BYTES, NULL);
            break;
        case HANDLE:
            result = take(&held[i], (size_t)GRANULE_BYTES, &property, 0ULL);
            break;
        case DESCRIBED:
            result = take(&held[i], &description);
            break;
        }
        must(result, pair->take);
    }
    uint64_t middle = now_ns();
    for (int i = 0; i < BATCH; i++)
        must(pair->shape == STREAM ? give(held[i], NULL) : give(held[i]), pair->give);
    *take_ns = middle - begin;
    *give_ns = now_ns() - middle;
}

int main(int argc, char **argv) {
    char name[32];
    long batches;
    void *context;
    uint64_t threshold = UINT64_MAX, pool;
    if (argc != 3)
        return 2;
    for (int i = 0; i < 2; i++)
        if (!(libraries[i] = dlopen(argv[i + 1], RTLD_NOW | RTLD_GLOBAL)))
            return fprintf(stderr, "%s\n", dlerror()), 1;
    must(find("cuInit")(0), "cuInit");
    must(find("cuDevicePrimaryCtxRetain")(&context, 0), "cuDevicePrimaryCtxRetain");
    must(find("cuCtxSetCurrent")(context), "cuCtxSetCurrent");
    /* A pool that keeps what it has is warm: CU_MEMPOOL_ATTR_RELEASE_THRESHOLD. */
    must(find("cuDeviceGetDefaultMemPool")(&pool, 0), "cuDeviceGetDefaultMemPool");
    must(find("cuMemPoolSetAttribute")(pool, 4, &threshold), "cuMemPoolSetAttribute");
    while (scanf("%31s %ld", name, &batches) == 2) {
        const struct pair *pair = NULL;
        uint64_t take_ns, give_ns;
        for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++)
            if (!strcmp(pairs[i].name, name))
                pair = &pairs[i];
        if (!pair)
            return 2;
        call take = find(pair->take), give = find(pair->give);
        batch(pair, take, give, &take_ns, &give_ns);
        for (long i = 0; i < batches; i++) {
            batch(pair, take, give, &take_ns, &give_ns);
            printf("%" PRIu64 " %" PRIu64 " ", take_ns / BATCH, give_ns / BATCH);
        }
        puts("");
        fflush(stdout);
    }
    return 0;
}
