/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ways to take memory at their edges, one part per argument: `question answer...` lines as in cuda_behaviour.c, but
 * the answers wanted here come from CUDA's documentation and were not measured. Amounts are MiB that the device lost.
 */
#define _GNU_SOURCE

#include "ways.h"

#include <pthread.h>
#include <string.h>

static long long took(void) {
    static long long all_bytes = -1;
    size_t free_bytes = 0;

    GET(cuMemGetInfo)(&free_bytes, NULL);
    if (all_bytes < 0)
        all_bytes = (long long)free_bytes;
    return (all_bytes - (long long)free_bytes) / (long long)MIB;
}

static void part_pool(void) {
    CUmemPoolProps properties = {
        .allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}, .maxSize = 96 * MIB};
    CUmemoryPool pool, usual, current;
    CUdeviceptr first, second, base;
    cuuint64_t reserved, used, high, keep = 64 * MIB, zero = 0;
    size_t size;

    GET(cuDeviceGetDefaultMemPool)(&usual, 0);
    printf("destroy-default %d\n", GET(cuMemPoolDestroy)(usual));
    GET(cuMemAllocAsync)(&first, 100 * MIB, NULL);
    GET(cuMemAllocAsync)(&second, 100 * MIB, NULL);
    GET(cuMemFreeAsync)(first, NULL);
    GET(cuStreamSynchronize)(NULL);
    printf("first-half-freed took %lld", took()); /* the chunk that both lie in stays */
    GET(cuMemAllocAsync)(&base, 100 * MIB, NULL);
    printf(" hole-filled %d", base == first);
    printf(" took %lld\n", took());
    printf("range %d", GET(cuMemGetAddressRange)(&base, &size, second + 1));
    printf(" base-equal %d size-mib %llu\n", base == second, size / MIB);
    printf("free-inside %d", GET(cuMemFree)(second + 512));
    printf(" free %d", GET(cuMemFree)(second));
    printf(" free-twice %d\n", GET(cuMemFreeAsync)(second, NULL));
    GET(cuMemFreeAsync)(first, NULL);
    GET(cuMemPoolTrimTo)(usual, 33 * MIB);
    printf("trimmed-to-33 took %lld", took());
    GET(cuMemPoolTrimTo)(usual, 0);
    printf(" trimmed-to-0 took %lld\n", took());

    printf("create %d", GET(cuMemPoolCreate)(&pool, &properties));
    printf(" of-host %d\n",
           (properties.location.type = CU_MEM_LOCATION_TYPE_HOST, GET(cuMemPoolCreate)(&current, &properties)));
    printf("alloc-90-of-96 %d", GET(cuMemAllocFromPoolAsync)(&first, 90 * MIB, pool, NULL));
    printf(" alloc-10 %d", GET(cuMemAllocFromPoolAsync)(&second, 10 * MIB, pool, NULL));
    printf(" took %lld\n", took());
    GET(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved);
    GET(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used);
    printf("reserved %llu used %llu\n", (unsigned long long)(reserved / MIB), (unsigned long long)(used / MIB));
    GET(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep);
    GET(cuMemFreeAsync)(first, NULL);
    GET(cuCtxSynchronize)();
    printf("threshold-64 took %lld", took());
    GET(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &high);
    printf(" used-high %llu", (unsigned long long)(high / MIB));
    printf(" set-high-1 %d", GET(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &keep));
    printf(" set-high-0 %d", GET(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &zero));
    GET(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &high);
    printf(" used-high %llu\n", (unsigned long long)(high / MIB));

    printf("choose %d", GET(cuDeviceSetMemPool)(0, pool));
    GET(cuDeviceGetMemPool)(&current, 0);
    printf(" current %d", current == pool);
    GET(cuMemAllocAsync)(&first, MIB, NULL);
    printf(" destroy-used %d", GET(cuMemPoolDestroy)(pool));
    printf(" took %lld", took());
    GET(cuDeviceGetMemPool)(&current, 0);
    printf(" current-default %d", current == usual);
    printf(" known %d", GET(cuMemPoolTrimTo)(pool, 0));
    printf(" free %d", GET(cuMemFreeAsync)(first, NULL));
    printf(" took %lld\n", took());
    printf("alloc-0 %d", GET(cuMemAllocAsync)(&first, 0, NULL));
    printf(" of-linear %d", GET(cuMemAlloc)(&first, 3 * MIB));
    printf(" free-async %d", GET(cuMemFreeAsync)(first, NULL));
    printf(" took %lld\n", took());
}

