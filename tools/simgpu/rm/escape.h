/* SPDX-License-Identifier: Apache-2.0 */
/* From an ioctl's number and block to the objects, and back into the block. */
#ifndef CONVGPU_SIM_RM_ESCAPE_H
#define CONVGPU_SIM_RM_ESCAPE_H

#include "object.h"

#include <stddef.h>

#define ESCAPE_BLOCK_MAX 4096 /* largest block inside RM_ESC_XFER_CMD */

struct request {
    struct asker asker;
    pid_t thread; /* whose memory the pointers in the block mean */
};

/*
 * Handles one escape; the block is changed in place, 8-byte aligned. Returns 0, or an errno as the ioctl's result. What
 * the resource manager refuses is a status in the block and 0, as with the real one.
 */
int escape_handle(const struct request *request, unsigned escape, void *block, size_t size);

#endif
