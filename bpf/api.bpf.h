/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Allocation and free as an API layer sees them: entry remembers, return decides. The actions TAKE, GIVE and TIME of
 * symbols.def.
 *
 * A call counts only when it returned 0. An allocation's pointer is read at return, from the address given at entry.
 *
 * A free takes the pointer out of `live` at its entry, and puts it back if the call fails: once the real function has
 * run, another thread may be given the same address before this thread returns.
 */
#ifndef CONVGPU_API_BPF_H
#define CONVGPU_API_BPF_H

#include "call.bpf.h"
#include "event.bpf.h"
#include "size.bpf.h"

/* Pointers of the device are freed by whichever free; handles have numbers of their own. */
enum space {
    SPACE_POINTER,
    SPACE_ARRAY,
    SPACE_VMM,
    SPACE_HOST,
    SPACE_MAPPING,
};

struct live_key {
    u64 pointer; /* virtual addresses repeat across processes */
    u32 tgid;
    u16 source;
    u16 space;
};

struct live {
    u64 size_bytes;
    u64 cgroup_id; /* the process may have moved since */
    u64 made_ns;
    u64 handle; /* of a mapping: what is mapped */
    u64 references;
    u64 memory;
};

CVG_HASH(live, struct live_key, struct live, CVG_MAX_LIVE);

static __always_inline u16 space_of(enum memory memory) {
    if (memory == MEMORY_ARRAY)
        return SPACE_ARRAY;
    if (memory == MEMORY_VMM)
        return SPACE_VMM;
    return memory == MEMORY_HOST ? SPACE_HOST : SPACE_POINTER;
}

static __always_inline struct balance_key api_balance(u64 cgroup_id, u32 tgid, u8 source, u8 memory) {
    struct balance_key key = {};
    key.cgroup_id = cgroup_id;
    key.tgid = tgid;
    key.device = CVG_UNKNOWN_DEVICE;
    key.source = source;
    key.memory = memory;
    return key;
}

/* Whether an entry is of the program that the process is now, and of contexts that it still has. */
static __always_inline int is_valid(struct live *entry, struct live_key *place) {
    struct balance_key key = api_balance(entry->cgroup_id, place->tgid, place->source, entry->memory);
    struct balance *balance = balances.lookup(&key);
    return !balance || entry->made_ns > balance->ended_ns;
}

/*
 * Stream-ordered memory is watched at the driver alone. What one layer took may be given back through the other's
 * calls: cudaFree of what cudaMallocAsync took, cudaFreeAsync of what cudaMalloc took.
 */
static __always_inline int is_pool_of_driver(struct live_key place) {
    place.source = SOURCE_DRIVER;
    struct live *found = live.lookup(&place);
    return found && found->memory == MEMORY_POOL;
}

static __always_inline void end_in_runtime(u64 pointer, u32 tgid) {
    struct live_key place = {};
    place.pointer = pointer;
    place.tgid = tgid;
    place.source = SOURCE_RUNTIME;
    place.space = SPACE_POINTER;
    struct live *found = live.lookup(&place);
    if (!found || !is_valid(found, &place))
        return;
    struct balance_key key = api_balance(found->cgroup_id, tgid, SOURCE_RUNTIME, found->memory);
    u64 size_bytes = found->size_bytes;
    if (live.delete(&place) == 0)
        balance_subtract(&key, size_bytes, 1);
}

/* The rest of a call that takes or gives: how long it took, and what is told of it. */
static __always_inline void api_tell(void *ctx, struct balance *balance, struct api_call *call, struct live_key *place,
                                     u32 api, u64 cgroup_id, u16 kind, u64 now_ns) {
    struct call_figures figures = {};
    figures.now_ns = now_ns;
    figures.cgroup_id = cgroup_id;
    figures.pid = place->tgid;
    figures.source = place->source;
    figures.kind = kind;
    figures.api = api;
    figures.memory = call->memory;
    figures.size_bytes = call->size_bytes;
    figures.latency_ns = now_ns - call->began_ns;
    figures.pointer = place->pointer;
    figures.device = CVG_UNKNOWN_DEVICE;
    if (api != API_NONE)
        time_call(cgroup_id, api, kind == KIND_FAIL, call->size_bytes, figures.latency_ns);
    emit(ctx, balance, &figures);
}

