/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The driver boundary: ioctls of NVIDIA's resource manager, seen at the system call. Physical bytes.
 *
 * Numbers and layouts: nv_escape.h, nvos.h, nv-ioctl.h of NVIDIA's open kernel modules (595.45); offsets confirmed by
 * measurement with driver 580. The driver looks at number and size of a command, not at its type letter: so do we.
 *
 * Entry remembers the argument, exit reads the block, when the driver has written status, handle and rounded size.
 * Only calls that returned 0 with status 0 change an account.
 *
 * A free ends the object and all below it. BPF cannot walk a tree, so sums are kept where a tree can be cut: per
 * client and device, and per parent. The object entries below a cut become orphans: their generations no longer match,
 * so they count for nothing, and user space sweeps them out.
 *
 * A client belongs to the process that made it, whoever calls: that process is charged, as NVML does it.
 */
#include "boundary.bpf.h"
#include "common.bpf.h"

static __always_inline void orphan(u64 count) {
    int at = 0;
    u64 *all = orphans.lookup(&at);
    if (all)
        __sync_fetch_and_add(all, count);
}

/*
 * Client numbers are global to the host, so a block can name anybody's client, and a device file of the caller's own
 * making can answer 0 to any ioctl. Believed is who made the client, or shares its maker's cgroup (a forked child).
 */
static __always_inline int is_foreign(struct client *client) {
    return client->tgid != bpf_get_current_pid_tgid() >> 32 && client->cgroup_id != bpf_get_current_cgroup_id();
}

/* Whether a client ended with the program that made it: the kernel closed its file at exec, or its process is gone. */
static __always_inline int is_over(struct client *client) {
    u32 tgid = client->tgid;
    struct process *process = processes.lookup(&tgid);
    return process && client->generation <= process->renewed_ns;
}

static __always_inline struct balance_key physical(struct client *client, s32 device) {
    struct balance_key key = {};
    key.cgroup_id = client->cgroup_id;
    key.tgid = client->tgid;
    key.device = device;
    key.source = SOURCE_BOUNDARY;
    return key;
}

static __always_inline void tell(void *ctx, struct balance *balance, struct client *client, u16 kind, u64 size_bytes,
                                 u64 latency_ns, s32 device) {
    struct call_figures figures = {};
    figures.now_ns = bpf_ktime_get_ns();
    figures.cgroup_id = client->cgroup_id;
    figures.pid = client->tgid;
    figures.source = SOURCE_BOUNDARY;
    figures.kind = kind;
    figures.api = kind == KIND_FREE ? API_RM_FREE : API_RM_ALLOC;
    figures.size_bytes = size_bytes;
    figures.latency_ns = latency_ns;
    figures.device = device;
    time_call(figures.cgroup_id, figures.api, kind == KIND_FAIL, size_bytes, latency_ns);
    emit(ctx, balance, &figures);
}

/* Takes what a client held on all devices out of its owner's balances. */
static __always_inline u64 settle_client(u32 number, struct client *client, s32 *device_freed,
                                         struct balance **balance_freed) {
    u64 freed_bytes = 0;
    for (int device = CVG_UNKNOWN_DEVICE; device < CVG_MAX_DEVICES; device++) {
        struct total_key key = {};
        key.client = number;
        key.device = device;
        struct total *total = totals.lookup(&key);
        if (!total)
            continue;
        if (total->objects) {
            struct balance_key account = physical(client, device);
            *balance_freed = balance_subtract(&account, total->bytes, total->objects);
            orphan(total->objects);
            freed_bytes += total->bytes;
            *device_freed = device;
        }
        totals.delete(&key);
    }
    return freed_bytes;
}

