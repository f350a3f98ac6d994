/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE

#include "caller.h"

#include <stdio.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

pid_t caller_process(pid_t thread) {
    char path[64], line[128];
    pid_t process = 0;
    FILE *status;

    if (thread <= 0)
        return 0;
    snprintf(path, sizeof(path), "/proc/%d/status", thread);
    status = fopen(path, "re");
    if (!status)
        return 0;
    while (!process && fgets(line, sizeof(line), status))
        if (sscanf(line, "Tgid: %d", &process) != 1)
            process = 0;
    fclose(status);
    return process;
}

bool caller_is_of(pid_t thread, pid_t process) {
    return thread > 0 && process > 0 && syscall(SYS_tgkill, process, thread, 0) == 0; /* signal 0: only asks */
}

bool caller_read(pid_t thread, uint64_t address, void *out, size_t size) {
    struct iovec local = {out, size}, remote = {(void *)(uintptr_t)address, size};

    return process_vm_readv(thread, &local, 1, &remote, 1, 0) == (ssize_t)size;
}

bool caller_write(pid_t thread, uint64_t address, const void *in, size_t size) {
    struct iovec local = {(void *)(uintptr_t)in, size}, remote = {(void *)(uintptr_t)address, size};

    return process_vm_writev(thread, &local, 1, &remote, 1, 0) == (ssize_t)size;
}
