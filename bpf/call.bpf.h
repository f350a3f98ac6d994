/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Calls of the libraries between their entry and their return.
 *
 * Of calls that a layer makes to itself only the outermost counts. It is told by the stack: a call inside another has
 * its stack pointer below. So a call that never returned (longjmp, an exception) hides nothing for long.
 *
 * The same code attached twice (one file seen through two mounts) changes nothing but the cost: the second entry finds
 * what the first left, and the second return finds no call.
 */
#ifndef CONVGPU_CALL_BPF_H
#define CONVGPU_CALL_BPF_H

#include "common.bpf.h"

struct api_call {
    u64 began_ns;
    u64 stack;      /* the stack pointer at entry */
    u64 pointer;    /* TAKE: where the result will be written; GIVE: what ends; else what the call is about */
    u64 size_bytes; /* TAKE: as asked; GIVE: of the live allocation that was taken out */
    u64 cgroup_id;  /* GIVE: which balance it was added to */
    u64 made_ns;    /* GIVE: when it was added */
    u32 api;        /* API_NONE: no call is under way */
    u16 memory;     /* GIVE: of what was taken out */
    u16 taken;      /* GIVE: TAKEN_... */
};

#define TAKEN_NOT 0 /* it was not live */
#define TAKEN_OUT 1
#define TAKEN_REFERENCE 2 /* a VMM handle that is still mapped or retained */

/*
 * The calls that a thread is inside of: a runtime call contains a driver call. An entry stays until the thread ends, so
 * that a call costs one look-up at its entry and one at its return; only its own thread writes to it.
 */
struct thread {
    struct api_call driver;
    struct api_call runtime;
};

CVG_HASH(threads, u64, struct thread, CVG_MAX_THREADS); /* by pid_tgid */

static __always_inline struct api_call *call_of(struct thread *thread, u32 source) {
    return source == SOURCE_RUNTIME ? &thread->runtime : &thread->driver;
}

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
    struct thread *thread = threads.lookup(&pid_tgid);
    if (thread && thread->runtime.api && stack <= thread->runtime.stack)
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

/* Whether a call at this place of the stack is inside one that is under way, or is that one by another name. */
static __always_inline int is_inside(struct api_call *outer, u64 stack, u32 api) {
    return outer->api && (stack < outer->stack || (stack == outer->stack && api != outer->api));
}

/* The place for a call of this thread; 0 where there is no room. */
static __always_inline struct api_call *place_for_call(u64 pid_tgid, u32 source) {
    struct thread *thread = threads.lookup(&pid_tgid);
    if (!thread) {
        struct thread fresh = {};
        threads.insert(&pid_tgid, &fresh);
        thread = threads.lookup(&pid_tgid);
        if (!thread) {
            lost(LOSS_CALLS_FULL);
            return 0;
        }
    }
    return call_of(thread, source);
}

/* Remembers a call at its entry; 0 where it is part of one that is remembered, or there is no room. */
static __always_inline struct api_call *api_enter(struct pt_regs *ctx, u32 source, u32 api, u64 pointer,
                                                  u64 size_bytes) {
    u64 pid_tgid = bpf_get_current_pid_tgid(), stack = PT_REGS_SP(ctx);
    if (source == SOURCE_RUNTIME && is_catching())
        catching.delete(&pid_tgid);
    struct api_call *call = place_for_call(pid_tgid, source);
    if (!call || is_inside(call, stack, api))
        return 0;
    call->began_ns = bpf_ktime_get_ns();
    call->stack = stack;
    call->pointer = pointer;
    call->size_bytes = size_bytes;
    call->taken = TAKEN_NOT;
    call->api = api;
    return call;
}

/* The call that returns, which is not under way any more; 0 where there is none of this name. */
static __always_inline struct api_call *api_returned(u64 pid_tgid, u32 source, u32 api) {
    struct thread *thread = threads.lookup(&pid_tgid);
    if (!thread)
        return 0;
    struct api_call *call = call_of(thread, source);
    if (call->api != api)
        return 0;
    call->api = API_NONE;
    return call;
}

#endif
