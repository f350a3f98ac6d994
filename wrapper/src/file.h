/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The open files that clients of the resource manager live by: when the last reference to one goes, the driver ends the
 * clients that were made through it, and all their memory, without a command that the boundary could read.
 *
 * A closed descriptor is not yet a closed file. Others may still refer to it: a duplicate, the child of a fork, another
 * process that was sent it, a mapping, a device file that was tied to it (NV_ESC_REGISTER_FD). None of them can be
 * counted from here, so the kernel is asked: each client has a lock on a byte of its file (an open file description
 * lock), which the kernel drops when the last reference goes and not before. A client whose lock is gone has ended, and
 * what it held is credit at once. While the lock is there, or when the kernel cannot be asked, the memory stays
 * charged: too much rather than too little.
 *
 * Asked when: a descriptor that matters is closed by close, dup2 or dup3 (exact at that moment), and before this
 * process asks the daemon for more. So an end that nobody here sees (fclose, close_range, munmap, the other process's
 * close) is found at the latest before anything is refused, or with the process.
 */
#ifndef CVG_FILE_H
#define CVG_FILE_H

#include <stdbool.h>
#include <stdint.h>

/* The driver made a client through this descriptor. */
void file_watch(int descriptor, uint32_t client);

/* It freed the client by command. */
void file_forget(int descriptor, uint32_t client);

/* It tied this descriptor's file to that of another: clients made through it live by the other one. */
void file_registered(int descriptor);

/* Gives back what ended with its file; true if there is more credit than before. Costs nothing without clients. */
bool file_collect(void);

/* In the child of a fork: the clients are the parent's. */
void file_forget_all(void);

#endif
