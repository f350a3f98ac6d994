/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How many bytes a call asks for: the `size` column of symbols.def. Layouts and numbers: cuda.h and cuda_runtime_api.h
 * of CUDA 13.0. An array's bytes are those of its elements; how the driver lays them out is seen at the boundary.
 */
#ifndef CONVGPU_SIZE_BPF_H
#define CONVGPU_SIZE_BPF_H

#include "common.bpf.h"

enum size {
    SIZE_NONE,
    SIZE_SECOND,          /* the second argument */
    SIZE_PITCH,           /* third times fourth: width in bytes and height */
    SIZE_ARRAY,           /* second: CUDA_ARRAY_DESCRIPTOR */
    SIZE_ARRAY_3D,        /* second: CUDA_ARRAY3D_DESCRIPTOR */
    SIZE_ARRAY_LEVELS,    /* the same with so many levels as the third says */
    SIZE_EXTENT,          /* second: cudaExtent by value, in bytes */
    SIZE_CHANNELS,        /* second: cudaChannelFormatDesc; third and fourth: width and height */
    SIZE_CHANNELS_EXTENT, /* second: cudaChannelFormatDesc; third: cudaExtent by value */
    SIZE_CHANNELS_LEVELS, /* the same, and levels */
};

#define ARRAY_LAYERED 0x1 /* CUDA_ARRAY3D_DESCRIPTOR.Flags, and the flags of cudaMallocMipmappedArray */
#define ARRAY_SPARSE 0x40
#define ARRAY_DEFERRED_MAPPING 0x80
#define MOST_LEVELS 24 /* an extent of 2^23: more than any device has */

struct array_descriptor {
    u64 width, height;
    u32 format, channels;
};

struct array_3d_descriptor {
    u64 width, height, depth;
    u32 format, channels, flags, padding;
};

struct channel_format {
    s32 x, y, z, w, kind;
};

struct extent {
    u64 width, height, depth;
};

/* CUarray_format of CUDA 13: others are packed or compressed, and count as one byte. */
static __always_inline u64 format_bytes(u32 format) {
    if (format == 0x02 || format == 0x09 || format == 0x10) /* UNSIGNED_INT16, SIGNED_INT16, HALF */
        return 2;
    if (format == 0x03 || format == 0x0a || format == 0x20) /* UNSIGNED_INT32, SIGNED_INT32, FLOAT */
        return 4;
    return 1;
}

static __always_inline u64 extent_bytes(struct extent *extent, u64 element_bytes) {
    return extent->width * (extent->height ? extent->height : 1) * (extent->depth ? extent->depth : 1) * element_bytes;
}

static __always_inline u64 levels_bytes(struct extent *extent, u64 element_bytes, u32 levels, u32 flags) {
    u64 all_bytes = 0;
    for (u32 level = 0; level < MOST_LEVELS; level++) {
        if (level >= levels)
            break;
        all_bytes += extent_bytes(extent, element_bytes);
        if (extent->width <= 1 && extent->height <= 1 && ((flags & ARRAY_LAYERED) || extent->depth <= 1))
            break; /* more levels than there can be */
        extent->width = extent->width > 1 ? extent->width / 2 : extent->width;
        extent->height = extent->height > 1 ? extent->height / 2 : extent->height;
        if (!(flags & ARRAY_LAYERED))
            extent->depth = extent->depth > 1 ? extent->depth / 2 : extent->depth;
    }
    return all_bytes;
}

/* A structure of 24 bytes by value: on x86-64 above the return address, on arm64 by address in its register. */
static __always_inline int read_extent(struct extent *extent, struct pt_regs *ctx, u64 arm64_address) {
#if defined(__aarch64__)
    return bpf_probe_read_user(extent, sizeof(*extent), (void *)arm64_address);
#else
    return bpf_probe_read_user(extent, sizeof(*extent), (void *)(PT_REGS_SP(ctx) + 8));
#endif
}

static __always_inline u64 array_size(u64 at, u32 levels) {
    struct array_3d_descriptor array;
    if (bpf_probe_read_user(&array, sizeof(array), (void *)at)) {
        lost(LOSS_READ_FAILED);
        return 0;
    }
    if (array.flags & (ARRAY_SPARSE | ARRAY_DEFERRED_MAPPING))
        return 0; /* a range of addresses, to be mapped later */
    struct extent extent = {array.width, array.height, array.depth};
    return levels_bytes(&extent, format_bytes(array.format) * array.channels, levels, array.flags);
}

static __always_inline u64 asked_bytes(struct pt_regs *ctx, enum size size) {
    if (size == SIZE_SECOND)
        return PT_REGS_PARM2(ctx);
    if (size == SIZE_PITCH)
        return PT_REGS_PARM3(ctx) * PT_REGS_PARM4(ctx);
    if (size == SIZE_ARRAY_3D)
        return array_size(PT_REGS_PARM2(ctx), 1);
    if (size == SIZE_ARRAY_LEVELS)
        return array_size(PT_REGS_PARM2(ctx), (u32)PT_REGS_PARM3(ctx));
    if (size == SIZE_ARRAY) {
        struct array_descriptor array;
        if (bpf_probe_read_user(&array, sizeof(array), (void *)PT_REGS_PARM2(ctx))) {
            lost(LOSS_READ_FAILED);
            return 0;
        }
        struct extent extent = {array.width, array.height, 0};
        return extent_bytes(&extent, format_bytes(array.format) * array.channels);
    }
    if (size == SIZE_EXTENT) {
        struct extent extent;
        if (read_extent(&extent, ctx, PT_REGS_PARM2(ctx))) {
            lost(LOSS_READ_FAILED);
            return 0;
        }
        return extent_bytes(&extent, 1);
    }
    if (size == SIZE_CHANNELS || size == SIZE_CHANNELS_EXTENT || size == SIZE_CHANNELS_LEVELS) {
        struct channel_format format;
        struct extent extent = {PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx), 0};
        if (bpf_probe_read_user(&format, sizeof(format), (void *)PT_REGS_PARM2(ctx)) ||
            (size != SIZE_CHANNELS && read_extent(&extent, ctx, PT_REGS_PARM3(ctx)))) {
            lost(LOSS_READ_FAILED);
            return 0;
        }
        u64 element_bytes = (u64)(u32)(format.x + format.y + format.z + format.w) / 8;
        if (size != SIZE_CHANNELS_LEVELS)
            return extent_bytes(&extent, element_bytes);
#if defined(__aarch64__)
        return levels_bytes(&extent, element_bytes, (u32)PT_REGS_PARM4(ctx), (u32)PT_REGS_PARM5(ctx));
#else
        return levels_bytes(&extent, element_bytes, (u32)PT_REGS_PARM3(ctx), (u32)PT_REGS_PARM4(ctx));
#endif
    }
    return 0;
}

#endif
