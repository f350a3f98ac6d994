/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does what stands in the table "The boundary is exact", one step after the other. After each it prints "step NAME" and
 * waits for a line, so that somebody outside can compare what ledger, witness and NVML say at that moment.
 * With the simulated runtime only the steps with cudaMalloc are there.
 */
#include "common.h"

#ifdef __CUDACC__
#include <cuda.h>
#endif

#define BLOCKS 1000
#define STREAMS 64

static void *blocks[BLOCKS];

static void step(const char *name) {
    char line[16];

    printf("step %s\n", name);
    fflush(stdout);
    if (!next_line(line, sizeof(line)))
        _exit(0);
}

static void many(size_t size_bytes, const char *taken, const char *freed) {
    for (int i = 0; i < BLOCKS; i++)
        CHECK(cudaMalloc(&blocks[i], size_bytes));
    step(taken);
    for (int i = 0; i < BLOCKS; i++)
        CHECK(cudaFree(blocks[i]));
    step(freed);
}

static void linear() {
    void *pointer = NULL;

    CHECK(cudaFree(0));
    step("primary context");
    CHECK(cudaMalloc(&pointer, 256 * MIB));
    step("cudaMalloc 256 MiB");
    CHECK(cudaFree(pointer));
    step("cudaFree");
    many(1025 * 1024, "1000 x 1025 KiB", "1000 x 1025 KiB freed");
    many(64 * 1024, "1000 x 64 KiB", "1000 x 64 KiB freed");
}

#ifdef __CUDACC__
#define GIB (1024 * MIB)

