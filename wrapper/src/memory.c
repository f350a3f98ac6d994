/* SPDX-License-Identifier: Apache-2.0 */
/* Allocations whose size the arguments tell, or at least bound: reserved before the driver is asked. */
#include "client.h"
#include "device.h"
#include "driver.h"
#include "managed.h"
#include "reserve.h"

/*
 * libcuda serves requests up to this size from chunks of one granule that it keeps (1000 x 64 KiB took 64 MiB, 1000 x
 * 1025 KiB took 2000 MiB on an H200): they may need no memory at all, so the driver is asked first.
 */
#define SHARED_CHUNK_BYTES (1024ULL * 1024)

/* Rows of cuMemAllocPitch begin at multiples of this: 1 byte x 1 Mi rows took 512 MiB on an H200. */
#define PITCH_BYTES 512ULL

/* CUarray_format, and CUDA_ARRAY3D_DESCRIPTOR.Flags */
enum { FORMAT_UINT8 = 1, FORMAT_UINT16 = 2, FORMAT_UINT32 = 3, FORMAT_INT8 = 8, FORMAT_INT16 = 9, FORMAT_INT32 = 10 };
enum { FORMAT_HALF = 0x10, FORMAT_FLOAT = 0x20 };
enum { ARRAY_LAYERED = 0x1, ARRAY_SPARSE = 0x40, ARRAY_DEFERRED_MAPPING = 0x80 };

/* UINT64_MAX where the product has no room: more than any device has. */
static uint64_t times(uint64_t first, uint64_t second) {
    uint64_t product;
    return __builtin_mul_overflow(first, second, &product) ? UINT64_MAX : product;
}

static void expect(struct charge *charge, uint32_t slot, uint64_t size_bytes) {
    const uint64_t granules = size_bytes / CVG_GRANULE_BYTES + (size_bytes % CVG_GRANULE_BYTES != 0);
    if (size_bytes > SHARED_CHUNK_BYTES)
        charge_expect(charge, slot, times(granules, CVG_GRANULE_BYTES));
}

/* An upper bound: if it is beyond the limit, the driver is asked all the same, and the boundary knows better. */
static void expect_at_most(struct charge *charge, uint32_t slot, uint64_t size_bytes) {
    charge->is_guess = true;
    expect(charge, slot, size_bytes);
}

CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize) {
    struct charge charge;
    if (dptr == NULL || bytesize == 0 || !charge_begin(&charge, CVG_API_cuMemAlloc_v2))
        return driver()->cuMemAlloc_v2(dptr, bytesize); /* the driver's own way to complain */
    if (bytesize > SHARED_CHUNK_BYTES)
        expect(&charge, device_slot_current(), bytesize);
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result)) {
        result = driver()->cuMemAlloc_v2(dptr, bytesize);
        if (result == CUDA_SUCCESS)
            managed_estimate(&charge, *dptr);
    }
    return result;
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height,
                            unsigned int ElementSizeBytes) {
    struct charge charge;
    if (dptr == NULL || pPitch == NULL || WidthInBytes == 0 || Height == 0 ||
        !charge_begin(&charge, CVG_API_cuMemAllocPitch_v2))
        return driver()->cuMemAllocPitch_v2(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
    const uint64_t row_bytes = times(WidthInBytes / PITCH_BYTES + (WidthInBytes % PITCH_BYTES != 0), PITCH_BYTES);
    expect_at_most(&charge, device_slot_current(), times(row_bytes, Height));
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result)) {
        result = driver()->cuMemAllocPitch_v2(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
        if (result == CUDA_SUCCESS)
            managed_estimate(&charge, *dptr);
    }
    return result;
}

/* Memory of the host comes under the same call, and names its place; it is not ours to count. */
CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
                     unsigned long long flags) {
    struct charge charge;
    if (handle == NULL || prop == NULL || prop->location_type != CU_MEM_LOCATION_TYPE_DEVICE ||
        !charge_begin(&charge, CVG_API_cuMemCreate))
        return driver()->cuMemCreate(handle, size, prop, flags);
    charge_expect(&charge, device_slot(prop->location_id), size); /* a multiple of the granule, or the driver refuses */
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result))
        result = driver()->cuMemCreate(handle, size, prop, flags);
    return result;
}