static __always_inline void client_made(u32 number, u32 partial) {
    struct client fresh = {};
    fresh.generation = bpf_ktime_get_ns();
    fresh.cgroup_id = bpf_get_current_cgroup_id();
    fresh.tgid = bpf_get_current_pid_tgid() >> 32;
    fresh.partial = partial;
    struct client *before = clients.lookup(&number);
    announce();
    if (before && !is_over(before)) {
        /* Its owner ended, which frees without an ioctl, and user space has not said so yet. */
        s32 device = CVG_UNKNOWN_DEVICE;
        if (before->tgid != fresh.tgid)
            lost(LOSS_REPLACED_CLIENT);
        struct balance *balance = 0;
        settle_client(number, before, &device, &balance);
    }
    if (clients.update(&number, &fresh))
        lost(LOSS_CLIENTS_FULL);
    else
        note_process(fresh.tgid, fresh.cgroup_id);
}

static __always_inline void client_freed(void *ctx, u32 number, struct client *client, u64 latency_ns) {
    s32 device = CVG_UNKNOWN_DEVICE;
    struct client gone = *client;
    struct balance *balance = 0;
    u64 freed_bytes = settle_client(number, &gone, &device, &balance);
    clients.delete(&number);
    if (freed_bytes)
        tell(ctx, balance, &gone, KIND_FREE, freed_bytes, latency_ns, device);
}

static __always_inline struct parent *parent_of(struct handle_key *key, struct client *client) {
    struct parent *parent = parents.lookup(key);
    if (parent && parent->client_generation == client->generation)
        return parent;
    return 0;
}

static __always_inline void parent_made(struct handle_key *key, struct client *client, s64 device) {
    struct parent fresh = {};
    fresh.generation = bpf_ktime_get_ns();
    fresh.client_generation = client->generation;
    fresh.device = device;
    if (parents.update(key, &fresh))
        lost(LOSS_CLIENTS_FULL);
}

static __always_inline void device_made(struct rm_alloc *call, struct client *client) {
    u32 instance;
    if (bpf_probe_read_user(&instance, sizeof(instance), (void *)call->parameters)) {
        lost(LOSS_READ_FAILED);
        return;
    }
    struct handle_key key = {};
    key.client = call->client;
    key.handle = call->object;
    parent_made(&key, client, instance < CVG_MAX_DEVICES ? (s64)instance : CVG_UNKNOWN_DEVICE);
}

static __always_inline void total_change(u32 client, s32 device, u64 bytes, u64 objects) {
    struct total_key key = {};
    key.client = client;
    key.device = device;
    struct total zero = {};
    struct total *total = totals.lookup_or_try_init(&key, &zero);
    if (!total) {
        lost(LOSS_CLIENTS_FULL);
        return;
    }
    __sync_fetch_and_add(&total->bytes, bytes);
    __sync_fetch_and_add(&total->objects, objects);
}

static __always_inline void memory_made(void *ctx, struct rm_alloc *call, struct client *client, int failed,
                                        u64 latency_ns) {
    u32 flags;
    u64 size_bytes;
    /* NV_MEMORY_ALLOCATION_PARAMS: flags at 8, size at 64, in every size that the structure has had. */
    if (bpf_probe_read_user(&flags, sizeof(flags), (void *)(call->parameters + 8)) ||
        bpf_probe_read_user(&size_bytes, sizeof(size_bytes), (void *)(call->parameters + 64))) {
        lost(LOSS_READ_FAILED);
        return;
    }
    if (flags & MEMORY_VIRTUAL)
        return;

    struct handle_key key = {};
    key.client = call->client;
    key.handle = call->parent;
    struct parent *parent = parent_of(&key, client);
    if (!parent && !failed) {
        lost(LOSS_UNKNOWN_PARENT);
        parent_made(&key, client, CVG_UNKNOWN_DEVICE);
        parent = parent_of(&key, client);
        if (!parent)
            return;
    }
    s32 device = parent ? parent->device : CVG_UNKNOWN_DEVICE;
    struct balance_key account = physical(client, device);
    struct balance *balance = balance_of(&account);
    if (!balance)
        return;
    if (failed || !parent) {
        __sync_fetch_and_add(&balance->failures, 1);
        tell(ctx, balance, client, KIND_FAIL, size_bytes, latency_ns, device);
        return;
    }

    struct object object = {};
    object.size_bytes = size_bytes;
    object.client_generation = client->generation;
    object.parent_generation = parent->generation;
    object.parent = call->parent;
    key.handle = call->object;
    if (objects.update(&key, &object)) {
        lost(LOSS_OBJECTS_FULL);
        return;
    }
    __sync_fetch_and_add(&parent->bytes, size_bytes);
    __sync_fetch_and_add(&parent->objects, 1);
    total_change(call->client, device, size_bytes, 1);
    balance_add(balance, size_bytes);
    tell(ctx, balance, client, KIND_ALLOC, size_bytes, latency_ns, device);
}

