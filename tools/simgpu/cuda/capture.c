/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stream capture: what a stream is given becomes nodes of a graph. While one goes on, calls that are no stream's (an
 * allocation with cuMemAlloc, a synchronisation) are refused and spoil the capture, as CUDA documents it: in mode
 * global those of every thread, in mode thread-local those of the thread that began it, in mode relaxed none.
 */
#include "sim.h"

static struct CUstream_st *capturing;
static _Thread_local char this_thread; /* its address names the thread */

void capture_invalidate(struct CUstream_st *stream) {
    stream->capture = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
}

CUresult capture_check(void) {
    CUresult result = CUDA_SUCCESS;

    for (struct CUstream_st *stream = capturing; stream; stream = stream->next_capturing) {
        if (stream->capture != CU_STREAM_CAPTURE_STATUS_ACTIVE || stream->mode == CU_STREAM_CAPTURE_MODE_RELAXED ||
            (stream->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && stream->capturing_thread != &this_thread))
            continue;
        capture_invalidate(stream);
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return result;
}

/* Ends the capture without looking at its graph. */
static void leave_capture(struct CUstream_st *stream) {
    struct CUstream_st **link = &capturing;

    while (*link != stream)
        link = &(*link)->next_capturing;
    *link = stream->next_capturing;
    stream->capture = CU_STREAM_CAPTURE_STATUS_NONE;
    stream->graph = NULL;
}

void capture_drop(struct CUstream_st *stream) {
    if (stream->capture == CU_STREAM_CAPTURE_STATUS_NONE)
        return;
    graph_drop(stream->graph);
    leave_capture(stream);
}

static CUresult begin(CUstream handle, CUstreamCaptureMode mode, bool per_thread) {
    struct CUstream_st *stream;
    CUresult result;

    ENTER();
    if (mode < CU_STREAM_CAPTURE_MODE_GLOBAL || mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    result = stream_find(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    if (stream->legacy)
        LEAVE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    if (stream->capture != CU_STREAM_CAPTURE_STATUS_NONE)
        LEAVE(CUDA_ERROR_ILLEGAL_STATE);
    stream->graph = graph_new();
    if (!stream->graph)
        LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
    stream->capture = CU_STREAM_CAPTURE_STATUS_ACTIVE;
    stream->mode = mode;
    stream->capturing_thread = &this_thread;
    stream->next_capturing = capturing;
    capturing = stream;
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode) {
    return begin(hStream, mode, false);
}

SIM_EXPORT CUresult cuStreamBeginCapture_v2_ptsz(CUstream hStream, CUstreamCaptureMode mode);
SIM_EXPORT CUresult cuStreamBeginCapture_v2_ptsz(CUstream hStream, CUstreamCaptureMode mode) {
    return begin(hStream, mode, true);
}

static CUresult end(CUstream handle, CUgraph *out, bool per_thread) {
    struct CUstream_st *stream;
    CUresult result;

    ENTER();
    result = stream_find(handle, per_thread, &stream);
    if (result != CUDA_SUCCESS)
        LEAVE(result);
    if (!out)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    if (stream->capture == CU_STREAM_CAPTURE_STATUS_NONE)
        LEAVE(CUDA_ERROR_ILLEGAL_STATE);
    if (stream->mode != CU_STREAM_CAPTURE_MODE_RELAXED && stream->capturing_thread != &this_thread)
        LEAVE(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    *out = NULL;
    if (stream->capture == CU_STREAM_CAPTURE_STATUS_INVALIDATED) {
        capture_drop(stream);
        LEAVE(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
    *out = stream->graph;
    leave_capture(stream);
    LEAVE(CUDA_SUCCESS);
}

SIM_EXPORT CUresult cuStreamEndCapture(CUstream hStream, CUgraph *phGraph) {
    return end(hStream, phGraph, false);
}

SIM_EXPORT CUresult cuStreamEndCapture_ptsz(CUstream hStream, CUgraph *phGraph);
SIM_EXPORT CUresult cuStreamEndCapture_ptsz(CUstream hStream, CUgraph *phGraph) {
    return end(hStream, phGraph, true);
}

static CUresult is_capturing(CUstream handle, CUstreamCaptureStatus *status, bool per_thread) {
    struct CUstream_st *stream;
    CUresult result;

    ENTER();
    result = stream_find(handle, per_thread, &stream);
    if (result == CUDA_SUCCESS && !status)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        *status = stream->capture;
    LEAVE(result);
}

SIM_EXPORT CUresult cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus) {
    return is_capturing(hStream, captureStatus, false);
}

SIM_EXPORT CUresult cuStreamIsCapturing_ptsz(CUstream hStream, CUstreamCaptureStatus *captureStatus);
SIM_EXPORT CUresult cuStreamIsCapturing_ptsz(CUstream hStream, CUstreamCaptureStatus *captureStatus) {
    return is_capturing(hStream, captureStatus, true);
}