/* Counts an allocation that a layer has made; `place` has its pointer. */
static __always_inline void take_counted(struct pt_regs *ctx, struct api_call *call, u64 cgroup_id,
                                         struct live_key *place, u32 api, struct balance *balance, u64 now_ns) {
    struct live now = {};
    now.size_bytes = call->size_bytes;
    now.cgroup_id = cgroup_id;
    now.made_ns = now_ns;
    now.references = 1;
    now.memory = call->memory;
    if (live.insert(place, &now)) { /* the pointer is there already, or the table is full */
        struct live *before = live.lookup(place);
        if (before && is_valid(before, place)) {
            if (call->memory == MEMORY_VMM && call->size_bytes == 0) {
                __sync_fetch_and_add(&before->references, 1); /* imported again: the same object */
                return;
            }
            lost(LOSS_MISSED_FREE);
            struct balance_key old = api_balance(before->cgroup_id, place->tgid, place->source, before->memory);
            balance_subtract(&old, before->size_bytes, 1);
        }
        if (live.update(place, &now)) {
            lost(LOSS_LIVE_FULL);
            return;
        }
    }
    balance_add(balance, call->size_bytes);
    api_tell(ctx, balance, call, place, api, cgroup_id, KIND_ALLOC, now_ns);
}

static __always_inline int take_return(struct pt_regs *ctx, u32 source, u32 api, enum memory memory) {
    u64 pid_tgid = bpf_get_current_pid_tgid();
    int result = (int)PT_REGS_RC(ctx);
    struct api_call *call = api_returned(pid_tgid, source, api);
    if (!call)
        return 0;
    u64 now_ns = bpf_ktime_get_ns(), cgroup_id = bpf_get_current_cgroup_id();
    call->memory = memory;

    struct live_key place = {};
    place.tgid = pid_tgid >> 32;
    place.source = source;
    place.space = space_of(memory);
    if (result == 0) {
        if (bpf_probe_read_user(&place.pointer, sizeof(place.pointer), (void *)call->pointer)) {
            lost(LOSS_READ_FAILED);
            return 0;
        }
        if (place.pointer == 0)
            return 0; /* zero bytes asked: nothing is alive */
    }

    struct balance_key key = api_balance(cgroup_id, place.tgid, source, memory);
    struct balance *balance = balance_of(&key);
    if (!balance)
        return 0;
    if (result != 0) {
        __sync_fetch_and_add(&balance->failures, 1);
        api_tell(ctx, balance, call, &place, api, cgroup_id, KIND_FAIL, now_ns);
        return 0;
    }

    take_counted(ctx, call, cgroup_id, &place, api, balance, now_ns);
    if (source == SOURCE_DRIVER && memory != MEMORY_POOL && memory != MEMORY_VMM && is_catching() && is_caught(ctx)) {
        place.source = SOURCE_RUNTIME;
        key = api_balance(cgroup_id, place.tgid, SOURCE_RUNTIME, memory);
        balance = balance_of(&key);
        if (balance) /* API_NONE: which of the runtime's calls it is was not seen */
            take_counted(ctx, call, cgroup_id, &place, API_NONE, balance, now_ns);
    }
    return 0;
}

static __always_inline struct live_key place_given(u64 pointer, u32 tgid, u32 source, enum memory memory) {
    struct live_key place = {};
    place.pointer = pointer;
    place.tgid = tgid;
    place.source = source;
    place.space = space_of(memory);
    return place;
}