static __always_inline void on_alloc(void *ctx, u64 block, u64 operation, int failed, u64 latency_ns) {
    struct rm_alloc call;
    struct rm_alloc_tail tail = {};
    if (bpf_probe_read_user(&call, sizeof(call), (void *)block)) {
        lost(LOSS_READ_FAILED);
        return;
    }
    u32 class = call.class;
    int is_root = class == CLASS_ROOT || class == CLASS_ROOT_NON_PRIV || class == CLASS_ROOT_CLIENT;
    if (!is_root && class != CLASS_DEVICE && class != CLASS_MEMORY_LOCAL)
        return;
    int unread = operation == RM_ALLOC ? bpf_probe_read_user(&tail, sizeof(tail), (void *)(block + 36))
                                       : bpf_probe_read_user(&tail.status, sizeof(tail.status), (void *)(block + 28));
    if (unread) {
        lost(LOSS_READ_FAILED);
        return;
    }
    failed |= tail.status != 0;
    if (is_root) {
        if (!failed)
            client_made(call.object, 0);
        return;
    }
    if (tail.flags & ALLOC_SERIALISED) {
        lost(LOSS_UNDECODED);
        return;
    }
    u32 number = call.client;
    struct client *client = clients.lookup(&number);
    if (!client || is_over(client)) {
        if (failed)
            return;
        lost(LOSS_UNKNOWN_CLIENT);
        client_made(number, 1);
        client = clients.lookup(&number);
        if (!client)
            return;
    }
    if (is_foreign(client)) {
        lost(LOSS_FOREIGN_CLIENT);
        return;
    }
    if (class == CLASS_MEMORY_LOCAL)
        memory_made(ctx, &call, client, failed, latency_ns);
    else if (!failed)
        device_made(&call, client);
}

static __always_inline void on_free(void *ctx, u64 block, u64 latency_ns) {
    struct rm_free call;
    if (bpf_probe_read_user(&call, sizeof(call), (void *)block)) {
        lost(LOSS_READ_FAILED);
        return;
    }
    if (call.status != 0)
        return;
    u32 number = call.client;
    struct client *client = clients.lookup(&number);
    if (!client || is_over(client))
        return; /* made before the witness came, and never allocated since */
    if (is_foreign(client)) {
        lost(LOSS_FOREIGN_CLIENT);
        return;
    }
    if (call.object == number) {
        client_freed(ctx, number, client, latency_ns);
        return;
    }

    struct handle_key key = {};
    key.client = number;
    key.handle = call.object;
    u64 freed_bytes = 0, freed_objects = 0;
    s32 device = CVG_UNKNOWN_DEVICE;
    struct object *object = objects.lookup(&key);
    if (object) {
        struct handle_key above = {};
        above.client = number;
        above.handle = object->parent;
        struct parent *parent = parent_of(&above, client);
        if (parent && object->client_generation == client->generation &&
            object->parent_generation == parent->generation) {
            device = parent->device;
            freed_bytes = object->size_bytes;
            freed_objects = 1;
            __sync_fetch_and_add(&parent->bytes, -freed_bytes);
            __sync_fetch_and_add(&parent->objects, -1);
        }
        objects.delete(&key);
    } else {
        struct parent *parent = parent_of(&key, client);
        if (!parent)
            return; /* one of the many objects that hold no memory */
        device = parent->device;
        freed_bytes = parent->bytes;
        freed_objects = parent->objects;
        orphan(freed_objects);
        parents.delete(&key);
    }
    if (!freed_objects)
        return;
    total_change(number, device, -freed_bytes, -freed_objects);
    struct balance_key account = physical(client, device);
    struct balance *balance = balance_subtract(&account, freed_bytes, freed_objects);
    tell(ctx, balance, client, KIND_FREE, freed_bytes, latency_ns, device);
}

