/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The resource-manager objects of this process, as trees: client, device, and whatever hangs below. Freeing an object
 * frees all below it, so the bytes of video memory that a free gives back are those of its whole subtree.
 */
#ifndef CVG_OBJECTS_H
#define CVG_OBJECTS_H

#include <stdbool.h>
#include <stdint.h>

#include "../include/convgpu_abi.h"

struct object;

/* Names an object. The handle of a client is also its own object handle. */
struct object_name {
    uint32_t client;
    uint32_t handle;
};

/* What the driver just made. */
struct object_made {
    struct object_name name;
    uint32_t parent;        /* handle */
    bool has_instance;      /* a device: */
    uint32_t instance;      /* its instance number */
    bool is_charged;        /* video memory: */
    uint32_t slot;          /* device it is charged to */
    uint64_t charged_bytes; /* physical size */
};

/* Video memory that ended, for each device slot. */
struct object_bytes {
    uint64_t size_bytes[CVG_DEVICES_MAX];
    uint64_t objects[CVG_DEVICES_MAX];
};

/*
 * Books an object. If one of the same name is known, the driver has ended it without our noticing (a closed
 * descriptor): its tree goes, and what it held is added to *ended. False: no memory for the entry.
 */
bool objects_insert(const struct object_made *made, struct object_bytes *ended);

/*
 * Takes an object and all below it out of the table, before the driver frees it: from the moment it does, another
 * thread may be given the same handle. Null if it is not known. Then exactly one of:
 */
struct object *objects_detach(struct object_name name);
void objects_restore(struct object *tree);                             /* the driver did not free it */
void objects_destroy(struct object *tree, struct object_bytes *ended); /* it did: what it held is added to *ended */

/* The instance of the device that an object, given by its parent, belongs to; false if no ancestor is a device. */
bool objects_device_instance(struct object_name parent, uint32_t *instance);

/* In the child of a fork: the objects are the parent's. */
void objects_forget_all(void);

#endif
