/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Handles of the virtual memory management API. The memory lives as long as its handle is held or it is mapped
 * somewhere, so both count as references; the last one to go ends it. The actions RETAIN, MAP and UNMAP of symbols.def.
 *
 * Mappings are entries of `live` in a space of their own, and in no balance. They are taken out when cuMemUnmap has
 * returned; a mapping that another thread made at the same address meanwhile is younger than the call, and stays.
 */
#ifndef CONVGPU_VMM_BPF_H
#define CONVGPU_VMM_BPF_H

#include "api.bpf.h"

#define MOST_UNMAPPED 32 /* mappings that one cuMemUnmap may end */

static __always_inline struct live_key vmm_place(u64 pointer, u32 tgid, u16 space) {
    struct live_key place = {};
    place.pointer = pointer;
    place.tgid = tgid;
    place.source = SOURCE_DRIVER;
    place.space = space;
    return place;
}

static __always_inline void handle_retained(u64 handle, u32 tgid) {
    struct live_key place = vmm_place(handle, tgid, SPACE_VMM);
    struct live *found = live.lookup(&place);
    if (found && is_valid(found, &place))
        __sync_fetch_and_add(&found->references, 1);
}

/* Of two threads that let go of the last references at once, the one whose delete succeeds does the sum. */
static __always_inline void handle_let_go(u64 handle, u32 tgid) {
    struct live_key place = vmm_place(handle, tgid, SPACE_VMM);
    struct live *found = live.lookup(&place);
    if (!found || !is_valid(found, &place))
        return;
    __sync_fetch_and_add(&found->references, -1);
    if (found->references)
        return;
    struct balance_key key = api_balance(found->cgroup_id, tgid, SOURCE_DRIVER, MEMORY_VMM);
    u64 size_bytes = found->size_bytes;
    if (live.delete(&place) == 0)
        balance_subtract(&key, size_bytes, 1);
}

static __always_inline int retain_return(u32 api, int result) {
    u64 pid_tgid = bpf_get_current_pid_tgid(), handle;
    struct api_call *call = api_returned(pid_tgid, SOURCE_DRIVER, api);
    if (!call || result != 0)
        return 0;
    if (bpf_probe_read_user(&handle, sizeof(handle), (void *)call->pointer))
        lost(LOSS_READ_FAILED);
    else
        handle_retained(handle, pid_tgid >> 32);
    return 0;
}

/* cuMemMap(ptr, size, offset, handle, flags); the handle travels in the field that only GIVE uses. */
static __always_inline int map_enter(struct pt_regs *ctx, u32 api) {
    struct api_call *call = api_enter(ctx, SOURCE_DRIVER, api, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
    if (call)
        call->made_ns = PT_REGS_PARM4(ctx);
    return 0;
}

static __always_inline int map_return(u32 api, int result) {
    u64 pid_tgid = bpf_get_current_pid_tgid();
    struct api_call *call = api_returned(pid_tgid, SOURCE_DRIVER, api);
    if (!call)
        return 0;
    u64 now_ns = bpf_ktime_get_ns(), cgroup_id = bpf_get_current_cgroup_id();
    time_call(cgroup_id, api, result != 0, call->size_bytes, now_ns - call->began_ns);
    if (result != 0)
        return 0;
    u32 tgid = pid_tgid >> 32;
    struct live_key handle = vmm_place(call->made_ns, tgid, SPACE_VMM);
    struct live *mapped = live.lookup(&handle);
    if (!mapped)
        return 0; /* not seen made: what it holds is in no balance */
    struct live_key place = vmm_place(call->pointer, tgid, SPACE_MAPPING);
    struct live *before = live.lookup(&place);
    u64 replaced = before && is_valid(before, &place) ? before->handle : 0;
    struct live mapping = {};
    mapping.size_bytes = call->size_bytes;
    mapping.cgroup_id = mapped->cgroup_id; /* of the balance with which it ends */
    mapping.made_ns = now_ns;
    mapping.handle = call->made_ns;
    mapping.memory = MEMORY_VMM;
    if (live.update(&place, &mapping)) {
        lost(LOSS_LIVE_FULL);
        return 0;
    }
    handle_retained(mapping.handle, tgid);
    if (replaced)
        handle_let_go(replaced, tgid); /* its cuMemUnmap is on its way back in another thread */
    return 0;
}

static __always_inline int unmap_return(u32 api, int result) {
    u64 pid_tgid = bpf_get_current_pid_tgid();
    struct api_call *call = api_returned(pid_tgid, SOURCE_DRIVER, api);
    if (!call)
        return 0;
    u64 began_ns = call->began_ns, at = call->pointer, end = at + call->size_bytes;
    time_call(bpf_get_current_cgroup_id(), api, result != 0, call->size_bytes, bpf_ktime_get_ns() - began_ns);
    if (result != 0)
        return 0;
    u32 tgid = pid_tgid >> 32;
    for (int i = 0; i < MOST_UNMAPPED; i++) {
        struct live_key place = vmm_place(at, tgid, SPACE_MAPPING);
        struct live *mapping = live.lookup(&place);
        if (!mapping || mapping->made_ns > began_ns)
            return 0;
        u64 handle = mapping->handle, size_bytes = mapping->size_bytes;
        if (live.delete(&place) == 0)
            handle_let_go(handle, tgid);
        at += size_bytes;
        if (at >= end)
            return 0;
    }
    lost(LOSS_UNMAPPED_MORE);
    return 0;
}

#endif
