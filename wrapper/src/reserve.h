/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver call that takes device memory. Here one can wait: the driver holds no lock yet, other threads go on. A hook
 * reads
 *
 *     struct charge charge;
 *     if (!charge_begin(&charge, CVG_API_name))
 *         return driver()->name(...);
 *     charge_expect(&charge, slot, size_bytes);       if the size can be told beforehand
 *     CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
 *     while (charge_attempt(&charge, &result))
 *         result = driver()->name(...);
 *     return result;
 */
#ifndef CVG_RESERVE_H
#define CVG_RESERVE_H

#include <stdbool.h>
#include <stdint.h>

#include "driver.h"
#include "thread.h"

struct charge {
    uint32_t api;
    uint32_t slot;
    uint64_t need_bytes;    /* to be reserved before the next attempt */
    uint64_t managed_bytes; /* of need_bytes: not for the boundary, but kept by charge_keep_managed */
    uint64_t kept_bytes;    /* of managed_bytes: reserved and not yet kept */
    uint64_t since_ns;      /* when the daemon was first asked */
    CUstream stream;
    uint32_t attempts;
    bool is_guess; /* need_bytes may be more than the call will take: a denial of it proves nothing */
    bool is_context;
    bool has_stream;
};

/* False: the call is none of ours (not guarded, or made inside another hook), and goes straight to the driver. */
bool charge_begin(struct charge *charge, enum cvg_api api);

/* What the call will take of a device, in physical bytes. */
void charge_expect(struct charge *charge, uint32_t slot, uint64_t size_bytes);

/* A context: taken as the largest that was measured on this device; nothing is expected if `is_made` already. */
void charge_expect_context(struct charge *charge, uint32_t slot, bool is_made);

/* Managed memory: reserved apart, and when the driver gave it, kept. False: nothing was reserved for it. */
void charge_expect_managed(struct charge *charge, uint32_t slot, uint64_t size_bytes);
bool charge_keep_managed(struct charge *charge);

/* The call is made on a stream: if that captures, it does not wait. */
void charge_on_stream(struct charge *charge, CUstream stream);

/* Whether to call the driver (again). False: *result is what the program gets, and everything is put back in order. */
bool charge_attempt(struct charge *charge, CUresult *result);

/* Around a hook that takes no memory: announcements of freed memory are put off until the driver has returned. */
void hook_enter(void);
void hook_leave(void);

#endif
