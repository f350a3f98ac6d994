/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The boundary: the resource-manager ioctls that the simulated server and the simulated libraries speak.
 *
 * A command is _IOWR('F', escape, size of block). Numbers, layouts and classes are those of NVIDIA's open kernel
 * modules (595.45.04), confirmed on driver 580. The server reads the structures as bytes from another process: nothing
 * here may have a size that depends on the compiler, and every offset below is asserted.
 */
#ifndef CONVGPU_SIM_RM_ABI_H
#define CONVGPU_SIM_RM_ABI_H

#include <stddef.h>
#include <stdint.h>

#define RM_IOCTL_LETTER 'F'

enum rm_escape {
    RM_ESC_ALLOC_MEMORY = 0x27,
    RM_ESC_FREE = 0x29,
    RM_ESC_CONTROL = 0x2A,
    RM_ESC_ALLOC = 0x2B,
    RM_ESC_DUP_OBJECT = 0x34,
    RM_ESC_VID_HEAP_CONTROL = 0x4A,
    RM_ESC_XFER_CMD = 211
};

enum rm_status {
    RM_OK = 0x0,
    RM_ERR_INSERT_DUPLICATE_NAME = 0x19,
    RM_ERR_INSUFFICIENT_RESOURCES = 0x1A,
    RM_ERR_INVALID_ADDRESS = 0x1E,
    RM_ERR_INVALID_ARGUMENT = 0x1F,
    RM_ERR_INVALID_CLASS = 0x22,
    RM_ERR_INVALID_CLIENT = 0x23,
    RM_ERR_INVALID_DEVICE = 0x26,
    RM_ERR_INVALID_OBJECT_PARENT = 0x36,
    RM_ERR_INVALID_POINTER = 0x3D,
    RM_ERR_NO_MEMORY = 0x51,
    RM_ERR_NOT_SUPPORTED = 0x56,
    RM_ERR_OBJECT_NOT_FOUND = 0x57
};

enum rm_class {
    RM_CLASS_ROOT = 0x0,
    RM_CLASS_ROOT_NON_PRIV = 0x1,
    RM_CLASS_MEMORY_SYSTEM = 0x3e,
    RM_CLASS_MEMORY_LOCAL = 0x40, /* video memory: the only class that is charged */
    RM_CLASS_ROOT_CLIENT = 0x41,
    RM_CLASS_DEVICE = 0x80,
    RM_CLASS_SUBDEVICE = 0x2080
};

/* Commands of RM_ESC_CONTROL that describe the GPUs; every other command is accepted and does nothing. */
enum rm_command {
    RM_CMD_GPU_GET_ATTACHED_IDS = 0x201,
    RM_CMD_GPU_GET_ID_INFO = 0x202,
    RM_CMD_GPU_GET_ID_INFO_V2 = 0x205,
    RM_CMD_GPU_GET_PROBED_IDS = 0x214,
    RM_CMD_GPU_GET_PCI_INFO = 0x21b
};

#define RM_GPU_IDS_MAX 32
#define RM_GPU_ID_NONE 0xffffffffu

/* RM_ESC_ALLOC, the form of today's drivers. The older form has 32 bytes and ends with parameter size and status. */
struct rm_alloc {
    uint32_t client;
    uint32_t parent;
    uint32_t object; /* in: the wanted handle, or 0; out: the handle */
    uint32_t class_id;
    uint64_t parameters; /* pointer in the caller */
    uint64_t rights;
    uint32_t parameters_size;
    uint32_t flags; /* bit 0: parameters are serialised */
    uint32_t status;
    uint32_t padding;
};

struct rm_alloc_short {
    uint32_t client;
    uint32_t parent;
    uint32_t object;
    uint32_t class_id;
    uint64_t parameters;
    uint32_t parameters_size;
    uint32_t status;
};

#define RM_ALLOC_SERIALISED 1u

struct rm_alloc_memory {
    uint32_t client;
    uint32_t parent;
    uint32_t object;
    uint32_t class_id;
    uint32_t flags;
    uint32_t padding0;
    uint64_t memory;
    uint64_t limit; /* size - 1 */
    uint32_t status;
    uint32_t padding1;
    int32_t descriptor;
    uint32_t padding2;
};

struct rm_free {
    uint32_t client;
    uint32_t parent;
    uint32_t object;
    uint32_t status;
};

struct rm_control {
    uint32_t client;
    uint32_t object;
    uint32_t command;
    uint32_t flags;
    uint64_t parameters;
    uint32_t parameters_size;
    uint32_t status;
};

struct rm_dup_object {
    uint32_t client;
    uint32_t parent;
    uint32_t object;
    uint32_t source_client;
    uint32_t source_object;
    uint32_t flags;
    uint32_t status;
};

struct rm_xfer {
    uint32_t escape;
    uint32_t size;
    uint64_t block; /* pointer in the caller */
};

/* Parameters of class 0x40. 120 bytes before driver 545; the fields that matter have not moved. */
struct rm_memory_parameters {
    uint32_t owner;
    uint32_t type;
    uint32_t flags;
    uint32_t unused0[11];
    uint64_t unused1;
    uint64_t size_bytes; /* in: asked; out: what was really taken */
    uint64_t alignment;
    uint64_t offset;
    uint64_t limit;
    uint64_t address;
    uint64_t unused2[3];
};

#define RM_MEMORY_FLAG_VIRTUAL 0x00080000u /* address space only: no video memory */

/* RM_CMD_GPU_GET_ID_INFO(_V2) begin alike; the first has a pointer behind these fields. */
struct rm_gpu_id_info {
    uint32_t gpu_id;
    uint32_t flags;
    uint32_t device_instance;
    uint32_t subdevice_instance;
};

#define RM_GPU_ID_INFO_SIZE 40
#define RM_GPU_ID_INFO_V2_SIZE 32

struct rm_gpu_pci_info {
    uint32_t gpu_id;
    uint32_t domain;
    uint16_t bus;
    uint16_t slot;
};

_Static_assert(sizeof(struct rm_alloc) == 48 && offsetof(struct rm_alloc, status) == 40, "NVOS64");
_Static_assert(sizeof(struct rm_alloc_short) == 32 && offsetof(struct rm_alloc_short, status) == 28, "NVOS21");
_Static_assert(sizeof(struct rm_alloc_memory) == 56 && offsetof(struct rm_alloc_memory, status) == 40, "NVOS02 + fd");
_Static_assert(sizeof(struct rm_free) == 16, "NVOS00");
_Static_assert(sizeof(struct rm_control) == 32, "NVOS54");
_Static_assert(sizeof(struct rm_dup_object) == 28, "NVOS55");
_Static_assert(sizeof(struct rm_xfer) == 16, "nv_ioctl_xfer");
_Static_assert(sizeof(struct rm_memory_parameters) == 128, "NV_MEMORY_ALLOCATION_PARAMS");
_Static_assert(offsetof(struct rm_memory_parameters, size_bytes) == 64, "NV_MEMORY_ALLOCATION_PARAMS");
_Static_assert(sizeof(struct rm_gpu_pci_info) == 12, "NV0000_CTRL_GPU_GET_PCI_INFO_PARAMS");

#endif