#define CHECK_DRIVER(call)                                                                                             \
    do {                                                                                                               \
        const CUresult result = (call);                                                                                \
        if (result != CUDA_SUCCESS) {                                                                                  \
            printf("error %s: %d\n", #call, (int)result);                                                              \
            fflush(stdout);                                                                                            \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

__global__ void touch(char *bytes, size_t size_bytes) {
    for (size_t at = (size_t)blockIdx.x * 4096; at < size_bytes; at += (size_t)gridDim.x * 4096)
        bytes[at] = 1;
}

__global__ void nothing() {
}

/* The driver's call by its name of a version: the program is not linked to libcuda, as most are not. */
template <typename Call> static Call driver_call(const char *name) {
    void *call = NULL;
    cudaDriverEntryPointQueryResult found;

    CHECK(cudaGetDriverEntryPointByVersion(name, &call, 12000, cudaEnableDefault, &found));
    return (Call)call;
}

static void arrays() {
    void *pitched = NULL;
    size_t pitch_bytes;
    cudaArray_t array;
    cudaMipmappedArray_t mipmapped;
    const cudaChannelFormatDesc format = cudaCreateChannelDesc<float>();

    CHECK(cudaMallocPitch(&pitched, &pitch_bytes, 1, 1024 * 1024));
    step("cudaMallocPitch 1 B x 1 Mi rows");
    CHECK(cudaFree(pitched));
    step("cudaMallocPitch freed");
    CHECK(cudaMallocArray(&array, &format, 8192, 8192));
    step("array 8192 x 8192 f32");
    CHECK(cudaFreeArray(array));
    step("array freed");
    CHECK(cudaMallocMipmappedArray(&mipmapped, &format, make_cudaExtent(4096, 4096, 0), 8));
    step("mipmapped 4096^2, 8 levels");
    CHECK(cudaFreeMipmappedArray(mipmapped));
    step("mipmapped freed");
}

static void unified() {
    char *managed = NULL;
    void *pinned = NULL;

    CHECK(cudaMallocManaged(&managed, GIB));
    step("managed 1 GiB");
    touch<<<128, 1>>>(managed, GIB);
    CHECK(cudaDeviceSynchronize());
    step("managed 1 GiB touched on the device");
    CHECK(cudaFree(managed));
    step("managed freed");
    CHECK(cudaMallocHost(&pinned, GIB));
    step("pinned host 1 GiB");
    CHECK(cudaFreeHost(pinned));
    step("pinned host freed");
}

static void pools() {
    void *first = NULL, *second = NULL;
    cudaStream_t stream;

    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaMallocAsync(&first, 100 * MIB, stream));
    CHECK(cudaStreamSynchronize(stream));
    step("cudaMallocAsync 100 MiB");
    CHECK(cudaMallocAsync(&second, 100 * MIB, stream));
    CHECK(cudaStreamSynchronize(stream));
    step("cudaMallocAsync, a second 100 MiB");
    CHECK(cudaFreeAsync(first, stream));
    CHECK(cudaFreeAsync(second, stream));
    CHECK(cudaStreamSynchronize(stream));
    step("cudaFreeAsync, both");
    CHECK(cudaStreamDestroy(stream));
}

static void virtual_memory() {
    const auto create = driver_call<decltype(&cuMemCreate)>("cuMemCreate");
    const auto reserve = driver_call<decltype(&cuMemAddressReserve)>("cuMemAddressReserve");
    const auto map = driver_call<decltype(&cuMemMap)>("cuMemMap");
    const auto release = driver_call<decltype(&cuMemRelease)>("cuMemRelease");
    const auto unmap = driver_call<decltype(&cuMemUnmap)>("cuMemUnmap");
    const auto give_back = driver_call<decltype(&cuMemAddressFree)>("cuMemAddressFree");
    CUmemAllocationProp properties = {};
    CUmemGenericAllocationHandle handle;
    CUdeviceptr address;

    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = 0;
    CHECK_DRIVER(create(&handle, GIB, &properties, 0));
    step("cuMemCreate 1 GiB");
    CHECK_DRIVER(reserve(&address, GIB, 0, 0, 0));
    CHECK_DRIVER(map(address, GIB, 0, handle, 0));
    step("cuMemMap");
    CHECK_DRIVER(release(handle));
    step("cuMemRelease while mapped");
    CHECK_DRIVER(unmap(address, GIB));
    step("cuMemUnmap");
    CHECK_DRIVER(give_back(address, GIB));
}

static void limits_and_streams() {
    cudaStream_t streams[STREAMS];
    size_t stack_bytes;

    CHECK(cudaDeviceGetLimit(&stack_bytes, cudaLimitStackSize));
    CHECK(cudaDeviceSetLimit(cudaLimitStackSize, 8192));
    step("stack limit 8 KiB");
    CHECK(cudaDeviceSetLimit(cudaLimitStackSize, stack_bytes));
    nothing<<<1, 1>>>();
    CHECK(cudaDeviceSynchronize());
    step("stack limit back, launch");
    for (cudaStream_t &stream : streams)
        CHECK(cudaStreamCreate(&stream));
    step("64 streams");
    for (cudaStream_t &stream : streams)
        CHECK(cudaStreamDestroy(stream));
    step("64 streams destroyed");
}

static void graphs() {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaGraphNode_t allocation, release;
    cudaMemAllocNodeParams parameters = {};

    parameters.poolProps.allocType = cudaMemAllocationTypePinned;
    parameters.poolProps.location.type = cudaMemLocationTypeDevice;
    parameters.poolProps.location.id = 0;
    parameters.bytesize = 512 * MIB;
    CHECK(cudaGraphCreate(&graph, 0));
    CHECK(cudaGraphAddMemAllocNode(&allocation, graph, NULL, 0, &parameters));
    CHECK(cudaGraphAddMemFreeNode(&release, graph, &allocation, 1, parameters.dptr));
    CHECK(cudaGraphInstantiate(&executable, graph, 0));
    step("graph with a 512 MiB node, built");
    CHECK(cudaGraphLaunch(executable, 0));
    CHECK(cudaDeviceSynchronize());
    step("graph launched");
    CHECK(cudaDeviceGraphMemTrim(0));
    step("graph memory trimmed");
    CHECK(cudaGraphExecDestroy(executable));
    CHECK(cudaGraphDestroy(graph));
}

static void real_only() {
    arrays();
    unified();
    pools();
    virtual_memory();
    limits_and_streams();
    graphs();
}
#else
static void real_only() {
}
#endif

int main() {
    linear();
    real_only();
    say("end");
    return 0;
}
