/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Allocation and free as an API layer sees them: entry remembers, return decides. The actions TAKE, GIVE and TIME of
 * symbols.def.
 *
 * A call counts only when it returned 0. An allocation's pointer is read at return, from the address given at entry.
 *
 * A free takes the pointer out of `live` at its entry, and puts it back if the call fails: once the real function has
 * run, another thread may be given the same address before this thread returns.
 *
 * Of calls that a layer makes to itself only the outermost counts. It is told by the stack: a call inside another has
 * its stack pointer below. So a call that never returned (longjmp, an exception) hides nothing for long.
 *
 * The same code attached twice (one file seen through two mounts) changes nothing but the cost: the second entry finds
 * what the first left, and the second return finds no call.
 */
#ifndef CONVGPU_API_BPF_H
#define CONVGPU_API_BPF_H

#include "common.bpf.h"
#include "size.bpf.h"

struct api_call_key {
    u64 pid_tgid;
    u64 source; /* a runtime call contains a driver call on the same thread */
};

struct api_call {
    u64 began_ns;
    u64 stack;      /* the stack pointer at entry */
    u64 pointer;    /* TAKE: where the result will be written; GIVE: what ends; else what the call is about */
    u64 size_bytes; /* TAKE: as asked; GIVE: of the live allocation that was taken out */
    u64 cgroup_id;  /* GIVE: which balance it was added to */
    u64 made_ns;    /* GIVE: when it was added */
    u32 api;
    u16 memory; /* GIVE: of what was taken out */
    u16 taken;  /* GIVE: TAKEN_... */
};

#define TAKEN_NOT 0 /* it was not live */
#define TAKEN_OUT 1
#define TAKEN_REFERENCE 2 /* a VMM handle that is still mapped or retained */

CVG_HASH(api_calls, struct api_call_key, struct api_call, CVG_MAX_CALLS);

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

/*
 * Threads that were inside a runtime's call, or may have been, when its library began to be watched: the entry of that
 * call was not seen. User space marks every thread that there is, with the place of the library's code. What such a
 * thread takes from the driver next, called from that code as the stack says, is what that call takes.
 */
struct code {
    u64 begin;
    u64 end;
};

CVG_HASH(catching, u64, struct code, 4096);
CVG_ARRAY(catching_any, u64, 1); /* 0: no thread is marked */

#define STACK_WORDS 192 /* the wrapper's frame lies between libcuda and the runtime */

static __always_inline int is_catching(void) {
    int at = 0;
    u64 *any = catching_any.lookup(&at);
    return any && *any;
}

/* Whether this is the rest of a runtime's call whose entry was not seen; asked once for each marked thread. */
static __always_inline int is_caught(struct pt_regs *ctx) {
    u64 pid_tgid = bpf_get_current_pid_tgid();
    struct code *found = catching.lookup(&pid_tgid);
    if (!found)
        return 0;
    struct code code = *found;
    catching.delete(&pid_tgid);
    u64 stack = PT_REGS_SP(ctx), caller = PT_REGS_IP(ctx); /* at a return probe: where it returns to */
    struct api_call_key key = {};
    key.pid_tgid = pid_tgid;
    key.source = SOURCE_RUNTIME;
    struct api_call *outer = api_calls.lookup(&key);
    if (outer && stack <= outer->stack)
        return 0; /* its entry was seen: by an earlier daemon's probes, or before this process was looked at */
    if (caller >= code.begin && caller < code.end)
        return 1;
    for (int i = 0; i < STACK_WORDS; i++) {
        u64 word;
        if (bpf_probe_read_user(&word, sizeof(word), (void *)(stack + 8 * i)))
            return 0;
        if (word >= code.begin && word < code.end)
            return 1;
    }
    return 0;
}

static __always_inline u16 space_of(enum memory memory) {
    if (memory == MEMORY_ARRAY)
        return SPACE_ARRAY;
    if (memory == MEMORY_VMM)
        return SPACE_VMM;
    return memory == MEMORY_HOST ? SPACE_HOST : SPACE_POINTER;
}

