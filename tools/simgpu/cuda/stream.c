/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams. They order nothing here, for nothing runs; what is true of them is their memory and their captures.
 *
 * Measured on an H200: 8 streams took 4 MiB, 64 took 34, 256 took 140. One object of 2 MiB for every 4 streams and one
 * more for every 40 gives these three figures; which stream takes the object is not known between them. Not measured
 * either: a destroyed stream leaves its place to the next one, and the memory goes with the context.
 */
#include "sim.h"

#include <stdlib.h>

#define STREAMS_PER_OBJECT 4
#define STREAMS_PER_FURTHER_OBJECT 40

static struct CUstream_st *streams; /* of all contexts, newest first */
static struct CUstream_st legacy = {.legacy = true};
static _Thread_local struct CUstream_st *own; /* never freed: a capture may outlive its thread */

CUresult stream_find(CUstream handle, bool per_thread, struct CUstream_st **stream) {
    CUcontext context;
    CUresult result = current_usable(&context);

    if (result != CUDA_SUCCESS)
        return result;
    if (!handle)
        handle = per_thread ? CU_STREAM_PER_THREAD : CU_STREAM_LEGACY;
    if (handle == CU_STREAM_LEGACY) {
        *stream = &legacy;
        return CUDA_SUCCESS;
    }
    if (handle == CU_STREAM_PER_THREAD) {
        if (!own)
            own = calloc(1, sizeof(*own));
        *stream = own;
        return own ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    }
    for (*stream = streams; *stream && *stream != handle;)
        *stream = (*stream)->next;
    return *stream ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

/* Takes one object for the context's streams; they stay with it. */
static CUresult take_object(CUcontext context) {
    struct stream_memory *memory = &context->stream_memory;
    uint32_t *objects = realloc(memory->objects, (memory->object_count + 1) * sizeof(*objects));
    CUresult result;

    if (!objects)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memory->objects = objects;
    result = rm_memory_create(device_of(context->device)->handle, GRANULE_BYTES, &objects[memory->object_count]);
    if (result == CUDA_SUCCESS)
        memory->object_count++;
    return result;
}

static CUresult make_room(CUcontext context) {
    struct stream_memory *memory = &context->stream_memory;
    const unsigned number = memory->live + 1;
    const unsigned before = memory->object_count;
    CUresult result = CUDA_SUCCESS;

    if (number <= memory->most)
        return CUDA_SUCCESS;
    if (memory->most % STREAMS_PER_OBJECT == 0)
        result = take_object(context);
    if (result == CUDA_SUCCESS && number % STREAMS_PER_FURTHER_OBJECT == 0)
        result = take_object(context);
    if (result == CUDA_SUCCESS)
        memory->most = number;
    while (result != CUDA_SUCCESS && memory->object_count > before)
        rm_object_free(device_of(context->device)->handle, memory->objects[--memory->object_count]);
    return result;
}

static CUresult create(CUstream *out) {
    struct CUstream_st *stream;
    CUcontext context;
    CUresult result;

    ENTER();
    result = current_usable(&context);
    if (result == CUDA_SUCCESS && !out)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = make_room(context);
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    stream = calloc(1, sizeof(*stream));
    if (!stream)
        LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
    context->stream_memory.live++;
    stream->context = context;
    stream->next = streams;
    streams = stream;
    *out = stream;
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuStreamCreate(CUstream *phStream, unsigned int Flags) {
    return Flags > 1 ? CUDA_ERROR_INVALID_VALUE : create(phStream);
}

SIM_EXPORT CUresult cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority) {
    (void)priority; /* out of range is clamped, not refused */
    return cuStreamCreate(phStream, flags);
}

static void destroy(struct CUstream_st *stream) {
    struct CUstream_st **link = &streams;

    while (*link != stream)
        link = &(*link)->next;
    *link = stream->next;
    stream->context->stream_memory.live--;
    capture_drop(stream);
    free(stream);
}

static CUresult stream_destroy(CUstream handle) {
    struct CUstream_st *stream;
    CUresult result;

    ENTER();
    result = stream_find(handle, false, &stream);
    if (result == CUDA_SUCCESS && !stream->context)
        result = CUDA_ERROR_INVALID_VALUE; /* the special ones are everybody's */
    if (result == CUDA_SUCCESS)
        destroy(stream);
    LEAVE(result);
}

SIM_EXPORT CUresult cuStreamDestroy_v2(CUstream hStream) {
    return stream_destroy(hStream);
}

#undef cuStreamDestroy
SIM_EXPORT CUresult cuStreamDestroy(CUstream hStream);
SIM_EXPORT CUresult cuStreamDestroy(CUstream hStream) {
    return stream_destroy(hStream);
}

void streams_release_context(CUcontext context) {
    struct stream_memory *memory = &context->stream_memory;

    for (struct CUstream_st *stream = streams, *next; stream; stream = next) {
        next = stream->next;
        if (stream->context == context)
            destroy(stream);
    }
    while (memory->object_count)
        rm_object_free(device_of(context->device)->handle, memory->objects[--memory->object_count]);
    free(memory->objects);
    *memory = (struct stream_memory){0};
}

static CUresult synchronize(CUstream handle, bool per_thread) {
    struct CUstream_st *stream;
    CUresult result;

    ENTER();
    result = stream_find(handle, per_thread, &stream);
    if (result == CUDA_SUCCESS && stream->capture != CU_STREAM_CAPTURE_STATUS_NONE) {
        capture_invalidate(stream);
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (result == CUDA_SUCCESS)
        pools_synchronize((stream->context ? stream->context : current_context())->device);
    LEAVE(result);
}

SIM_EXPORT CUresult cuStreamSynchronize(CUstream hStream) {
    return synchronize(hStream, false);
}

SIM_EXPORT CUresult cuStreamSynchronize_ptsz(CUstream hStream);
SIM_EXPORT CUresult cuStreamSynchronize_ptsz(CUstream hStream) {
    return synchronize(hStream, true);
}
