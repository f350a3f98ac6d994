/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of the NVIDIA resource manager's ioctl interface that the boundary reads.
 *
 * Sources: NVIDIA's open kernel modules (nvos.h, nv_escape.h, nv-ioctl.h, nv-ioctl-numbers.h, ctrl0000gpu.h,
 * ctrl0000unix.h, cl0080.h); every offset compared with the headers of 595.45, and those that libcuda uses confirmed on
 * driver 580. A command is _IOWR('F', nr, size); the driver decides by number and size. Framebuffer ioctls share the
 * letter, so both are compared.
 */
#ifndef CVG_RM_H
#define CVG_RM_H

#include <stddef.h>
#include <stdint.h>

#define RM_IOCTL_TYPE 'F'
#define RM_ESC_FREE 0x29
#define RM_ESC_CONTROL 0x2A
#define RM_ESC_ALLOC 0x2B
#define RM_ESC_DUP_OBJECT 0x34
#define RM_ESC_VID_HEAP_CONTROL 0x4A
#define RM_ESC_REGISTER_FD 201 /* nv_ioctl_register_fd_t: one descriptor, ctl_fd */
#define RM_ESC_XFER_CMD 211

#define RM_OK 0U
#define RM_ERR_NO_MEMORY 0x51U

#define RM_CLASS_ROOT 0x0U /* three classes of a client */
#define RM_CLASS_ROOT_NON_PRIVILEGED 0x1U
#define RM_CLASS_ROOT_CLIENT 0x41U
#define RM_CLASS_DEVICE 0x80U
#define RM_CLASS_VIDEO_MEMORY 0x40U

#define RM_ALLOC_FLAG_VIRTUAL 0x00080000U /* NVOS32_ALLOC_FLAGS_VIRTUAL: an address range, no memory */
#define RM_ALLOC_FLAG_SERIALISED 1U       /* NVOS64: the class's parameters are not laid out as the structure */

/* NVOS32_FUNCTION_* */
#define RM_HEAP_ALLOC_SIZE 2U
#define RM_HEAP_FREE 3U
#define RM_HEAP_ALLOC_TILED_PITCH_HEIGHT 6U
#define RM_HEAP_ALLOC_SIZE_RANGE 14U
#define RM_HEAP_HW_FREE 20U
#define RM_HEAP_LOCATION(attributes) ((attributes) >> 25 & 3U) /* NVOS32_ATTR_LOCATION; in: asked, out: given */
#define RM_HEAP_LOCATION_HOST 1U                               /* _PCI; 0 is _VIDMEM, 3 _ANY */

#define RM_CONTROL_GPU_ID_INFO 0x202U
#define RM_CONTROL_GPU_ID_INFO_V2 0x205U
#define RM_CONTROL_GPU_PCI_INFO 0x21bU
#define RM_CONTROL_EXPORT_OBJECT 0x3d05U  /* NV0000_CTRL_CMD_OS_UNIX_EXPORT_OBJECT_TO_FD */
#define RM_CONTROL_IMPORT_OBJECT 0x3d06U  /* ..._IMPORT_OBJECT_FROM_FD */
#define RM_CONTROL_EXPORT_OBJECTS 0x3d0bU /* ..._EXPORT_OBJECTS_TO_FD: what libcuda 580 uses */
#define RM_CONTROL_IMPORT_OBJECTS 0x3d0cU /* ..._IMPORT_OBJECTS_FROM_FD */
#define RM_EXPORT_OBJECTS_MAX 512         /* NV0000_CTRL_OS_UNIX_EXPORT_OBJECTS_TO_FD_MAX_OBJECTS */
#define RM_IMPORT_OBJECTS_MAX 128         /* NV0000_CTRL_OS_UNIX_IMPORT_OBJECTS_TO_FD_MAX_OBJECTS */

/* NVOS00_PARAMETERS */
struct rm_free {
    uint32_t client;
    uint32_t parent;
    uint32_t object;
    uint32_t status;
};

/* What the two forms of an allocation have in common: NVOS21_PARAMETERS (32 bytes), NVOS64_PARAMETERS (48 bytes). */
struct rm_alloc {
    uint32_t client;
    uint32_t parent;
    uint32_t object; /* in: wanted, or 0; out */
    uint32_t class_id;
    uint64_t parameters; /* address */
};

