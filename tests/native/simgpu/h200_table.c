/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One row of the table of amounts that was measured on an H200: does its steps and says after each what the process
 * holds, in bytes, as `step NAME hook H nvml N device D asked A`: H from a preloaded hook of ioctl (hook.c), N from
 * NVML's figure for this process, D from NVML's figure for the device, A as the last object was asked for, before the
 * driver rounded it. The steps use the runtime where the table does, and the driver for the rest.
 */
#define _GNU_SOURCE

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define PROCESSES_MAX 8

#define NAME_OF(symbol) #symbol
#define STRING_OF(symbol) NAME_OF(symbol)
#define DRIVER(symbol) ((__typeof__(&symbol))find("libcuda.so.1", STRING_OF(symbol)))
#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        int code = (int)(call);                                                                                        \
        if (code != 0) {                                                                                               \
            printf("%s: %d\n", #call, code);                                                                           \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static void *find(const char *library, const char *name) {
    void *handle = library ? dlopen(library, RTLD_NOW) : RTLD_DEFAULT;
    void *address = dlsym(handle, name);

    if (!address) {
        printf("missing %s\n", name);
        exit(1);
    }
    return address;
}

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml_process {
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance;
};

static void step(const char *name) {
    static int (*get_memory)(void *, struct nvml_memory *);
    static int (*get_processes)(void *, unsigned *, struct nvml_process *);
    static unsigned long long (*live_bytes)(void), (*asked_bytes)(void);
    static void *device;
    struct nvml_process processes[PROCESSES_MAX];
    struct nvml_memory memory;
    unsigned count = PROCESSES_MAX;
    unsigned long long own_bytes = 0;

    if (!device) {
        MUST(((int (*)(void))find("libnvidia-ml.so.1", "nvmlInit_v2"))());
        MUST(((int (*)(unsigned, void **))find("libnvidia-ml.so.1", "nvmlDeviceGetHandleByIndex_v2"))(0, &device));
        get_memory = (int (*)(void *, struct nvml_memory *))find("libnvidia-ml.so.1", "nvmlDeviceGetMemoryInfo");
        get_processes = (int (*)(void *, unsigned *, struct nvml_process *))find(
            "libnvidia-ml.so.1", "nvmlDeviceGetComputeRunningProcesses_v3");
        live_bytes = (unsigned long long (*)(void))find(NULL, "simgpu_hook_live_bytes");
        asked_bytes = (unsigned long long (*)(void))find(NULL, "simgpu_hook_asked_bytes");
    }
    MUST(get_memory(device, &memory));
    MUST(get_processes(device, &count, processes));
    for (unsigned i = 0; i < count; i++)
        if ((pid_t)processes[i].pid == getpid())
            own_bytes += processes[i].used_bytes;
    printf("step %s hook %llu nvml %llu device %llu asked %llu\n", name, live_bytes(), own_bytes, memory.used,
           asked_bytes());
}

/* The simulated driver takes any image; a real one takes this. (Its heap row needs a kernel that calls malloc.) */
static const char image[] = ".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry kernel() { ret; }\n";

static void launch(void) {
    CUmodule module;
    CUfunction function;

    MUST(DRIVER(cuModuleLoadData)(&module, image));
    step("loaded");
    MUST(DRIVER(cuModuleGetFunction)(&function, module, "kernel"));
    MUST(DRIVER(cuLaunchKernel)(function, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL));
    MUST(cudaDeviceSynchronize());
    step("launched");
}

static void row_malloc(void) {
    void *pointer;

    MUST(cudaMalloc(&pointer, 256 * MIB));
    step("allocated");
    MUST(cudaFree(pointer));
    step("freed");
}

static void many(size_t size_bytes) {
    void *pointers[1000];

    for (int i = 0; i < 1000; i++)
        MUST(cudaMalloc(&pointers[i], size_bytes));
    step("allocated");
    for (int i = 0; i < 1000; i++)
        MUST(cudaFree(pointers[i]));
    step("freed");
}

static void row_large(void) {
    many(1025 * KIB);
}

static void row_small(void) {
    many(64 * KIB);
}

static void row_pitch(void) {
    struct cudaPitchedPtr volume;
    void *pointer;
    size_t pitch;

    MUST(cudaMallocPitch(&pointer, &pitch, 1, 1024 * 1024));
    step("allocated");
    MUST(cudaFree(pointer));
    step("freed");
    MUST(cudaMalloc3D(&volume, (struct cudaExtent){1, 1024, 1024}));
    step("volume");
}

static void row_array(void) {
    const struct cudaChannelFormatDesc format = {32, 0, 0, 0, cudaChannelFormatKindFloat};
    cudaMipmappedArray_t mipmapped;
    cudaArray_t array;

    MUST(cudaMallocArray(&array, &format, 1000, 1000, 0));
    step("array-1000");
    MUST(cudaFreeArray(array));
    MUST(cudaMallocArray(&array, &format, 8192, 8192, 0));
    step("array-8192");
    MUST(cudaFreeArray(array));
    step("freed");
    MUST(cudaMallocMipmappedArray(&mipmapped, &format, (struct cudaExtent){4096, 4096, 0}, 8, 0));
    step("mipmapped");
    MUST(cudaFreeMipmappedArray(mipmapped));
    step("mipmapped-freed");
}

static void row_managed(void) {
    char *pointer;

    MUST(cudaMallocManaged((void **)&pointer, GIB, cudaMemAttachGlobal));
    step("allocated");
    pointer[0] = pointer[GIB - 1] = 1; /* by the host: there is no kernel to do it */
    step("touched");
    MUST(cudaFree(pointer));
    step("freed");
}

static void row_pinned(void) {
    void *pointer;

    MUST(cudaMallocHost(&pointer, GIB));
    *(char *)pointer = 1;
    step("allocated");
    MUST(cudaFreeHost(pointer));
    step("freed");
}

static void row_async(void) {
    void *first, *second;

    MUST(cudaMallocAsync(&first, 100 * MIB, NULL));
    step("first");
    MUST(cudaMallocAsync(&second, 100 * MIB, NULL));
    step("second");
    MUST(cudaFreeAsync(first, NULL));
    MUST(cudaFreeAsync(second, NULL));
    step("freed");
    MUST(cudaStreamSynchronize(NULL));
    step("synchronised");
}

static void row_threshold(void) {
    cudaMemPool_t pool;
    unsigned long long keep = ~0ull;
    void *pointer;

    MUST(cudaDeviceGetDefaultMemPool(&pool, 0));
    MUST(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
    MUST(cudaMallocAsync(&pointer, 100 * MIB, NULL));
    MUST(cudaFreeAsync(pointer, NULL));
    MUST(cudaDeviceSynchronize());
    step("synchronised");
    MUST(cudaMemPoolTrimTo(pool, 0));
    step("trimmed");
}

static void row_vmm(void) {
    const CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                            .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemGenericAllocationHandle handle;
    CUdeviceptr address;

    MUST(DRIVER(cuMemAddressReserve)(&address, GIB, 0, 0, 0));
    MUST(DRIVER(cuMemCreate)(&handle, GIB, &properties, 0));
    step("created");
    MUST(DRIVER(cuMemMap)(address, GIB, 0, handle, 0));
    step("mapped");
    MUST(DRIVER(cuMemRelease)(handle));
    step("released");
    MUST(DRIVER(cuMemUnmap)(address, GIB));
    step("unmapped");
    MUST(DRIVER(cuMemAddressFree)(address, GIB));
}

static void row_stack(void) {
    MUST(cudaDeviceSetLimit(cudaLimitStackSize, 8 * KIB));
    step("8KiB");
    MUST(cudaDeviceSetLimit(cudaLimitStackSize, KIB));
    launch();
    MUST(cudaDeviceSetLimit(cudaLimitStackSize, 64 * KIB));
    step("64KiB");
}

static void row_heap(void) {
    MUST(cudaDeviceSetLimit(cudaLimitMallocHeapSize, 4 * GIB));
    step("set");
    launch();
}

static void row_streams(void) {
    cudaStream_t stream;

    for (int i = 1; i <= 256; i++) {
        MUST(cudaStreamCreate(&stream));
        if (i == 8 || i == 64 || i == 256)
            step(i == 8 ? "8" : i == 64 ? "64" : "256");
    }
}

static void row_graph(void) {
    CUDA_MEM_ALLOC_NODE_PARAMS parameters = {
        .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}},
        .bytesize = 512 * MIB};
    CUgraphExec executable;
    CUgraphNode node, last;
    CUgraph graph;

    MUST(DRIVER(cuGraphCreate)(&graph, 0));
    MUST(DRIVER(cuGraphAddMemAllocNode)(&node, graph, NULL, 0, &parameters));
    MUST(DRIVER(cuGraphAddMemFreeNode)(&last, graph, &node, 1, parameters.dptr));
    MUST(DRIVER(cuGraphInstantiate)(&executable, graph, 0));
    step("built");
    MUST(DRIVER(cuGraphLaunch)(executable, NULL));
    MUST(cudaDeviceSynchronize());
    step("launched");
    MUST(DRIVER(cuDeviceGraphMemTrim)(0));
    step("trimmed");
}

static void row_second_context(void) {
    CUcontext context;

    MUST(DRIVER(cuCtxCreate)(&context, NULL, 0, 0));
    step("created");
    MUST(DRIVER(cuCtxDestroy)(context));
    step("destroyed");
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } rows[] = {
        {"malloc", row_malloc},   {"large", row_large}, {"small", row_small},
        {"pitch", row_pitch},     {"array", row_array}, {"managed", row_managed},
        {"pinned", row_pinned},   {"async", row_async}, {"threshold", row_threshold},
        {"vmm", row_vmm},         {"stack", row_stack}, {"heap", row_heap},
        {"streams", row_streams}, {"graph", row_graph}, {"second-context", row_second_context},
    };

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; argc == 2 && i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (strcmp(argv[1], rows[i].name) == 0) {
            MUST(cudaFree(NULL)); /* makes the context */
            step("context");
            rows[i].run();
            MUST(cudaDeviceReset());
            step("reset");
            return 0;
        }
    }
    fprintf(stderr, "usage: h200_table ROW\n");
    return 2;
}
