/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arrays and mipmapped arrays, in the block-linear layout: 64 bytes x 8 rows are one tile, and up to 16 tiles stand on
 * each other. Measured: 1000 x 1000 floats ask for 4128768 bytes (63 tiles wide, 8 stacks of 16 high), 8192 x 8192
 * take 256 MiB, 4096 x 4096 with 8 levels take 86. Not measured: small arrays, which take 2 MiB each here.
 */
#include "sim.h"

#include <stdlib.h>

#define TILE_WIDTH_BYTES 64ull
#define TILE_ROWS 8ull
#define TILES_STACKED_MAX 16ull
#define EXTENT_MAX (1ull << 20) /* so that no product overflows; a real limit is lower */

struct CUarray_st {
    CUcontext context;
    uint32_t handle;
    bool mipmapped;
    struct CUarray_st *next;
};

static struct CUarray_st *arrays; /* of all contexts */

static unsigned element_bytes(CUarray_format format) {
    switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        return 2;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        return 4;
    default:
        return 0;
    }
}

static uint64_t round_up(uint64_t value, uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

/* One level; a height or depth of 0 is a 1-dimensional or flat array. */
static uint64_t level_bytes(uint64_t row_bytes, uint64_t height, uint64_t depth) {
    uint64_t stack = 1;

    while (stack < TILES_STACKED_MAX && stack * TILE_ROWS < height)
        stack *= 2;
    return round_up(row_bytes, TILE_WIDTH_BYTES) * round_up(height ? height : 1, stack * TILE_ROWS) *
           (depth ? depth : 1);
}

static uint64_t half(uint64_t extent) {
    return extent > 1 ? extent / 2 : extent;
}

/* What all levels take together; 0: not an array that can be made. */
static uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR *descriptor, unsigned levels) {
    const uint64_t texel_bytes = (uint64_t)element_bytes(descriptor->Format) * descriptor->NumChannels;
    uint64_t width = descriptor->Width, height = descriptor->Height, depth = descriptor->Depth, all_bytes = 0;
    const bool channels_known =
        descriptor->NumChannels == 1 || descriptor->NumChannels == 2 || descriptor->NumChannels == 4;

    if (!channels_known || !width || width > EXTENT_MAX || height > EXTENT_MAX || depth > EXTENT_MAX ||
        (depth && !height) || !levels)
        return 0;
    for (unsigned level = 0; level < levels; level++) {
        all_bytes += level_bytes(width * texel_bytes, height, depth);
        if (width <= 1 && height <= 1 && depth <= 1)
            break; /* more levels than there can be: the rest is not made */
        width = half(width);
        height = half(height);
        depth = half(depth);
    }
    return all_bytes;
}

static CUresult create(struct CUarray_st **out, const CUDA_ARRAY3D_DESCRIPTOR *descriptor, unsigned levels,
                       bool mipmapped) {
    struct CUarray_st *array;
    uint64_t size_bytes;
    CUcontext context;
    CUresult result = current_usable(&context);

    if (result != CUDA_SUCCESS)
        return result;
    size_bytes = out && descriptor ? array_bytes(descriptor, levels) : 0;
    if (!size_bytes)
        return CUDA_ERROR_INVALID_VALUE;
    result = capture_check();
    if (result != CUDA_SUCCESS)
        return result;
    array = calloc(1, sizeof(*array));
    if (!array)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (size_bytes < GRANULE_BYTES)
        size_bytes = GRANULE_BYTES;
    result = rm_memory_create(device_of(context->device)->handle, size_bytes, &array->handle);
    if (result != CUDA_SUCCESS) {
        free(array);
        return result;
    }
    array->context = context;
    array->mipmapped = mipmapped;
    array->next = arrays;
    arrays = array;
    *out = array;
    return CUDA_SUCCESS;
}

static void destroy(struct CUarray_st **link) {
    struct CUarray_st *array = *link;

    *link = array->next;
    rm_object_free(device_of(array->context->device)->handle, array->handle);
    free(array);
}

static CUresult array_destroy(const void *handle, bool mipmapped) {
    struct CUarray_st **link = &arrays;

    while (*link && *link != handle)
        link = &(*link)->next;
    if (!*link || (*link)->mipmapped != mipmapped)
        return CUDA_ERROR_INVALID_HANDLE;
    destroy(link);
    return CUDA_SUCCESS;
}

void arrays_release_context(CUcontext context) {
    for (struct CUarray_st **link = &arrays; *link;) {
        if ((*link)->context == context)
            destroy(link);
        else
            link = &(*link)->next;
    }
}

SIM_EXPORT CUresult cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray) {
    CUDA_ARRAY3D_DESCRIPTOR descriptor = {0};

    ENTER();
    if (!pAllocateArray)
        LEAVE(CUDA_ERROR_INVALID_VALUE);
    descriptor.Width = pAllocateArray->Width;
    descriptor.Height = pAllocateArray->Height;
    descriptor.Format = pAllocateArray->Format;
    descriptor.NumChannels = pAllocateArray->NumChannels;
    LEAVE(create(pHandle, &descriptor, 1, false));
}

SIM_EXPORT CUresult cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray) {
    ENTER();
    LEAVE(create(pHandle, pAllocateArray, 1, false));
}

SIM_EXPORT CUresult cuArrayDestroy(CUarray hArray) {
    ENTER();
    LEAVE(array_destroy(hArray, false));
}

SIM_EXPORT CUresult cuMipmappedArrayCreate(CUmipmappedArray *pHandle,
                                           const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
                                           unsigned int numMipmapLevels) {
    ENTER();
    LEAVE(create((struct CUarray_st **)pHandle, pMipmappedArrayDesc, numMipmapLevels, true));
}

SIM_EXPORT CUresult cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray) {
    ENTER();
    LEAVE(array_destroy(hMipmappedArray, true));
}
