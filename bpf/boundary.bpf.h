/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What boundary.bpf.c works on: the commands and blocks of the resource manager, and the maps that hold its objects.
 */
#ifndef CONVGPU_BOUNDARY_BPF_H
#define CONVGPU_BOUNDARY_BPF_H

#include "common.bpf.h"
#include "event.bpf.h"

/* What a command is, in one number: its escape and the size of its block. */
#define OPERATION(escape, size) ((u32)(escape) | (u32)(size) << 16)
#define OPERATION_OF_COMMAND(command) OPERATION((u32)(command)&0xff, ((u32)(command) >> 16) & 0x3fff)

#define RM_FREE OPERATION(0x29, 16)        /* NV_ESC_RM_FREE, NVOS00 */
#define RM_CONTROL OPERATION(0x2a, 32)     /* NV_ESC_RM_CONTROL, NVOS54 */
#define RM_ALLOC_SHORT OPERATION(0x2b, 32) /* NV_ESC_RM_ALLOC, NVOS21 */
#define RM_ALLOC OPERATION(0x2b, 48)       /* NV_ESC_RM_ALLOC, NVOS64 */
#define RM_TRANSFER OPERATION(211, 16)     /* NV_ESC_IOCTL_XFER_CMD: any other command, named inside */

#define CLASS_ROOT 0x0 /* NV01_ROOT, _NON_PRIV, _CLIENT: a new client */
#define CLASS_ROOT_NON_PRIV 0x1
#define CLASS_ROOT_CLIENT 0x41
#define CLASS_MEMORY_LOCAL 0x40 /* NV01_MEMORY_LOCAL_USER: video memory */
#define CLASS_DEVICE 0x80       /* NV01_DEVICE_0 */

#define ALLOC_SERIALISED 1        /* NVOS64 flags: the parameters are in another encoding */
#define MEMORY_VIRTUAL 0x00080000 /* NVOS32_ALLOC_FLAGS_VIRTUAL: address space only, no memory */

#define CONTROL_GPU_ID_INFO 0x202    /* NV0000_CTRL_CMD_GPU_GET_ID_INFO */
#define CONTROL_GPU_ID_INFO_V2 0x205 /* NV0000_CTRL_CMD_GPU_GET_ID_INFO_V2 */
#define CONTROL_GPU_PCI_INFO 0x21b   /* NV0000_CTRL_CMD_GPU_GET_PCI_INFO */

/* The tracepoints' records (events/syscalls/.../format): 8 bytes common, the number, then the arguments. */
struct sys_enter_ioctl {
    u64 common;
    u64 number;
    u64 fd;
    u64 command;
    u64 argument;
};

struct sys_exit_ioctl {
    u64 common;
    u64 number;
    s64 result;
};

struct rm_transfer {
    u32 escape;
    u32 size;
    u64 block;
};

struct rm_free {
    u32 client;
    u32 parent;
    u32 object;
    u32 status;
};

struct rm_alloc {
    u32 client;
    u32 parent;
    u32 object;
    u32 class;
    u64 parameters;
};

struct rm_alloc_tail { /* NVOS64 from offset 36; the 32-byte form has its status at 28 and no flags */
    u32 flags;
    u32 status;
};

struct rm_control {
    u32 client;
    u32 object;
    u32 command;
    u32 flags;
    u64 parameters;
    u32 parameters_size;
    u32 status;
};

struct ioctl_call {
    u64 began_ns;
    u64 block;
    u64 operation;
};

CVG_HASH(ioctl_calls, u64, struct ioctl_call, CVG_MAX_CALLS);

struct client {
    u64 generation; /* time of its making; tells it from an earlier one of the same number */
    u64 cgroup_id;
    u32 tgid;
    u32 partial; /* 1: made before the witness came, so some of its objects are not known */
};

CVG_HASH(clients, u32, struct client, CVG_MAX_CLIENTS);

struct handle_key {
    u32 client;
    u32 handle;
};

/* Something that memory objects hang below: a device; or an unknown object that memory was seen to be put under. */
struct parent {
    u64 generation;
    u64 client_generation;
    u64 bytes;
    u64 objects;
    s64 device;
};

CVG_HASH(parents, struct handle_key, struct parent, CVG_MAX_CLIENTS);

struct object {
    u64 size_bytes;
    u64 client_generation;
    u64 parent_generation;
    u64 parent;
};

CVG_HASH(objects, struct handle_key, struct object, CVG_MAX_OBJECTS);

struct total_key {
    u32 client;
    s32 device;
};

struct total {
    u64 bytes;
    u64 objects;
};

CVG_HASH(totals, struct total_key, struct total, CVG_MAX_CLIENTS);

/* Object entries that lost their client or parent: user space sweeps them out when there are many. */
CVG_ARRAY(orphans, u64, 1);

struct gpu_address {
    u32 domain;
    u16 bus;
    u16 slot;
};

CVG_HASH(gpu_instances, u32, u32, 2 * CVG_MAX_DEVICES);                /* device instance -> the driver's gpuId */
CVG_HASH(gpu_addresses, u32, struct gpu_address, 2 * CVG_MAX_DEVICES); /* gpuId -> PCI address */

#endif
