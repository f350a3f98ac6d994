/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Graphs: lists of nodes in the order in which they were added, which is an order that their dependencies allow.
 * Allocation and free nodes do what they say at the launch (graph_memory.c); a kernel node does what a launch does.
 */
#include "sim.h"

#include <stdlib.h>

enum node_kind { NODE_ALLOCATION, NODE_FREE, NODE_KERNEL };

struct CUgraphNode_st {
    enum node_kind kind;
    struct graph_memory *memory;
    struct CUgraphNode_st *next;
};

struct CUgraph_st {
    CUgraphNode first, last;
    struct CUgraph_st *next;
};

struct CUgraphExec_st {
    CUgraphNode first, last; /* a copy of the graph's */
    bool frees_on_launch;
    struct CUgraphExec_st *next;
};

static CUgraph graphs;
static CUgraphExec executables;

static bool graph_known(CUgraph graph) {
    for (CUgraph known = graphs; known; known = known->next)
        if (known == graph)
            return true;
    return false;
}

static bool executable_known(CUgraphExec executable) {
    for (CUgraphExec known = executables; known; known = known->next)
        if (known == executable)
            return true;
    return false;
}

/* Adds a node that holds its memory. NULL: no memory for its own books. */
static CUgraphNode append(CUgraphNode *first, CUgraphNode *last, enum node_kind kind, struct graph_memory *memory) {
    CUgraphNode node = calloc(1, sizeof(*node));

    if (!node)
        return NULL;
    node->kind = kind;
    node->memory = memory;
    if (memory)
        graph_memory_hold(memory);
    *(*last ? &(*last)->next : first) = node;
    *last = node;
    return node;
}

static void free_nodes(CUgraphNode node) {
    for (CUgraphNode next; node; node = next) {
        next = node->next;
        if (node->memory)
            graph_memory_release(node->memory);
        free(node);
    }
}

CUgraph graph_new(void) {
    CUgraph graph = calloc(1, sizeof(*graph));

    if (graph) {
        graph->next = graphs;
        graphs = graph;
    }
    return graph;
}

void graph_drop(CUgraph graph) {
    CUgraph *link = &graphs;

    while (*link != graph)
        link = &(*link)->next;
    *link = graph->next;
    free_nodes(graph->first);
    free(graph);
}

