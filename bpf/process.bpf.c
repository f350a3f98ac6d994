/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The end of threads and processes.
 *
 * A thread that is killed inside a call never returns from it: what was remembered for the return goes now.
 *
 * A process has ended when its last thread has, and only kernels from 6.16 on say which one is the last. So the event
 * is sent when the first thread ends, and user space holds it back until /proc agrees. By then the kernel has closed
 * the files of the process, and the driver has freed what it held.
 */
#include "api.bpf.h"
#include "common.bpf.h"

int tp__sched__sched_process_exit(void *ctx) {
    u64 pid_tgid = bpf_get_current_pid_tgid();
    u32 tgid = pid_tgid >> 32;

    ioctl_calls.delete(&pid_tgid);
    struct api_call_key key = {};
    key.pid_tgid = pid_tgid;
    key.source = SOURCE_DRIVER;
    api_calls.delete(&key);
    key.source = SOURCE_RUNTIME;
    api_calls.delete(&key);

    if (tgid == (u32)pid_tgid && processes.lookup(&tgid))
        emit(bpf_get_current_cgroup_id(), tgid, SOURCE_PROCESS, KIND_EXIT, 0, 0, CVG_UNKNOWN_DEVICE);
    return 0;
}
