/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Video memory that this process is charged for, however many of its objects refer to it: the object that took it,
 * duplicates of that, and open files to which it was exported. It is given back when the last of them ends.
 */
#ifndef CVG_HOLDING_H
#define CVG_HOLDING_H

#include <stdint.h>

#include "../include/convgpu_abi.h"

struct holding;

/* Video memory that ended, for each device slot. */
struct object_bytes {
    uint64_t size_bytes[CVG_DEVICES_MAX];
    uint64_t objects[CVG_DEVICES_MAX];
};

/* With one reference; null if there is no memory for it. */
struct holding *holding_new(uint32_t slot, uint64_t size_bytes);

/* One reference more. Null stays null, here and below. */
struct holding *holding_share(struct holding *holding);

/* One less; with the last, what it held is added to *ended. */
void holding_drop(struct holding *holding, struct object_bytes *ended);

#endif
