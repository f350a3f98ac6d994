/* SPDX-License-Identifier: Apache-2.0 */
/* An allocation of video memory, in whichever command it came; and the older command, NV_ESC_RM_VID_HEAP_CONTROL. */
#ifndef CVG_HEAP_H
#define CVG_HEAP_H

#include <stdbool.h>
#include <stdint.h>

#include "rm.h"

/* Where the driver reads and writes. */
struct allocation {
    const uint64_t *size_bytes; /* what it is, once the driver has answered; null for what is not video memory */
    uint64_t asked_bytes;
    uint64_t alignment;
    const uint32_t *attributes; /* where it is; null: as asked */
    const uint32_t *object;
    uint32_t *status;
};

/* Before the driver is asked: as asked; after it answered: as it is. */
bool allocation_is_on_host(const struct allocation *allocation);

/* Whether the older command allocates an object, and then how. */
bool heap_allocates(struct rm_heap *heap, struct allocation *asked);

/* Whether it frees one, and which. */
bool heap_frees(const struct rm_heap *heap, uint32_t *object);

#endif