/* libcuda asks at its start which device instance is which card: read the answers off. */
static __always_inline void on_control(u64 block) {
    struct rm_control call;
    if (bpf_probe_read_user(&call, sizeof(call), (void *)block)) {
        lost(LOSS_READ_FAILED);
        return;
    }
    if (call.status != 0)
        return;
    if (call.command == CONTROL_GPU_ID_INFO || call.command == CONTROL_GPU_ID_INFO_V2) {
        u32 words[3]; /* gpuId, flags, device instance */
        if (bpf_probe_read_user(words, sizeof(words), (void *)call.parameters))
            lost(LOSS_READ_FAILED);
        else if (words[2] < CVG_MAX_DEVICES)
            gpu_instances.update(&words[2], &words[0]);
    } else if (call.command == CONTROL_GPU_PCI_INFO) {
        struct {
            u32 gpu_id;
            struct gpu_address address;
        } answer;
        if (bpf_probe_read_user(&answer, sizeof(answer), (void *)call.parameters))
            lost(LOSS_READ_FAILED);
        else
            gpu_addresses.update(&answer.gpu_id, &answer.address);
    }
}

/* OVERHEAD: runs at every ioctl of the machine, so it decides on registers alone. */
int tp__syscalls__sys_enter_ioctl(struct sys_enter_ioctl *ctx) {
    u32 operation = OPERATION_OF_COMMAND(ctx->command);
    if (operation != RM_ALLOC && operation != RM_FREE && operation != RM_CONTROL && operation != RM_ALLOC_SHORT &&
        operation != RM_TRANSFER)
        return 0;
    u64 pid_tgid = bpf_get_current_pid_tgid();
    struct ioctl_call call = {};
    call.began_ns = bpf_ktime_get_ns();
    call.block = ctx->argument;
    call.operation = operation;
    if (ioctl_calls.update(&pid_tgid, &call))
        lost(LOSS_CALLS_FULL);
    return 0;
}

/* OVERHEAD: one lookup at every ioctl of the machine: an exit does not say which command it ends. */
int tp__syscalls__sys_exit_ioctl(struct sys_exit_ioctl *ctx) {
    u64 pid_tgid = bpf_get_current_pid_tgid();
    struct ioctl_call *found = ioctl_calls.lookup(&pid_tgid);
    if (!found)
        return 0;
    struct ioctl_call call = *found;
    ioctl_calls.delete(&pid_tgid);

    int failed = ctx->result != 0;
    if (call.operation == RM_TRANSFER) {
        struct rm_transfer inner;
        if (bpf_probe_read_user(&inner, sizeof(inner), (void *)call.block)) {
            lost(LOSS_READ_FAILED);
            return 0;
        }
        call.operation = OPERATION(inner.escape & 0xff, inner.size & 0x3fff);
        call.block = inner.block;
    }
    u64 latency_ns = bpf_ktime_get_ns() - call.began_ns;
    if (call.operation == RM_ALLOC || call.operation == RM_ALLOC_SHORT)
        on_alloc(ctx, call.block, call.operation, failed, latency_ns);
    else if (failed)
        return 0;
    else if (call.operation == RM_FREE)
        on_free(ctx, call.block, latency_ns);
    else if (call.operation == RM_CONTROL)
        on_control(call.block);
    return 0;
}
