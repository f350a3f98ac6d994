/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ends of threads, programs and processes.
 *
 * A thread that is killed inside a call never returns from it: what was remembered for the return goes now.
 *
 * A process has ended when its last thread has, and only kernels from 6.16 on say which one is the last. So the event
 * is sent when the first thread ends, and user space holds it back until /proc agrees. By then the kernel has closed
 * the files of the process, and the driver has freed what it held.
 *
 * A process may also become another program (exec), and its number may come again before user space has forgotten it
 * (fork). What the number held until then is over: the driver frees it with the files, which libcuda opens with
 * O_CLOEXEC. The balances end here; entries that hang on them are told by their age, and user space sweeps them out.
 */
#include "api.bpf.h"
#include "boundary.bpf.h"
#include "common.bpf.h"
#include "context.bpf.h"

#ifndef CVG_FORK_CHILD_AT
#define CVG_FORK_CHILD_AT 20 /* offset of child_pid in the record of sched_process_fork; kernels differ */
#endif

int tp__sched__sched_process_exit(void *ctx) {
    u64 pid_tgid = bpf_get_current_pid_tgid();
    u32 tgid = pid_tgid >> 32;

    ioctl_calls.delete(&pid_tgid);
    if (is_catching())
        catching.delete(&pid_tgid);
    threads.delete(&pid_tgid);

    if (tgid == (u32)pid_tgid && processes.lookup(&tgid)) {
        struct call_figures figures = {};
        figures.now_ns = bpf_ktime_get_ns();
        figures.cgroup_id = bpf_get_current_cgroup_id();
        figures.pid = tgid;
        figures.source = SOURCE_PROCESS;
        figures.kind = KIND_EXIT;
        figures.device = CVG_UNKNOWN_DEVICE;
        emit(ctx, 0, &figures);
    }
    return 0;
}

static __always_inline void end_all_balances(u64 cgroup_id, u32 tgid) {
    end_api_balances(cgroup_id, tgid, 1);
    for (int device = CVG_UNKNOWN_DEVICE; device < CVG_MAX_DEVICES; device++) {
        struct balance_key key = {};
        key.cgroup_id = cgroup_id;
        key.tgid = tgid;
        key.device = device;
        key.source = SOURCE_BOUNDARY;
        balance_end(&key);
    }
}

static __always_inline void renewed(struct process *process, u32 tgid) {
    process->renewed_ns = bpf_ktime_get_ns();
    process->contexts = 0;
    process->primaries = 0;
    end_all_balances(process->cgroup_id, tgid);
}

/* OVERHEAD: one lookup at every exec of the machine. */
int tp__sched__sched_process_exec(void *ctx) {
    u64 pid_tgid = bpf_get_current_pid_tgid();
    u32 tgid = pid_tgid >> 32;
    struct process *process = processes.lookup(&tgid);
    if (!process)
        return 0;
    renewed(process, tgid);
    u64 cgroup_id = bpf_get_current_cgroup_id();
    if (process->cgroup_id != cgroup_id)
        end_all_balances(cgroup_id, tgid);
    return 0;
}

/* OVERHEAD: one read and one lookup at every fork and every new thread of the machine. */
int tp__sched__sched_process_fork(void *ctx) {
    u32 child;
    if (bpf_probe_read_kernel(&child, sizeof(child), ctx + CVG_FORK_CHILD_AT))
        return 0;
    struct process *process = processes.lookup(&child);
    if (!process)
        return 0;
    renewed(process, child);
    process->first_seen_ns = process->renewed_ns;
    process->cgroup_id = bpf_get_current_cgroup_id(); /* its maker's, where it begins */
    return 0;
}