struct rm_alloc_short {
    struct rm_alloc common;
    uint32_t parameters_bytes;
    uint32_t status;
};

struct rm_alloc_long {
    struct rm_alloc common;
    uint64_t rights;
    uint32_t parameters_bytes;
    uint32_t flags;
    uint32_t status;
    uint32_t padding;
};

/* NVOS54_PARAMETERS */
struct rm_control {
    uint32_t client;
    uint32_t object;
    uint32_t command;
    uint32_t flags;
    uint64_t parameters;
    uint32_t parameters_bytes;
    uint32_t status;
};

/* NVOS55_PARAMETERS */
struct rm_duplicate {
    uint32_t client;
    uint32_t parent;
    uint32_t object; /* in: wanted, or 0; out */
    uint32_t source_client;
    uint32_t source_object;
    uint32_t flags;
    uint32_t status;
};

/* NV0000_CTRL_OS_UNIX_EXPORT_OBJECT_TO_FD_PARAMS */
struct rm_export_one {
    uint32_t type;
    uint32_t device;
    uint32_t parent;
    uint32_t object;
    int32_t descriptor;
    uint32_t flags;
};

/* NV0000_CTRL_OS_UNIX_IMPORT_OBJECT_FROM_FD_PARAMS */
struct rm_import_one {
    int32_t descriptor;
    uint32_t type;
    uint32_t device;
    uint32_t parent;
    uint32_t object;
};

/* NV0000_CTRL_OS_UNIX_EXPORT_OBJECTS_TO_FD_PARAMS: objects[i] takes place `index` + i of the file, 0 empties it. */
struct rm_export {
    int32_t descriptor;
    uint32_t device;
    uint16_t places;
    uint8_t metadata[66];
    uint32_t objects[RM_EXPORT_OBJECTS_MAX];
    uint16_t object_count;
    uint16_t index;
};

/* NV0000_CTRL_OS_UNIX_IMPORT_OBJECTS_FROM_FD_PARAMS */
struct rm_import {
    int32_t descriptor;
    uint32_t parent;
    uint32_t objects[RM_IMPORT_OBJECTS_MAX];
    uint8_t types[RM_IMPORT_OBJECTS_MAX]; /* out: 0 where nothing was imported */
    uint16_t object_count;
    uint16_t index;
};

/* nv_ioctl_xfer_t */
struct rm_xfer {
    uint32_t number; /* the nr of the command inside */
    uint32_t size_bytes;
    uint64_t block;
};

/* The beginning of NV_MEMORY_ALLOCATION_PARAMS; the whole is 120 or 128 bytes. */
struct rm_memory {
    uint32_t owner;
    uint32_t type;
    uint32_t flags;
    uint32_t unused[13];
    uint64_t size_bytes; /* in: asked; out: as rounded */
    uint64_t alignment;  /* 2 MiB in every allocation that libcuda was seen to make */
};

/*
 * NVOS32_PARAMETERS (nvos.h): the way by which older drivers allocate. Its forms, the members of `data`, agree up to
 * `flags` only. Today's driver makes class 0x40 of each that asks for video memory (rmapi_deprecated_vidheapctrl.c).
 */
struct rm_heap {
    uint32_t client;     /* hRoot */
    uint32_t parent;     /* hObjectParent */
    uint32_t function;   /* RM_HEAP_* */
    uint32_t va_space;   /* hVASpace */
    int16_t heap_number; /* ivcHeapNumber */
    uint16_t padding;
    uint32_t status;
    uint64_t total_bytes;
    uint64_t free_bytes;
    union {
        struct {
            uint32_t owner;
            uint32_t memory; /* hMemory, in: wanted, or 0; out */
            uint32_t type;
            uint32_t flags;
            uint32_t attributes; /* attr */
            uint32_t unused[6];
            uint64_t size_bytes; /* in: asked; out: as rounded */
            uint64_t alignment;
        } sized; /* AllocSize, and Free up to `memory` */
        struct {
            uint32_t owner;
            uint32_t memory;
            uint32_t type;
            uint32_t flags;
            uint32_t attributes;
            uint32_t unused[4];
            uint64_t size_bytes;
            uint64_t alignment;
        } ranged; /* AllocSizeRange: without the width and height of AllocSize */
        struct {
            uint32_t owner;
            uint32_t memory;
            uint32_t type;
            uint32_t flags;
            uint32_t height;
            int32_t pitch_bytes;
            uint32_t attributes;
            uint32_t unused[5];
            uint64_t size_bytes; /* out only: the driver takes height x pitch */
            uint64_t alignment;
        } tiled;                  /* AllocTiledPitchHeight */
        uint32_t resource_handle; /* HwFree */
        uint64_t whole[18];
    } data;
};

