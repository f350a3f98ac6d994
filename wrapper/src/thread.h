/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one thread carries from the hook of a driver call (reserve.c) to the hook of ioctl below it (boundary.c): the
 * driver's work in between runs on the same thread.
 */
#ifndef CVG_THREAD_H
#define CVG_THREAD_H

#include <stdint.h>

#define CVG_SLOT_NONE UINT32_MAX

struct thread_state {
    uint32_t depth;          /* hooks on this thread's stack; a driver call made inside another goes straight on */
    uint32_t slot;           /* device of the reservation */
    uint64_t reserved_bytes; /* the reservation: what is left of it */

    uint64_t settled_bytes;      /* physical bytes that this call has taken so far, less what it gave back */
    uint64_t settled_peak_bytes; /* highest settled_bytes */
    uint64_t refused_bytes;      /* largest request that the boundary refused during this call */
    uint32_t refused_slot;       /* its device */

    uint32_t released_slots; /* bit n: credit of slot n grew while somebody waits, to be announced after the call */
};

/* initial-exec: this library is loaded with the program, so there is room, and no access calls the loader. */
extern __thread struct thread_state thread_state __attribute__((tls_model("initial-exec")));

#endif
