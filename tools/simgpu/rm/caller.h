/* SPDX-License-Identifier: Apache-2.0 */
/* The process that makes a request: who it is, and the memory its pointers point to. */
#ifndef CONVGPU_SIM_RM_CALLER_H
#define CONVGPU_SIM_RM_CALLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* FUSE names the calling thread. Returns its thread group, or 0 when it is gone or in no pid namespace of ours. */
pid_t caller_process(pid_t thread);

/* Whether the thread belongs to the process: one cheap system call, for the usual case that it does. */
bool caller_is_of(pid_t thread, pid_t process);

/* Copy from and to the caller's address space; false: not all of it is mapped so, or the caller is gone. */
bool caller_read(pid_t thread, uint64_t address, void *out, size_t size);
bool caller_write(pid_t thread, uint64_t address, const void *in, size_t size);

#endif