/* The beginning of NV0000_CTRL_GPU_GET_ID_INFO_PARAMS and _V2. */
struct rm_gpu_id_info {
    uint32_t gpu_id;
    uint32_t flags;
    uint32_t device_instance;
};

/* NV0000_CTRL_GPU_GET_PCI_INFO_PARAMS */
struct rm_gpu_pci_info {
    uint32_t gpu_id;
    uint32_t domain;
    uint16_t bus;
    uint16_t slot;
};

_Static_assert(sizeof(struct rm_free) == 16, "NVOS00");
_Static_assert(sizeof(struct rm_alloc_short) == 32, "NVOS21");
_Static_assert(sizeof(struct rm_alloc_long) == 48, "NVOS64");
_Static_assert(sizeof(struct rm_control) == 32, "NVOS54");
_Static_assert(sizeof(struct rm_duplicate) == 28, "NVOS55");
_Static_assert(sizeof(struct rm_export_one) == 24, "EXPORT_OBJECT_TO_FD");
_Static_assert(sizeof(struct rm_import_one) == 20, "IMPORT_OBJECT_FROM_FD");
_Static_assert(sizeof(struct rm_export) == 2128, "EXPORT_OBJECTS_TO_FD");
_Static_assert(offsetof(struct rm_export, objects) == 76, "EXPORT_OBJECTS_TO_FD.objects");
_Static_assert(offsetof(struct rm_export, index) == 2126, "EXPORT_OBJECTS_TO_FD.index");
_Static_assert(sizeof(struct rm_import) == 652, "IMPORT_OBJECTS_FROM_FD");
_Static_assert(offsetof(struct rm_import, types) == 520, "IMPORT_OBJECTS_FROM_FD.objectTypes");
_Static_assert(sizeof(struct rm_xfer) == 16, "transfer");
_Static_assert(sizeof(struct rm_heap) == 184, "NVOS32");
_Static_assert(offsetof(struct rm_heap, status) == 20, "NVOS32");
_Static_assert(offsetof(struct rm_heap, data.sized.memory) == 44, "AllocSize.hMemory, Free.hMemory");
_Static_assert(offsetof(struct rm_heap, data.sized.flags) == 52, "AllocSize.flags");
_Static_assert(offsetof(struct rm_heap, data.sized.attributes) == 56, "AllocSize.attr");
_Static_assert(offsetof(struct rm_heap, data.sized.size_bytes) == 88, "AllocSize.size");
_Static_assert(offsetof(struct rm_heap, data.ranged.attributes) == 56, "AllocSizeRange.attr");
_Static_assert(offsetof(struct rm_heap, data.ranged.size_bytes) == 80, "AllocSizeRange.size");
_Static_assert(offsetof(struct rm_heap, data.tiled.pitch_bytes) == 60, "AllocTiledPitchHeight.pitch");
_Static_assert(offsetof(struct rm_heap, data.tiled.attributes) == 64, "AllocTiledPitchHeight.attr");
_Static_assert(offsetof(struct rm_heap, data.tiled.size_bytes) == 88, "AllocTiledPitchHeight.size");
_Static_assert(offsetof(struct rm_heap, data.resource_handle) == 40, "HwFree.hResourceHandle");
_Static_assert(offsetof(struct rm_memory, size_bytes) == 64, "NV_MEMORY_ALLOCATION_PARAMS");
_Static_assert(offsetof(struct rm_memory, alignment) == 72, "NV_MEMORY_ALLOCATION_PARAMS");
_Static_assert(sizeof(struct rm_gpu_pci_info) == 12, "PCI info");

#endif