/* Whether an entry is of the program that the process is now, and of contexts that it still has. */
static __always_inline int is_valid(struct live *entry, u32 tgid) {
    struct process *process = processes.lookup(&tgid);
    if (!process)
        return 1;
    if (entry->made_ns <= process->renewed_ns)
        return 0;
    return entry->memory == MEMORY_VMM || entry->made_ns > process->contexts_ended_ns;
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

/* Whether a call at this place of the stack is inside one that was remembered, or is that one, probed by a second name.
 */
static __always_inline int is_inside(struct api_call *outer, u64 stack, u32 api) {
    return outer && (stack < outer->stack || (stack == outer->stack && api != outer->api));
}

static __always_inline int api_enter(struct pt_regs *ctx, u32 source, u32 api, u64 pointer, u64 size_bytes) {
    struct api_call_key key = {};
    key.pid_tgid = bpf_get_current_pid_tgid();
    key.source = source;
    struct api_call call = {};
    call.stack = PT_REGS_SP(ctx);
    call.api = api;
    if (source == SOURCE_RUNTIME && is_catching())
        catching.delete(&key.pid_tgid);
    if (is_inside(api_calls.lookup(&key), call.stack, api))
        return 0;
    call.began_ns = bpf_ktime_get_ns();
    call.pointer = pointer;
    call.size_bytes = size_bytes;
    if (api_calls.update(&key, &call))
        lost(LOSS_CALLS_FULL);
    return 0;
}

/* Takes the call out that returns; 0 where there is none of this name. */
static __always_inline int api_returned(u32 source, u32 api, struct api_call *call) {
    struct api_call_key key = {};
    key.pid_tgid = bpf_get_current_pid_tgid();
    key.source = source;
    struct api_call *found = api_calls.lookup(&key);
    if (!found || found->api != api)
        return 0;
    *call = *found;
    api_calls.delete(&key);
    return 1;
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
    if (!found || !is_valid(found, tgid))
        return;
    struct balance_key key = api_balance(found->cgroup_id, tgid, SOURCE_RUNTIME, found->memory);
    u64 size_bytes = found->size_bytes;
    if (live.delete(&place) == 0)
        balance_subtract(&key, size_bytes, 1);
}

/* The rest of a call that takes or gives: how long it took, and what is told of it. */
static __always_inline void api_tell(struct api_call *call, u32 source, u64 cgroup_id, u16 kind, u64 pointer) {
    struct call_figures figures = {};
    figures.cgroup_id = cgroup_id;
    figures.pid = bpf_get_current_pid_tgid() >> 32;
    figures.source = source;
    figures.kind = kind;
    figures.api = call->api;
    figures.memory = call->memory;
    figures.size_bytes = call->size_bytes;
    figures.latency_ns = bpf_ktime_get_ns() - call->began_ns;
    figures.pointer = pointer;
    figures.device = CVG_UNKNOWN_DEVICE;
    if (call->api != API_NONE)
        time_call(cgroup_id, call->api, kind == KIND_FAIL, call->size_bytes, figures.latency_ns);
    emit(&figures);
}

/* Counts an allocation that a layer has made; `place` has its pointer. */
static __always_inline int take_counted(struct api_call *call, u64 cgroup_id, struct live_key *place,
                                        struct balance *balance) {
    struct live now = {};
    now.size_bytes = call->size_bytes;
    now.cgroup_id = cgroup_id;
    now.made_ns = bpf_ktime_get_ns();
    now.references = 1;
    now.memory = call->memory;
    struct live *before = live.lookup(place);
    if (before && is_valid(before, place->tgid)) {
        if (call->memory == MEMORY_VMM && call->size_bytes == 0) {
            __sync_fetch_and_add(&before->references, 1); /* imported again: the same object */
            return 0;
        }
        lost(LOSS_MISSED_FREE);
        struct balance_key old = api_balance(before->cgroup_id, place->tgid, place->source, before->memory);
        balance_subtract(&old, before->size_bytes, 1);
    }
    if (live.update(place, &now)) {
        lost(LOSS_LIVE_FULL);
        return 0;
    }
    balance_add(balance, call->size_bytes);
    api_tell(call, place->source, cgroup_id, KIND_ALLOC, place->pointer);
    return 0;
}

static __always_inline int take_return(struct pt_regs *ctx, u32 source, u32 api, enum memory memory) {
    struct api_call call;
    int result = (int)PT_REGS_RC(ctx);
    if (!api_returned(source, api, &call))
        return 0;
    call.memory = memory;
    u32 tgid = bpf_get_current_pid_tgid() >> 32;
    u64 cgroup_id = bpf_get_current_cgroup_id();

    struct live_key place = {};
    place.tgid = tgid;
    place.source = source;
    place.space = space_of(memory);
    if (result == 0) {
        if (bpf_probe_read_user(&place.pointer, sizeof(place.pointer), (void *)call.pointer)) {
            lost(LOSS_READ_FAILED);
            return 0;
        }
        if (place.pointer == 0)
            return 0; /* zero bytes asked: nothing is alive */
    }

    struct balance_key key = api_balance(cgroup_id, tgid, source, memory);
    struct balance *balance = balance_of(&key);
    if (!balance)
        return 0;
    if (result != 0) {
        __sync_fetch_and_add(&balance->failures, 1);
        api_tell(&call, source, cgroup_id, KIND_FAIL, 0);
        return 0;
    }

    take_counted(&call, cgroup_id, &place, balance);
    if (source == SOURCE_DRIVER && memory != MEMORY_POOL && memory != MEMORY_VMM && is_catching() && is_caught(ctx)) {
        place.source = SOURCE_RUNTIME;
        call.api = API_NONE; /* which of the runtime's calls it is was not seen */
        key = api_balance(cgroup_id, tgid, SOURCE_RUNTIME, memory);
        balance = balance_of(&key);
        if (balance)
            take_counted(&call, cgroup_id, &place, balance);
    }
    return 0;
}

static __always_inline int give_enter(struct pt_regs *ctx, u32 source, u32 api, enum memory memory) {
    struct api_call call = {};
    call.pointer = PT_REGS_PARM1(ctx);
    if (call.pointer == 0)
        return 0; /* allowed, and does nothing */
    struct api_call_key key = {};
    key.pid_tgid = bpf_get_current_pid_tgid();
    key.source = source;
    call.stack = PT_REGS_SP(ctx);
    call.api = api;
    struct api_call *same = api_calls.lookup(&key);
    if (is_inside(same, call.stack, api))
        return 0;
    call.began_ns = bpf_ktime_get_ns();

    struct live_key place = {};
    place.pointer = call.pointer;
    place.tgid = key.pid_tgid >> 32;
    place.source = source;
    place.space = space_of(memory);
    struct live *found = live.lookup(&place);
    if (found && is_valid(found, place.tgid)) {
        call.size_bytes = found->size_bytes;
        call.cgroup_id = found->cgroup_id;
        call.made_ns = found->made_ns;
        call.memory = found->memory;
        call.taken = found->references > 1 ? TAKEN_REFERENCE : TAKEN_OUT;
        if (same && same->stack == call.stack && same->taken == TAKEN_REFERENCE && same->pointer == call.pointer)
            return 0; /* a second probe on this very call */
    } else if (same && same->taken && same->pointer == call.pointer) {
        return 0; /* the same */
    } else if (source == SOURCE_RUNTIME && is_pool_of_driver(place)) {
        return 0; /* the driver's own free counts */
    }
    if (api_calls.update(&key, &call)) {
        lost(LOSS_CALLS_FULL);
        return 0; /* stays alive; if the address is given out again, that is noticed */
    }
    if (found && call.taken == TAKEN_REFERENCE)
        __sync_fetch_and_add(&found->references, -1);
    else if (call.taken)
        live.delete(&place);
    return 0;
}

static __always_inline int give_return(u32 source, u32 api, enum memory memory, int result) {
    struct api_call call;
    if (!api_returned(source, api, &call))
        return 0;
    u32 tgid = bpf_get_current_pid_tgid() >> 32;
    if (result != 0) {
        if (call.taken) {
            struct live_key place = {};
            place.pointer = call.pointer;
            place.tgid = tgid;
            place.source = source;
            place.space = space_of(memory);
            struct live *left = live.lookup(&place);
            if (left && call.taken == TAKEN_REFERENCE) {
                __sync_fetch_and_add(&left->references, 1);
                return 0;
            }
            struct live again = {};
            again.size_bytes = call.size_bytes;
            again.cgroup_id = call.cgroup_id;
            again.made_ns = call.made_ns;
            again.references = 1;
            again.memory = call.memory;
            if (live.update(&place, &again))
                lost(LOSS_LIVE_FULL);
        }
        return 0;
    }
    if (!call.taken) {
        lost(LOSS_UNKNOWN_FREE);
        return 0;
    }
    if (call.taken == TAKEN_OUT) {
        struct balance_key key = api_balance(call.cgroup_id, tgid, source, call.memory);
        balance_subtract(&key, call.size_bytes, 1);
        if (source == SOURCE_DRIVER && memory == MEMORY_POOL && call.memory != MEMORY_POOL)
            end_in_runtime(call.pointer, tgid);
        api_tell(&call, source, call.cgroup_id, KIND_FREE, call.pointer);
    }
    return 0;
}

static __always_inline int time_return(u32 source, u32 api, int result) {
    struct api_call call;
    if (api_returned(source, api, &call))
        time_call(bpf_get_current_cgroup_id(), api, result != 0, 0, bpf_ktime_get_ns() - call.began_ns);
    return 0;
}

#endif