static __always_inline int give_enter(struct pt_regs *ctx, u32 source, u32 api, enum memory memory) {
    u64 pointer = PT_REGS_PARM1(ctx), stack = PT_REGS_SP(ctx);
    if (pointer == 0)
        return 0; /* allowed, and does nothing */
    u64 pid_tgid = bpf_get_current_pid_tgid();
    struct api_call *call = place_for_call(pid_tgid, source);
    if (!call || is_inside(call, stack, api))
        return 0; /* where there is no room it stays alive; if the address is given out again, that is noticed */
    int is_same = call->api && call->taken && call->pointer == pointer; /* may be a second probe on this very call */
    struct live_key place = place_given(pointer, pid_tgid >> 32, source, memory);
    struct live *found = live.lookup(&place);
    u16 taken = TAKEN_NOT;
    /* Whether stream-ordered memory is still valid is seen at return, where its balance is looked at in any case. */
    if (found && (memory == MEMORY_POOL || is_valid(found, &place))) {
        if (is_same && call->stack == stack && call->taken == TAKEN_REFERENCE)
            return 0;
        taken = found->references > 1 ? TAKEN_REFERENCE : TAKEN_OUT;
        call->size_bytes = found->size_bytes;
        call->cgroup_id = found->cgroup_id;
        call->made_ns = found->made_ns;
        call->memory = found->memory;
    } else if (is_same) {
        return 0;
    } else if (source == SOURCE_RUNTIME && is_pool_of_driver(place)) {
        return 0; /* the driver's own free counts */
    }
    call->began_ns = bpf_ktime_get_ns();
    call->stack = stack;
    call->pointer = pointer;
    call->taken = taken;
    call->api = api;
    if (found && taken == TAKEN_REFERENCE)
        __sync_fetch_and_add(&found->references, -1);
    else if (taken)
        live.delete(&place);
    return 0;
}

/* A free that failed: what was taken out at its entry is alive as before. */
static __always_inline void give_undone(struct api_call *call, struct live_key *place) {
    struct live *left = live.lookup(place);
    if (left && call->taken == TAKEN_REFERENCE) {
        __sync_fetch_and_add(&left->references, 1);
        return;
    }
    struct live again = {};
    again.size_bytes = call->size_bytes;
    again.cgroup_id = call->cgroup_id;
    again.made_ns = call->made_ns;
    again.references = 1;
    again.memory = call->memory;
    if (live.update(place, &again))
        lost(LOSS_LIVE_FULL);
}

static __always_inline int give_return(struct pt_regs *ctx, u32 source, u32 api, enum memory memory, int result) {
    u64 pid_tgid = bpf_get_current_pid_tgid();
    struct api_call *call = api_returned(pid_tgid, source, api);
    if (!call)
        return 0;
    struct live_key place = place_given(call->pointer, pid_tgid >> 32, source, memory);
    if (result != 0) {
        if (call->taken)
            give_undone(call, &place);
        return 0;
    }
    if (!call->taken)
        lost(LOSS_UNKNOWN_FREE);
    if (call->taken != TAKEN_OUT)
        return 0;
    struct balance_key key = api_balance(call->cgroup_id, place.tgid, source, call->memory);
    struct balance *balance = balances.lookup(&key);
    if (!balance)
        return 0; /* forgotten by now */
    if (call->made_ns <= balance->ended_ns) {
        if (balance->ended_ns <= call->began_ns)
            lost(LOSS_UNKNOWN_FREE); /* it was over before this call */
        return 0;                    /* or ended, and was subtracted, during it */
    }
    __sync_fetch_and_add(&balance->bytes, -call->size_bytes);
    __sync_fetch_and_add(&balance->frees, 1);
    if (source == SOURCE_DRIVER && memory == MEMORY_POOL && call->memory != MEMORY_POOL)
        end_in_runtime(call->pointer, place.tgid);
    api_tell(ctx, balance, call, &place, api, call->cgroup_id, KIND_FREE, bpf_ktime_get_ns());
    return 0;
}

static __always_inline int time_return(u32 source, u32 api, int result) {
    struct api_call *call = api_returned(bpf_get_current_pid_tgid(), source, api);
    if (call)
        time_call(bpf_get_current_cgroup_id(), api, result != 0, 0, bpf_ktime_get_ns() - call->began_ns);
    return 0;
}

#endif
