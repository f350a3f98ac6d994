/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tree of objects: a client (root) per RM_ESC_ALLOC of a root class, below it devices, below them memory.
 *
 * An object lives until it, one above it, its client, or the descriptor that created the client goes. Memory is charged
 * to the process that created the client. A duplicate shares the physical memory and is charged to nobody while the
 * object that it was made of is there; then it takes the charge over (measured on an H100).
 */
#ifndef CONVGPU_SIM_RM_OBJECT_H
#define CONVGPU_SIM_RM_OBJECT_H

#include "rm_abi.h"
#include "sim_abi.h"

#include <stdint.h>
#include <sys/types.h>

struct client;
struct object;

/* What asks: the descriptor it came through and the process behind it. Compared, never dereferenced here. */
struct asker {
    const void *descriptor;
    pid_t pid; /* thread group id */
};

/* All return an enum rm_status. *handle is in and out: 0 asks for any. */
uint32_t client_create(struct asker asker, uint32_t *handle);
uint32_t object_create(struct asker asker, uint32_t client, uint32_t parent, uint32_t class_id, uint32_t *handle);
uint32_t device_object_create(struct asker asker, uint32_t client, uint32_t parent, uint32_t instance,
                              uint32_t *handle);
/* Rounds *size_bytes up to what is really taken. */
uint32_t memory_object_create(struct asker asker, uint32_t client, uint32_t parent, uint32_t class_id,
                              uint64_t *size_bytes, uint64_t alignment, uint32_t *handle);
uint32_t object_duplicate(struct asker asker, uint32_t client, uint32_t parent, uint32_t source_client,
                          uint32_t source_object, uint32_t *handle);
/* Frees the object and all below it; handle == client frees the client. */
uint32_t object_free(struct asker asker, uint32_t client, uint32_t handle);
uint32_t object_check(struct asker asker, uint32_t client, uint32_t handle);

/* Frees every client that was created through the descriptor. */
void clients_release(const void *descriptor);

/*
 * The processes that hold memory of a device, oldest client first: skips `first`, writes up to `room`, returns how many
 * there are in all.
 */
unsigned processes_list(int device, unsigned first, struct sim_process *out, unsigned room);

#endif
