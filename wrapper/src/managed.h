/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Managed memory: it moves between host and device without passing the boundary, and NVML shows it with no process. So
 * it is charged at the API, as asked, from the call that allocates it to the one that frees it or ends its context.
 */
#ifndef CVG_MANAGED_H
#define CVG_MANAGED_H

#include <stdbool.h>

#include "driver.h"
#include "reserve.h"

struct managed;

/*
 * After a driver call that gave `pointer`, and before charge_attempt ends it: if the boundary cannot read this driver's
 * allocations and saw nothing of this one, the call's reservation is kept as its charge until the pointer is freed.
 */
void managed_estimate(const struct charge *charge, CUdeviceptr pointer);

/*
 * Takes a pointer out of the table before the driver frees it: from the moment it does, another thread may be given the
 * same one. Null if it is not managed; costs one load while a process has no managed memory.
 */
struct managed *managed_detach(CUdeviceptr pointer);

/* The driver freed it (what it held is credit again), or did not. */
void managed_end(struct managed *managed, bool freed);

/* A context is gone, and all that was allocated in it. */
void managed_end_context(CUcontext context);

/* In the child of a fork: nothing is its own. */
void managed_forget_all(void);

#endif
