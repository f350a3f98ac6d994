/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Contexts: what an API gave out in a context ends with it, without a free. The actions CONTEXT and PRIMARY of
 * symbols.def.
 *
 * Which context a pointer belongs to cannot be told without probing cuCtxSetCurrent, which programs call as often as
 * kernels. But when the last context of a process ends, all of its pointers do. One that ends beside others, while the
 * layer holds memory, is a loss (LOSS_CONTEXT_UNSURE). Memory by handle (VMM) belongs to no context.
 */
#ifndef CONVGPU_CONTEXT_BPF_H
#define CONVGPU_CONTEXT_BPF_H

#include "api.bpf.h"

struct primary_key {
    u32 tgid;
    s32 device; /* CUDA's number of it in this process */
};

struct primary {
    s64 references;
    u64 alive;
    u64 made_ns;
};

CVG_HASH(primaries, struct primary_key, struct primary, CVG_MAX_CLIENTS);

static __always_inline void end_api_balances(u64 cgroup_id, u32 tgid, int with_vmm) {
    for (u32 source = SOURCE_DRIVER; source <= SOURCE_RUNTIME; source++)
        for (u32 memory = MEMORY_LINEAR; memory < MEMORY_KINDS; memory++) {
            struct balance_key key = api_balance(cgroup_id, tgid, source, memory);
            if (memory != MEMORY_VMM || with_vmm)
                balance_end(&key);
        }
}

static __always_inline int holds_by_api(u64 cgroup_id, u32 tgid) {
    u64 bytes = 0;
    for (u32 memory = MEMORY_LINEAR; memory < MEMORY_KINDS; memory++) {
        struct balance_key key = api_balance(cgroup_id, tgid, SOURCE_DRIVER, memory);
        struct balance *balance = memory == MEMORY_VMM ? 0 : balances.lookup(&key);
        bytes += balance ? balance->bytes : 0;
    }
    return bytes != 0;
}

static __always_inline void context_ended(struct process *process, u32 tgid, int is_sure) {
    u64 cgroup_id = bpf_get_current_cgroup_id();
    if (!is_sure || process->contexts + process->primaries > 0) {
        if (holds_by_api(cgroup_id, tgid))
            lost(LOSS_CONTEXT_UNSURE);
        return;
    }
    end_api_balances(cgroup_id, tgid, 0);
    if (process->cgroup_id != cgroup_id)
        end_api_balances(process->cgroup_id, tgid, 0);
}

static __always_inline int context_enter(struct pt_regs *ctx, u32 api, u64 about) {
    announce();
    api_enter(ctx, SOURCE_DRIVER, api, about, 0);
    return 0;
}

/* The common part of all returns here; 0 where the call failed or was not seen. Writes what the call was about. */
static __always_inline struct process *context_call(u32 api, int result, u64 *about) {
    u64 pid_tgid = bpf_get_current_pid_tgid(), cgroup_id = bpf_get_current_cgroup_id();
    struct api_call *call = api_returned(pid_tgid, SOURCE_DRIVER, api);
    if (!call)
        return 0;
    *about = call->pointer;
    time_call(cgroup_id, api, result != 0, 0, bpf_ktime_get_ns() - call->began_ns);
    if (result != 0)
        return 0;
    return note_process(pid_tgid >> 32, cgroup_id);
}

static __always_inline int context_return(u32 api, int result) {
    u64 about;
    struct process *process = context_call(api, result, &about);
    if (process)
        __sync_fetch_and_add(&process->contexts, 1);
    return 0;
}

static __always_inline int context_end_return(u32 api, int result) {
    u64 about;
    struct process *process = context_call(api, result, &about);
    if (!process)
        return 0;
    int is_known = process->contexts > 0; /* else it is older than the witness */
    if (is_known)
        __sync_fetch_and_add(&process->contexts, -1);
    context_ended(process, bpf_get_current_pid_tgid() >> 32, is_known);
    return 0;
}

static __always_inline struct primary_key primary_place(u64 device) {
    struct primary_key key = {};
    key.tgid = bpf_get_current_pid_tgid() >> 32;
    key.device = (s32)device;
    return key;
}

static __always_inline int primary_return(u32 api, int result) {
    u64 about;
    struct process *process = context_call(api, result, &about);
    if (!process)
        return 0;
    struct primary_key key = primary_place(about);
    struct primary fresh = {};
    fresh.made_ns = bpf_ktime_get_ns();
    struct primary *primary = primaries.lookup(&key);
    if (primary && primary->made_ns <= process->renewed_ns)
        primaries.delete(&key); /* of the program that the process was before */
    primary = primaries.lookup_or_try_init(&key, &fresh);
    if (!primary) {
        lost(LOSS_CLIENTS_FULL);
        return 0;
    }
    __sync_fetch_and_add(&primary->references, 1);
    if (!primary->alive) {
        primary->alive = 1;
        __sync_fetch_and_add(&process->primaries, 1);
    }
    return 0;
}

static __always_inline int primary_end_return(u32 api, int result, int is_reset) {
    u64 about;
    struct process *process = context_call(api, result, &about);
    if (!process)
        return 0;
    struct primary_key key = primary_place(about);
    struct primary *primary = primaries.lookup(&key);
    if (primary && primary->made_ns > process->renewed_ns) {
        if (!is_reset)
            __sync_fetch_and_add(&primary->references, -1);
        if (!is_reset && primary->references > 0)
            return 0;
        if (primary->alive) {
            primary->alive = 0;
            __sync_fetch_and_add(&process->primaries, -1);
        }
        if (!is_reset)
            primaries.delete(&key);
        context_ended(process, key.tgid, 1);
    } else if (is_reset) {
        context_ended(process, key.tgid, 0);
    }
    return 0;
}

#endif
