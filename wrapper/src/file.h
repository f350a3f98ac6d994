/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The open files that memory lives by. When the last reference to one goes, the driver ends the clients that were made
 * through it, and all their memory, without a command that the boundary could read; and it lets go of what was exported
 * to the file.
 *
 * A closed descriptor is not yet a closed file. Others may still refer to it: a duplicate, the child of a fork, another
 * process that was sent it, a mapping, a device file that was tied to it (NV_ESC_REGISTER_FD). None of them can be
 * counted from here, so the kernel is asked: each watched file has a lock on a byte of its own (an open file
 * description lock), which the kernel drops when the last reference goes and not before. What lived by a file whose
 * lock is gone has ended, and is credit at once. While the lock is there, or when the kernel cannot be asked, the
 * memory stays charged: too much rather than too little.
 *
 * Asked when: a descriptor that matters is closed by close, dup2 or dup3 (exact at that moment), when memory is freed
 * that was exported, and before this process asks the daemon for more. So an end that nobody here sees (fclose,
 * close_range, munmap, the other process's close) is found at the latest before anything is refused, or with the
 * process.
 */
#ifndef CVG_FILE_H
#define CVG_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "holding.h"

/* The driver made a client through this descriptor. */
void file_watch(int descriptor, uint32_t client);

/* It freed the client by command. */
void file_forget(int descriptor, uint32_t client);

/* A client's memory was exported to a place in a file, which keeps it; takes over the holding. Null: it is empty now.
 */
void file_keep(int descriptor, uint32_t client, uint32_t place, struct holding *holding);

/* A share of what was exported there by this process; null if nothing was. */
struct holding *file_kept(int descriptor, uint32_t place);

/* Gives back what ended with its file; true if there is more credit than before. Costs nothing without files. */
bool file_collect(void);

/* Files that were seen to lose a descriptor and are open all the same. */
extern _Atomic uint32_t file_suspects;

/* A descriptor is about to go: true if a watched file may go with it. */
bool file_suspect(int descriptor);

/* In the child of a fork: the files' memory is the parent's. */
void file_forget_all(void);

#endif