static void part_vmm(void) {
    const CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemAllocationProp nowhere = on_device;
    CUmemGenericAllocationHandle handle, again, other;
    CUdeviceptr base;
    size_t granularity = 0;

    nowhere.location.id = 99;
    printf("granularity %d", GET(cuMemGetAllocationGranularity)(&granularity, &on_device, 0));
    printf(" %llu\n", granularity / MIB);
    printf("create-odd %d", GET(cuMemCreate)(&handle, 3 * MIB, &on_device, 0));
    printf(" create-0 %d", GET(cuMemCreate)(&handle, 0, &on_device, 0));
    printf(" create-99 %d\n", GET(cuMemCreate)(&handle, 2 * MIB, &nowhere, 0));
    GET(cuMemCreate)(&handle, 4 * MIB, &on_device, 0);
    GET(cuMemCreate)(&other, 2 * MIB, &on_device, 0);
    printf("reserve %d", GET(cuMemAddressReserve)(&base, 8 * MIB, 0, 0, 0));
    printf(" aligned %d\n", base % (2 * MIB) == 0);
    printf("map-beyond %d", GET(cuMemMap)(base + 6 * MIB, 4 * MIB, 0, handle, 0));
    printf(" map-larger %d", GET(cuMemMap)(base, 6 * MIB, 0, handle, 0));
    printf(" map-odd %d\n", GET(cuMemMap)(base + MIB, 2 * MIB, 0, handle, 0));
    printf("map %d", GET(cuMemMap)(base, 4 * MIB, 0, handle, 0));
    printf(" map-over %d", GET(cuMemMap)(base + 2 * MIB, 2 * MIB, 0, other, 0));
    printf(" map-next %d\n", GET(cuMemMap)(base + 4 * MIB, 2 * MIB, 0, other, 0));
    printf("access %d", GET(cuMemSetAccess)(base, 6 * MIB, &access, 1));
    printf(" access-hole %d\n", GET(cuMemSetAccess)(base, 8 * MIB, &access, 1));
    printf("release %d", GET(cuMemRelease)(handle));
    printf(" release-twice %d", GET(cuMemRelease)(handle));
    printf(" retain %d", GET(cuMemRetainAllocationHandle)(&again, (void *)(uintptr_t)(base + MIB)));
    printf(" same %d", again == handle);
    printf(" took %lld\n", took());
    printf("free-mapped %d", GET(cuMemAddressFree)(base, 8 * MIB));
    printf(" cu-mem-free %d", GET(cuMemFree)(base));
    printf(" unmap-half %d", GET(cuMemUnmap)(base, 2 * MIB));
    printf(" unmap-both %d", GET(cuMemUnmap)(base, 6 * MIB));
    printf(" took %lld", took());
    printf(" release %d", GET(cuMemRelease)(again));
    printf(" %d", GET(cuMemRelease)(other));
    printf(" took %lld", took());
    printf(" free %d\n", GET(cuMemAddressFree)(base, 8 * MIB));
}

static CUstream stream;

static void *allocate_in_thread(void *result) {
    CUcontext context;
    CUdeviceptr pointer;

    GET(cuDevicePrimaryCtxRetain)(&context, 0);
    GET(cuCtxSetCurrent)(context);
    *(int *)result = (int)GET(cuMemAlloc)(&pointer, MIB);
    return NULL;
}

static void *end_in_thread(void *result) {
    CUcontext context;
    CUgraph graph;

    GET(cuDevicePrimaryCtxRetain)(&context, 0);
    GET(cuCtxSetCurrent)(context);
    *(int *)result = (int)GET(cuStreamEndCapture)(stream, &graph);
    return NULL;
}

static int in_thread(void *(*work)(void *)) {
    pthread_t thread;
    int result = -1;

    pthread_create(&thread, NULL, work, &result);
    pthread_join(thread, NULL);
    return result;
}

static int capturing(void) {
    CUstreamCaptureStatus status = 9;

    GET(cuStreamIsCapturing)(stream, &status);
    return (int)status;
}

