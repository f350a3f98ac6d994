/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits that take memory.
 *
 * The stack arena holds (stack + 576) bytes for each of 132 x 2048 threads. Traced on an H100: a limit of 8 KiB asks
 * for 2370306048 bytes, which is this formula; and for 1 KiB it gives the 414 MiB that are left for the last object of
 * a context of 518 MiB. Measured on an H200: +1848 MiB from 1 KiB to 8, +16632 to 64. A larger arena is made at once, a
 * smaller one at the next launch. Not known: whether the old arena goes before the new one comes; here it goes after.
 *
 * Measured for the malloc heap at a limit of 4 GiB: 138 MiB when a module that uses it is loaded, 4236 after its first
 * launch. What a module uses cannot be told here, so a program that sets the limit is taken for one that needs the
 * heap.
 */
#include "sim.h"

#define DEVICE_THREADS ((uint64_t)MULTIPROCESSORS * THREADS_PER_MULTIPROCESSOR)
#define STACK_DEFAULT_BYTES 1024ull
#define STACK_FRAME_BYTES 576ull /* beside the stack itself */
#define ARENA_DEFAULT_BYTES (414ull * 1024 * 1024)
#define HEAP_DEFAULT_BYTES (8ull * 1024 * 1024)
#define FIFO_DEFAULT_BYTES (1024ull * 1024)
#define HEAP_TABLES_BYTES (138ull * 1024 * 1024)

static uint32_t *arena_of(CUcontext context) {
    return &context->objects[CONTEXT_OBJECTS - 1];
}

void limits_start(CUcontext context) {
    context->limits = (struct limits){.stack_bytes = STACK_DEFAULT_BYTES,
                                      .fifo_bytes = FIFO_DEFAULT_BYTES,
                                      .heap_bytes = HEAP_DEFAULT_BYTES,
                                      .arena_stack_bytes = STACK_DEFAULT_BYTES};
}

void limits_release(CUcontext context) {
    const uint32_t device_handle = device_of(context->device)->handle;

    if (context->limits.heap_tables)
        rm_object_free(device_handle, context->limits.heap_tables);
    if (context->limits.heap)
        rm_object_free(device_handle, context->limits.heap);
}

/*
 * Bytes to ask for. A context that is configured to cost more or less than the measured one has so much more or less
 * in its arena (context.c), and keeps that difference. 0: none.
 */
static uint64_t arena_bytes(CUcontext context, uint64_t stack_bytes) {
    const uint64_t asked_bytes = DEVICE_THREADS * (stack_bytes + STACK_FRAME_BYTES);
    const uint64_t configured_bytes = context_arena_bytes(context);

    if (asked_bytes + configured_bytes <= ARENA_DEFAULT_BYTES)
        return 0;
    return asked_bytes + configured_bytes - ARENA_DEFAULT_BYTES;
}

/* The new arena first, so that a refusal leaves the context with the old one. */
static CUresult replace_arena(CUcontext context) {
    const uint32_t device_handle = device_of(context->device)->handle;
    const uint64_t size_bytes = arena_bytes(context, context->limits.stack_bytes);
    uint32_t fresh = 0;
    CUresult result = size_bytes ? rm_memory_create(device_handle, size_bytes, &fresh) : CUDA_SUCCESS;

    if (result != CUDA_SUCCESS)
        return result;
    if (*arena_of(context))
        rm_object_free(device_handle, *arena_of(context));
    *arena_of(context) = fresh;
    context->limits.arena_stack_bytes = context->limits.stack_bytes;
    return CUDA_SUCCESS;
}

CUresult limits_module_load(CUcontext context) {
    struct limits *limits = &context->limits;

    if (!limits->heap_chosen || limits->heap_tables)
        return CUDA_SUCCESS;
    return rm_memory_create(device_of(context->device)->handle, HEAP_TABLES_BYTES, &limits->heap_tables);
}

CUresult limits_launch(CUcontext context) {
    struct limits *limits = &context->limits;
    CUresult result = CUDA_SUCCESS;

    if (limits->arena_stack_bytes != limits->stack_bytes)
        result = replace_arena(context);
    if (result == CUDA_SUCCESS && limits->heap_tables && !limits->heap)
        result =
            rm_memory_create(device_of(context->device)->handle, limits->heap_bytes + GRANULE_BYTES, &limits->heap);
    return result;
}

static CUresult set_stack(CUcontext context, uint64_t stack_bytes) {
    struct limits *limits = &context->limits;
    const uint64_t before_bytes = limits->stack_bytes;
    CUresult result = CUDA_SUCCESS;

    if (stack_bytes > UINT64_MAX / DEVICE_THREADS / 2)
        return CUDA_ERROR_INVALID_VALUE;
    limits->stack_bytes = stack_bytes;
    if (stack_bytes > limits->arena_stack_bytes)
        result = replace_arena(context);
    if (result != CUDA_SUCCESS)
        limits->stack_bytes = before_bytes;
    return result;
}

SIM_EXPORT CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    switch (limit) {
    case CU_LIMIT_STACK_SIZE:
        LEAVE(set_stack(context, value));
    case CU_LIMIT_PRINTF_FIFO_SIZE:
        context->limits.fifo_bytes = value;
        LEAVE(CUDA_SUCCESS);
    case CU_LIMIT_MALLOC_HEAP_SIZE:
        if (context->limits.heap)
            LEAVE(CUDA_ERROR_INVALID_VALUE); /* in use: documented as too late */
        context->limits.heap_bytes = value;
        context->limits.heap_chosen = true;
        LEAVE(CUDA_SUCCESS);
    default:
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    }
}

SIM_EXPORT CUresult cuCtxGetLimit(size_t *pvalue, CUlimit limit) {
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    if (result == CUDA_SUCCESS && !pvalue)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    switch (limit) {
    case CU_LIMIT_STACK_SIZE:
        *pvalue = context->limits.stack_bytes;
        break;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
        *pvalue = context->limits.fifo_bytes;
        break;
    case CU_LIMIT_MALLOC_HEAP_SIZE:
        *pvalue = context->limits.heap_bytes;
        break;
    default:
        result = CUDA_ERROR_INVALID_VALUE;
    }
    LEAVE(result);
}