/* ---- Arrays ---- */

/* 0: not a format that this table knows, so the driver is asked first. */
static uint64_t format_bytes(int format) {
    switch (format) {
    case FORMAT_UINT8:
    case FORMAT_INT8:
        return 1;
    case FORMAT_UINT16:
    case FORMAT_INT16:
    case FORMAT_HALF:
        return 2;
    case FORMAT_UINT32:
    case FORMAT_INT32:
    case FORMAT_FLOAT:
        return 4;
    default:
        return 0;
    }
}

static uint64_t at_least_one(size_t extent) {
    return extent != 0 ? extent : 1;
}

/* All levels of an array, each half as wide, high and (unless these are layers) deep as the one before. */
static uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR *array, unsigned int levels) {
    if ((array->flags & (ARRAY_SPARSE | ARRAY_DEFERRED_MAPPING)) != 0)
        return 0; /* an address range, to be mapped later */
    uint64_t width = at_least_one(array->width);
    uint64_t height = at_least_one(array->height);
    uint64_t depth = at_least_one(array->depth);
    uint64_t total_bytes = 0;
    for (unsigned int level = 0; level < levels && level < 64; level++) {
        const uint64_t texel_bytes = times(format_bytes(array->format), array->channels);
        const uint64_t level_bytes = times(times(width, height), times(depth, texel_bytes));
        if (__builtin_add_overflow(total_bytes, level_bytes, &total_bytes))
            return UINT64_MAX;
        width = at_least_one(width / 2);
        height = at_least_one(height / 2);
        depth = (array->flags & ARRAY_LAYERED) != 0 ? depth : at_least_one(depth / 2);
    }
    return total_bytes;
}

CUresult cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray) {
    struct charge charge;
    if (pHandle == NULL || pAllocateArray == NULL || !charge_begin(&charge, CVG_API_cuArrayCreate_v2))
        return driver()->cuArrayCreate_v2(pHandle, pAllocateArray);
    const CUDA_ARRAY3D_DESCRIPTOR flat = {.width = pAllocateArray->width,
                                          .height = pAllocateArray->height,
                                          .format = pAllocateArray->format,
                                          .channels = pAllocateArray->channels};
    expect_at_most(&charge, device_slot_current(), array_bytes(&flat, 1));
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result))
        result = driver()->cuArrayCreate_v2(pHandle, pAllocateArray);
    return result;
}

CUresult cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray) {
    struct charge charge;
    if (pHandle == NULL || pAllocateArray == NULL || !charge_begin(&charge, CVG_API_cuArray3DCreate_v2))
        return driver()->cuArray3DCreate_v2(pHandle, pAllocateArray);
    expect_at_most(&charge, device_slot_current(), array_bytes(pAllocateArray, 1));
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result))
        result = driver()->cuArray3DCreate_v2(pHandle, pAllocateArray);
    return result;
}

CUresult cuMipmappedArrayCreate(CUmipmappedArray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
                                unsigned int numMipmapLevels) {
    struct charge charge;
    if (pHandle == NULL || pMipmappedArrayDesc == NULL || !charge_begin(&charge, CVG_API_cuMipmappedArrayCreate))
        return driver()->cuMipmappedArrayCreate(pHandle, pMipmappedArrayDesc, numMipmapLevels);
    expect_at_most(&charge, device_slot_current(), array_bytes(pMipmappedArrayDesc, numMipmapLevels));
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result))
        result = driver()->cuMipmappedArrayCreate(pHandle, pMipmappedArrayDesc, numMipmapLevels);
    return result;
}

/* ---- Freeing ---- */

/* Managed memory is freed by the same call; the pointer tells. */
CUresult cuMemFree_v2(CUdeviceptr dptr) {
    hook_enter();
    struct managed *managed = managed_detach(dptr);
    const CUresult result = driver()->cuMemFree_v2(dptr);
    if (managed != NULL)
        managed_end(managed, result == CUDA_SUCCESS);
    hook_leave();
    return result;
}
