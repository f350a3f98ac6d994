/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Allocation and free as an API layer sees them: entry remembers, return decides. Each probe is one call of a function
 * below.
 *
 * A call counts only when it returned 0. An allocation's pointer is read at return, from the address given at entry.
 *
 * A free takes the pointer out of `live` at its entry, and puts it back if the call fails: once the real function has
 * run, another thread may be given the same address before this thread returns.
 *
 * The same code attached twice (one file seen through two mounts) changes nothing but the cost: the second entry finds
 * what the first left, and the second return finds no call.
 */
#ifndef CONVGPU_API_BPF_H
#define CONVGPU_API_BPF_H

#include "common.bpf.h"

struct api_call_key {
    u64 pid_tgid;
    u64 source; /* a runtime call contains a driver call on the same thread */
};

struct api_call {
    u64 began_ns;
    u64 pointer;    /* alloc: where the result will be written; free: what is freed */
    u64 size_bytes; /* alloc: as asked; free: of the live allocation that was taken out */
    u64 cgroup_id;  /* free: which balance it was added to */
    u64 taken;      /* free: 1: it was live */
};

CVG_HASH(api_calls, struct api_call_key, struct api_call, CVG_MAX_CALLS);

struct live_key {
    u64 pointer; /* virtual addresses repeat across processes */
    u32 tgid;
    u32 source;
};

struct live {
    u64 size_bytes;
    u64 cgroup_id; /* the process may have moved since */
};

CVG_HASH(live, struct live_key, struct live, CVG_MAX_LIVE);

static __always_inline int api_alloc_enter(u32 source, u64 result_at, u64 size_bytes) {
    struct api_call_key key = {};
    key.pid_tgid = bpf_get_current_pid_tgid();
    key.source = source;
    struct api_call call = {};
    call.began_ns = bpf_ktime_get_ns();
    call.pointer = result_at;
    call.size_bytes = size_bytes;
    if (api_calls.update(&key, &call))
        lost(LOSS_CALLS_FULL);
    return 0;
}

static __always_inline int api_alloc_return(u32 source, int result) {
    struct api_call_key key = {};
    key.pid_tgid = bpf_get_current_pid_tgid();
    key.source = source;
    struct api_call *found = api_calls.lookup(&key);
    if (!found)
        return 0;
    struct api_call call = *found;
    api_calls.delete(&key);

    u32 tgid = key.pid_tgid >> 32;
    u64 cgroup_id = bpf_get_current_cgroup_id();
    u64 latency_ns = bpf_ktime_get_ns() - call.began_ns;

    struct live_key place = {};
    place.tgid = tgid;
    place.source = source;
    if (result == 0) {
        if (bpf_probe_read_user(&place.pointer, sizeof(place.pointer), (void *)call.pointer)) {
            lost(LOSS_READ_FAILED);
            return 0;
        }
        if (place.pointer == 0)
            return 0; /* zero bytes asked: nothing is alive */
    }

    struct balance *balance = balance_of(cgroup_id, tgid, source, CVG_UNKNOWN_DEVICE);
    if (!balance)
        return 0;
    if (result != 0) {
        __sync_fetch_and_add(&balance->failures, 1);
        emit(cgroup_id, tgid, source, KIND_FAIL, call.size_bytes, latency_ns, CVG_UNKNOWN_DEVICE);
        return 0;
    }

    struct live *before = live.lookup(&place);
    if (before) {
        lost(LOSS_MISSED_FREE);
        balance_subtract(before->cgroup_id, tgid, source, CVG_UNKNOWN_DEVICE, before->size_bytes, 1);
    }
    struct live now = {};
    now.size_bytes = call.size_bytes;
    now.cgroup_id = cgroup_id;
    if (live.update(&place, &now)) {
        lost(LOSS_LIVE_FULL);
        return 0;
    }
    balance_add(balance, call.size_bytes);
    emit(cgroup_id, tgid, source, KIND_ALLOC, call.size_bytes, latency_ns, CVG_UNKNOWN_DEVICE);
    return 0;
}

static __always_inline int api_free_enter(u32 source, u64 pointer) {
    if (pointer == 0)
        return 0; /* allowed, and does nothing */
    struct api_call_key key = {};
    key.pid_tgid = bpf_get_current_pid_tgid();
    key.source = source;
    struct live_key place = {};
    place.pointer = pointer;
    place.tgid = key.pid_tgid >> 32;
    place.source = source;
    struct api_call call = {};
    call.began_ns = bpf_ktime_get_ns();
    call.pointer = pointer;

    struct live *found = live.lookup(&place);
    if (found) {
        call.size_bytes = found->size_bytes;
        call.cgroup_id = found->cgroup_id;
        call.taken = 1;
    } else {
        struct api_call *same = api_calls.lookup(&key);
        if (same && same->taken && same->pointer == pointer)
            return 0; /* a second probe on this very call */
    }
    if (api_calls.update(&key, &call)) {
        lost(LOSS_CALLS_FULL);
        return 0; /* stays alive; if the address is given out again, that is noticed */
    }
    if (call.taken)
        live.delete(&place);
    return 0;
}

static __always_inline int api_free_return(u32 source, int result) {
    struct api_call_key key = {};
    key.pid_tgid = bpf_get_current_pid_tgid();
    key.source = source;
    struct api_call *found = api_calls.lookup(&key);
    if (!found)
        return 0;
    struct api_call call = *found;
    api_calls.delete(&key);

    u32 tgid = key.pid_tgid >> 32;
    if (result != 0) {
        if (call.taken) {
            struct live_key place = {};
            place.pointer = call.pointer;
            place.tgid = tgid;
            place.source = source;
            struct live again = {};
            again.size_bytes = call.size_bytes;
            again.cgroup_id = call.cgroup_id;
            if (live.update(&place, &again))
                lost(LOSS_LIVE_FULL);
        }
        return 0;
    }
    if (!call.taken) {
        lost(LOSS_UNKNOWN_FREE);
        return 0;
    }
    balance_subtract(call.cgroup_id, tgid, source, CVG_UNKNOWN_DEVICE, call.size_bytes, 1);
    emit(call.cgroup_id, tgid, source, KIND_FREE, call.size_bytes, bpf_ktime_get_ns() - call.began_ns,
         CVG_UNKNOWN_DEVICE);
    return 0;
}

#endif
