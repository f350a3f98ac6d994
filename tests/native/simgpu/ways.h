/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs that ask the simulated driver share: finding its functions, amounts, and a graph to launch. */
#ifndef CONVGPU_TESTS_SIMGPU_WAYS_H
#define CONVGPU_TESTS_SIMGPU_WAYS_H

#include <cuda.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#define KIB 1024ull
#define MIB (1024 * KIB)
#define NAME_OF(symbol) #symbol
#define STRING_OF(symbol) NAME_OF(symbol)
#define GET(symbol) ((__typeof__(&symbol))find(STRING_OF(symbol)))

static inline void *find(const char *name) {
    void *address = dlsym(dlopen("libcuda.so.1", RTLD_NOW), name);

    if (!address) {
        printf("missing %s\n", name);
        exit(1);
    }
    return address;
}

static inline void start(void) {
    CUcontext context;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (GET(cuInit)(0) || GET(cuDevicePrimaryCtxRetain)(&context, 0) || GET(cuCtxSetCurrent)(context)) {
        printf("cannot start\n");
        exit(1);
    }
}

static const CUmemAllocationProp on_device = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                              .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};

/* A graph that allocates and does not free; its address is given out before it is launched. */
static inline CUgraphExec graph_of(size_t size_bytes, unsigned long long flags, CUdeviceptr *pointer) {
    CUDA_MEM_ALLOC_NODE_PARAMS parameters = {
        .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}},
        .bytesize = size_bytes};
    CUgraphExec executable = NULL;
    CUgraphNode node;
    CUgraph graph;

    GET(cuGraphCreate)(&graph, 0);
    GET(cuGraphAddMemAllocNode)(&node, graph, NULL, 0, &parameters);
    GET(cuGraphInstantiate)(&executable, graph, flags);
    GET(cuGraphDestroy)(graph);
    *pointer = parameters.dptr;
    return executable;
}

#endif
