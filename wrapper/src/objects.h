/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The resource-manager objects of this process, as trees: client, device, and whatever hangs below. Freeing an object
 * frees all below it, so the bytes of video memory that a free gives back are those of its whole subtree.
 */
#ifndef CVG_OBJECTS_H
#define CVG_OBJECTS_H

#include <stdbool.h>
#include <stdint.h>

#include "holding.h"

struct object;

/* Names an object. The handle of a client is also its own object handle. */
struct object_name {
    uint32_t client;
    uint32_t handle;
};

/* What the driver just made. */
struct object_made {
    struct object_name name;
    uint32_t parent;         /* handle */
    bool has_instance;       /* a device: */
    uint32_t instance;       /* its instance number */
    struct holding *holding; /* video memory that is charged; null for anything else */
};

/*
 * Books an object, and takes over its holding. If one of the same name is known, the driver has ended it without our
 * noticing (a closed descriptor): its tree goes, and what it held is added to *ended. False: no memory for the entry.
 */
bool objects_insert(const struct object_made *made, struct object_bytes *ended);

/*
 * Takes an object and all below it out of the table, before the driver frees it: from the moment it does, another
 * thread may be given the same handle. Null if it is not known. Then exactly one of:
 */
struct object *objects_detach(struct object_name name);
void objects_restore(struct object *tree);                             /* the driver did not free it */
void objects_destroy(struct object *tree, struct object_bytes *ended); /* it did: what it held is added to *ended */

/* A share of what an object holds; null if it is not known or holds no memory. */
struct holding *objects_holding(struct object_name name);

/* The instance of the device that an object, given by its parent, belongs to; false if no ancestor is a device. */
bool objects_device_instance(struct object_name parent, uint32_t *instance);

/* In the child of a fork: the objects are the parent's. */
void objects_forget_all(void);

#endif