static void part_capture(void) {
    CUstream own = NULL;
    CUgraphExec executable;
    CUdeviceptr pointer;
    CUgraph graph;

    GET(cuStreamCreate)(&stream, 1);
    took();
    printf("begin-legacy %d", GET(cuStreamBeginCapture)(NULL, CU_STREAM_CAPTURE_MODE_GLOBAL));
    printf(" end-none %d", GET(cuStreamEndCapture)(stream, &graph));
    printf(" status %d\n", capturing());
    printf("begin %d", GET(cuStreamBeginCapture)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    printf(" begin-again %d", GET(cuStreamBeginCapture)(stream, 0));
    printf(" status %d\n", capturing());
    printf("alloc-async %d", GET(cuMemAllocAsync)(&pointer, 64 * MIB, stream));
    printf(" took %lld", took());
    printf(" free-async %d", GET(cuMemFreeAsync)(pointer, stream));
    printf(" end %d", GET(cuStreamEndCapture)(stream, &graph));
    printf(" status %d\n", capturing());
    GET(cuGraphInstantiate)(&executable, graph, 0);
    printf("launch %d", GET(cuGraphLaunch)(executable, stream));
    printf(" took %lld", took());
    GET(cuDeviceGraphMemTrim)(0);
    printf(" trimmed took %lld\n", took());

    GET(cuStreamBeginCapture)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
    printf("global alloc-elsewhere %d", in_thread(allocate_in_thread));
    printf(" status %d", capturing());
    printf(" async %d", GET(cuMemAllocAsync)(&pointer, MIB, stream));
    printf(" end %d", GET(cuStreamEndCapture)(stream, &graph));
    printf(" graph-null %d", graph == NULL);
    printf(" alloc-after %d\n", in_thread(allocate_in_thread));
    GET(cuStreamBeginCapture)(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    printf("thread-local alloc-elsewhere %d", in_thread(allocate_in_thread));
    printf(" end-elsewhere %d", in_thread(end_in_thread));
    printf(" status %d", capturing());
    printf(" alloc-here %d", GET(cuMemAlloc)(&pointer, MIB));
    printf(" status %d", capturing());
    printf(" end %d\n", GET(cuStreamEndCapture)(stream, &graph));
    GET(cuStreamBeginCapture)(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
    printf("relaxed alloc %d", GET(cuMemAlloc)(&pointer, MIB));
    printf(" synchronize %d", GET(cuStreamSynchronize)(stream));
    printf(" status %d", capturing());
    printf(" end-elsewhere %d\n", in_thread(end_in_thread));
    printf("per-thread begin %d", ((__typeof__(&cuStreamBeginCapture))find("cuStreamBeginCapture_v2_ptsz"))(own, 0));
    printf(" end-legacy %d", GET(cuStreamEndCapture)(own, &graph));
    printf(" end %d\n", ((__typeof__(&cuStreamEndCapture))find("cuStreamEndCapture_ptsz"))(own, &graph));
    GET(cuStreamBeginCapture)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
    printf("destroy-capturing %d", GET(cuStreamDestroy)(stream));
    printf(" alloc %d", GET(cuMemAlloc)(&pointer, MIB));
    printf(" destroyed %d\n", GET(cuStreamSynchronize)(stream));
}

static void part_graph(void) {
    CUdeviceptr first, second;
    CUgraphExec holds = graph_of(64 * MIB, 0, &first);
    CUgraphExec frees = graph_of(32 * MIB, CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH, &second);
    cuuint64_t used, reserved;

    printf("free-unlaunched %d\n", GET(cuMemFree)(first));
    printf("launch %d", GET(cuGraphLaunch)(holds, NULL));
    printf(" launch-again %d", GET(cuGraphLaunch)(holds, NULL));
    printf(" took %lld\n", took());
    printf("trim-used %d", GET(cuDeviceGraphMemTrim)(0));
    printf(" took %lld", took());
    printf(" free %d", GET(cuMemFree)(first));
    printf(" free-twice %d", GET(cuMemFreeAsync)(first, NULL));
    printf(" took %lld\n", took());
    printf("other launch %d", GET(cuGraphLaunch)(frees, NULL));
    printf(" took %lld", took()); /* in what the first one left */
    printf(" again %d", GET(cuGraphLaunch)(frees, NULL));
    printf(" took %lld", took());
    GET(cuDeviceGetGraphMemAttribute)(0, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &used);
    GET(cuDeviceGetGraphMemAttribute)(0, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &reserved);
    printf(" used %llu reserved %llu\n", (unsigned long long)(used / MIB), (unsigned long long)(reserved / MIB));
    printf("destroy %d", GET(cuGraphExecDestroy)(frees));
    printf(" destroy-twice %d", GET(cuGraphExecDestroy)(frees));
    printf(" took %lld", took());
    printf(" free %d", GET(cuMemFree)(second));
    printf(" trim %d", GET(cuDeviceGraphMemTrim)(0));
    printf(" took %lld\n", took());
}

/* What belongs to the context goes with it; physical memory of cuMemCreate does not. */
static void part_reset(void) {
    const CUDA_ARRAY_DESCRIPTOR description = {1000, 1000, CU_AD_FORMAT_FLOAT, 1};
    CUmemGenericAllocationHandle handle;
    CUdeviceptr pooled, of_graph, managed;
    CUcontext context;
    CUmodule module;
    CUmemoryPool pool;
    CUarray array;

    GET(cuMemCreate)(&handle, 4 * MIB, &on_device, 0);
    GET(cuMemAllocAsync)(&pooled, 100 * MIB, NULL);
    GET(cuDeviceGetDefaultMemPool)(&pool, 0);
    GET(cuStreamCreate)(&stream, 0);
    GET(cuStreamBeginCapture)(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
    GET(cuArrayCreate)(&array, &description);
    GET(cuMemAllocManaged)(&managed, MIB, CU_MEM_ATTACH_GLOBAL);
    GET(cuCtxSetLimit)(CU_LIMIT_MALLOC_HEAP_SIZE, 64 * MIB);
    GET(cuModuleLoadData)(&module, "an image");
    GET(cuGraphLaunch)(graph_of(64 * MIB, 0, &of_graph), NULL);
    printf("before took %lld\n", took());
    printf("reset %d", GET(cuDevicePrimaryCtxReset)(0));
    printf(" retain %d", GET(cuDevicePrimaryCtxRetain)(&context, 0));
    printf(" set %d", GET(cuCtxSetCurrent)(context));
    printf(" took %lld\n", took());
    printf("stale pooled %d", GET(cuMemFree)(pooled));
    printf(" graph %d", GET(cuMemFree)(of_graph));
    printf(" managed %d", GET(cuMemFree)(managed));
    printf(" stream %d", GET(cuStreamDestroy)(stream));
    printf(" array %d", GET(cuArrayDestroy)(array));
    printf(" module %d\n", GET(cuModuleUnload)(module));
    printf("release %d", GET(cuMemRelease)(handle));
    printf(" alloc %d", GET(cuMemAllocFromPoolAsync)(&pooled, MIB, pool, NULL));
    printf(" took %lld\n", took());
}

static void part_limits(void) {
    size_t stack = 0, heap = 0;
    CUarray array;
    CUDA_ARRAY_DESCRIPTOR odd = {100, 100, CU_AD_FORMAT_FLOAT, 3};

    printf("stack %d", GET(cuCtxGetLimit)(&stack, CU_LIMIT_STACK_SIZE));
    printf(" %zu", stack);
    printf(" heap %d", GET(cuCtxGetLimit)(&heap, CU_LIMIT_MALLOC_HEAP_SIZE));
    printf(" %zu", heap);
    printf(" unknown %d", GET(cuCtxGetLimit)(&heap, 99));
    printf(" null %d\n", GET(cuCtxGetLimit)(NULL, 0));
    printf("set-larger-than-the-card %d", GET(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, 256 * KIB));
    GET(cuCtxGetLimit)(&stack, CU_LIMIT_STACK_SIZE);
    printf(" stack %zu", stack);
    printf(" took %lld\n", took());
    printf("three-channels %d", GET(cuArrayCreate)(&array, &odd));
    printf(" destroy-unknown %d\n", GET(cuArrayDestroy)(NULL));
    printf("multicast %d", GET(cuMulticastCreate)(NULL, NULL));
    printf(" v1 %d\n", ((int (*)(void *, unsigned))find("cuMemAlloc"))(&stack, 1));
}

static void part_resolve(void) {
    static const struct {
        const char *name;
        int version;
        cuuint64_t flags;
    } questions[] = {
        {"cuMemAlloc", 2000, 0},
        {"cuMemAlloc", 12000, 0},
        {"cuMemAlloc", 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM},
        {"cuMemAllocAsync", 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM},
        {"cuMemAllocAsync", 12000, CU_GET_PROC_ADDRESS_LEGACY_STREAM},
        {"cuMemAllocAsync", 11010, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM},
        {"cuLaunchKernel", 4000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM},
        {"cuLaunchKernel", 7000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM},
        {"cuCtxCreate", 13000, 0},
        {"cuGraphInstantiate", 11000, 0},
        {"cuGraphInstantiate", 12000, 0},
    };

    for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++) {
        void *function = NULL;
        Dl_info info = {0};

        GET(cuGetProcAddress)(questions[i].name, &function, questions[i].version, questions[i].flags, NULL);
        if (function)
            dladdr(function, &info);
        printf("%s %d %d: %s\n", questions[i].name, questions[i].version, (int)questions[i].flags,
               function ? info.dli_sname : "null");
    }
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {
        {"pool", part_pool},   {"vmm", part_vmm},       {"capture", part_capture}, {"graph", part_graph},
        {"reset", part_reset}, {"limits", part_limits}, {"resolve", part_resolve},
    };

    start();
    took();
    for (size_t i = 0; argc == 2 && i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (strcmp(argv[1], parts[i].name) == 0) {
            parts[i].run();
            return 0;
        }
    }
    fprintf(stderr, "usage: ways PART\n");
    return 2;
}
