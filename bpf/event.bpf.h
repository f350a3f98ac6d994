/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is told of single calls: events, from where they were made, and how long calls take.
 */
#ifndef CONVGPU_EVENT_BPF_H
#define CONVGPU_EVENT_BPF_H

#include "common.bpf.h"

struct event {
    u64 mono_ns; /* CLOCK_MONOTONIC, at the return of the call */
    u64 cgroup_id;
    u64 size_bytes;
    u64 latency_ns;
    u64 pointer; /* or handle; 0 at the boundary */
    u32 pid;     /* tgid that is charged */
    u32 tid;     /* thread that called */
    s32 device;
    u16 source;
    u16 kind;
    u16 api;
    u16 memory;
    char comm[16];
    u32 unused;
};

CVG_RING(events, CVG_RING_PAGES);

/* How often a cgroup made a call, and how long it took. User space clears it when the cgroup has no process left. */
struct latency_key {
    u64 cgroup_id;
    u64 api;
};

struct latency {
    u64 failures;
    u64 size_bytes;               /* that the successful ones took or gave */
    u64 total_ns;                 /* of all */
    u64 slots[CVG_LATENCY_SLOTS]; /* their sum is all calls, failures included */
};

CVG_HASH(latencies, struct latency_key, struct latency, CVG_MAX_LATENCIES);
CVG_ARRAY(no_latency, struct latency, 1); /* zeros, too many for the stack of a program */

static __always_inline void time_call(u64 cgroup_id, u32 api, int failed, u64 size_bytes, u64 latency_ns) {
    struct latency_key key = {};
    key.cgroup_id = cgroup_id;
    key.api = api;
    struct latency *latency = latencies.lookup(&key);
    if (!latency) {
        int at = 0;
        struct latency *zero = no_latency.lookup(&at);
        if (!zero)
            return;
        latencies.insert(&key, zero);
        latency = latencies.lookup(&key);
        if (!latency) {
            lost(LOSS_LATENCIES_FULL);
            return;
        }
    }
    u32 slot = bpf_log2l(latency_ns | 1) - 1;
    if (slot >= CVG_LATENCY_SLOTS)
        slot = CVG_LATENCY_SLOTS - 1;
    __sync_fetch_and_add(&latency->slots[slot], 1);
    __sync_fetch_and_add(&latency->total_ns, latency_ns);
    if (failed)
        __sync_fetch_and_add(&latency->failures, 1);
    else if (size_bytes)
        __sync_fetch_and_add(&latency->size_bytes, size_bytes);
}

/*
 * So much of the story is told a second and balance that a flood of one neither hides another's nor wakes the reader
 * for nothing. Two processors that look at once may tell one event more: the limit is not a balance.
 */
static __always_inline int may_tell(struct balance *balance, u16 kind, u64 size_bytes, u64 now_ns) {
    if (now_ns - balance->window_ns >= CVG_SECOND_NS) {
        balance->window_ns = now_ns;
        balance->told = 0;
    }
    u64 limit = CVG_TOLD_A_SECOND;
    if (kind == KIND_FAIL || size_bytes >= CVG_LARGE_BYTES)
        limit *= 2;
    if (balance->told >= limit) {
        lost(LOSS_SUPPRESSED);
        return 0;
    }
    __sync_fetch_and_add(&balance->told, 1);
    return 1;
}

/* Where an event was called from, as far as the program keeps frame pointers. Told before its event. */
#define CVG_STACK_FRAMES 48
struct stack {
    u64 mono_ns; /* with tid: which event's */
    u32 tid;
    u32 frames;
    u64 addresses[CVG_STACK_FRAMES]; /* the innermost first: where the call returns to */
};

CVG_RING(stacks, CVG_STACK_PAGES);
CVG_ARRAY(stacks_until_ns, u64, 1); /* somebody wants stacks until then: who dies wanting them costs nothing for long */

static __always_inline void tell_stack(void *ctx, u64 now_ns) {
    int at = 0;
    u64 *until_ns = stacks_until_ns.lookup(&at);
    if (!until_ns || now_ns >= *until_ns)
        return;
    struct stack *stack = stacks.ringbuf_reserve(sizeof(struct stack));
    if (!stack) {
        lost(LOSS_STACKS_FULL);
        return;
    }
    long size = bpf_get_stack(ctx, stack->addresses, sizeof(stack->addresses), BPF_F_USER_STACK);
    stack->mono_ns = now_ns;
    stack->tid = (u32)bpf_get_current_pid_tgid();
    stack->frames = size > 0 ? size / sizeof(u64) : 0;
    stacks.ringbuf_submit(stack, BPF_RB_NO_WAKEUP);
}

struct call_figures {
    u64 now_ns;
    u64 cgroup_id;
    u64 size_bytes;
    u64 latency_ns;
    u64 pointer;
    u32 pid;
    s32 device;
    u16 source;
    u16 kind;
    u16 api;
    u16 memory;
};

/*
 * Tells an event that is about a balance; about none: always. NO_WAKEUP: user space polls on a timer; waking it for
 * each event would cost more than the event.
 */
static __always_inline void emit(void *ctx, struct balance *balance, struct call_figures *call) {
    if (balance && !may_tell(balance, call->kind, call->size_bytes, call->now_ns))
        return;
    if (call->kind != KIND_EXIT)
        tell_stack(ctx, call->now_ns);
    struct event event = {};
    event.mono_ns = call->now_ns;
    event.cgroup_id = call->cgroup_id;
    event.size_bytes = call->size_bytes;
    event.latency_ns = call->latency_ns;
    event.pointer = call->pointer;
    event.pid = call->pid;
    event.tid = (u32)bpf_get_current_pid_tgid();
    event.device = call->device;
    event.source = call->source;
    event.kind = call->kind;
    event.api = call->api;
    event.memory = call->memory;
    bpf_get_current_comm(event.comm, sizeof(event.comm));
    if (events.ringbuf_output(&event, sizeof(event), BPF_RB_NO_WAKEUP))
        lost(LOSS_RING_FULL);
}

#endif