CUresult graph_add_allocation(CUgraph graph, CUdevice device, uint64_t size_bytes, CUdeviceptr *pointer,
                              CUgraphNode *node) {
    struct graph_memory *memory;

    if (granules(size_bytes) == UINT64_MAX)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memory = graph_memory_create(device, size_bytes, pointer);
    if (!memory)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *node = append(&graph->first, &graph->last, NODE_ALLOCATION, memory);
    graph_memory_release(memory); /* the node holds it, or nobody does */
    return *node ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult graph_add_free(CUgraph graph, CUdeviceptr pointer, CUgraphNode *node) {
    struct block *block = block_find(pointer);

    if (!block || block->kind != BLOCK_GRAPH || block->base != pointer)
        return CUDA_ERROR_INVALID_VALUE;
    *node = append(&graph->first, &graph->last, NODE_FREE, block->owner);
    return *node ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult graph_add_kernel(CUgraph graph) {
    return append(&graph->first, &graph->last, NODE_KERNEL, NULL) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

SIM_EXPORT CUresult cuGraphCreate(CUgraph *phGraph, unsigned int flags) {
    ENTER();
    if (!phGraph || flags)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    *phGraph = graph_new();
    LEAVE(*phGraph ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

SIM_EXPORT CUresult cuGraphDestroy(CUgraph hGraph) {
    ENTER();
    if (!graph_known(hGraph))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    graph_drop(hGraph);
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuGraphAddMemAllocNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                           size_t numDependencies, CUDA_MEM_ALLOC_NODE_PARAMS *nodeParams) {
    const CUmemPoolProps *properties;

    ENTER();
    if (!phGraphNode || !graph_known(hGraph) || (numDependencies && !dependencies) || !nodeParams ||
        !nodeParams->bytesize)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    properties = &nodeParams->poolProps;
    if (properties->allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE || properties->handleTypes != CU_MEM_HANDLE_TYPE_NONE)
        LEAVE(CUDA_ERROR_NOT_SUPPORTED);
    if (!device_of(properties->location.id))
        LEAVE(CUDA_ERROR_INVALID_DEVICE);
    LEAVE(graph_add_allocation(hGraph, properties->location.id, nodeParams->bytesize, &nodeParams->dptr, phGraphNode));
}

SIM_EXPORT CUresult cuGraphAddMemFreeNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                          size_t numDependencies, CUdeviceptr dptr) {
    ENTER();
    if (!phGraphNode || !graph_known(hGraph) || (numDependencies && !dependencies))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    LEAVE(graph_add_free(hGraph, dptr, phGraphNode));
}

static CUresult instantiate(CUgraphExec *out, CUgraph graph, unsigned long long flags) {
    CUgraphExec executable;

    ENTER();
    if (!out || !graph_known(graph))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    executable = calloc(1, sizeof(*executable));
    if (!executable)
        LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
    for (CUgraphNode node = graph->first; node; node = node->next) {
        if (!append(&executable->first, &executable->last, node->kind, node->memory)) {
            free_nodes(executable->first);
            free(executable);
            LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
        }
    }
    executable->frees_on_launch = flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    executable->next = executables;
    executables = executable;
    *out = executable;
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags) {
    return instantiate(phGraphExec, hGraph, flags);
}

/* The older two give a reason where they fail; here nothing of theirs can. */
static CUresult instantiate_old(CUgraphExec *out, CUgraph graph, CUgraphNode *error_node, char *log, size_t log_bytes) {
    if (error_node)
        *error_node = NULL;
    if (log && log_bytes)
        *log = '\0';
    return instantiate(out, graph, 0);
}

#undef cuGraphInstantiate
SIM_EXPORT CUresult cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                                       char *logBuffer, size_t bufferSize);
SIM_EXPORT CUresult cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                                       char *logBuffer, size_t bufferSize) {
    return instantiate_old(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
}

SIM_EXPORT CUresult cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                                          char *logBuffer, size_t bufferSize);
SIM_EXPORT CUresult cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                                          char *logBuffer, size_t bufferSize) {
    return instantiate_old(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
}

/* What was allocated without being freed in an earlier launch: freed now, or the launch is refused, as documented. */
static CUresult free_left_over(CUgraphExec executable) {
    for (CUgraphNode node = executable->first; node; node = node->next) {
        if (node->kind != NODE_ALLOCATION || !graph_memory_backed(node->memory))
            continue;
        if (!executable->frees_on_launch)
            return CUDA_ERROR_INVALID_VALUE;
        graph_memory_unback(node->memory);
    }
    return CUDA_SUCCESS;
}

static CUresult run(CUgraphNode node, CUcontext context) {
    switch (node->kind) {
    case NODE_ALLOCATION:
        return graph_memory_back(node->memory);
    case NODE_FREE:
        if (!graph_memory_backed(node->memory))
            return CUDA_ERROR_INVALID_VALUE;
        graph_memory_unback(node->memory);
        return CUDA_SUCCESS;
    default:
        return limits_launch(context);
    }
}

static CUresult launch(CUgraphExec executable, CUstream handle, bool per_thread) {
    struct CUstream_st *stream;
    CUresult result;

    ENTER();
    result = stream_find(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    if (!executable_known(executable))
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (stream->capture != CU_STREAM_CAPTURE_STATUS_NONE)
        LEAVE(CUDA_ERROR_NOT_SUPPORTED); /* a graph within a graph */
    result = free_left_over(executable);
    for (CUgraphNode node = executable->first; node && result == CUDA_SUCCESS; node = node->next) {
        result = run(node, stream->context ? stream->context : current_context());
        if (result == CUDA_SUCCESS)
            continue;
        for (CUgraphNode done = executable->first; done != node; done = done->next)
            if (done->kind == NODE_ALLOCATION && graph_memory_backed(done->memory))
                graph_memory_unback(done->memory);
        break;
    }
    LEAVE(result);
}

SIM_EXPORT CUresult cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream) {
    return launch(hGraphExec, hStream, false);
}

SIM_EXPORT CUresult cuGraphLaunch_ptsz(CUgraphExec hGraphExec, CUstream hStream);
SIM_EXPORT CUresult cuGraphLaunch_ptsz(CUgraphExec hGraphExec, CUstream hStream) {
    return launch(hGraphExec, hStream, true);
}

SIM_EXPORT CUresult cuGraphExecDestroy(CUgraphExec hGraphExec) {
    CUgraphExec *link = &executables;

    ENTER();
    while (*link && *link != hGraphExec)
        link = &(*link)->next;
    if (!*link)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    *link = hGraphExec->next;
    free_nodes(hGraphExec->first);
    free(hGraphExec);
    LEAVE(CUDA_SUCCESS);
}
