/* SPDX-License-Identifier: Apache-2.0 */
#include "escape.h"

#include "caller.h"
#include "control.h"
#include "device.h"
#include "rm_abi.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* What both forms of RM_ESC_ALLOC have in common. */
struct allocation {
    uint32_t client;
    uint32_t parent;
    uint32_t object;
    uint32_t class_id;
    uint64_t parameters;
};

static bool is_root_class(uint32_t class_id) {
    return class_id == RM_CLASS_ROOT || class_id == RM_CLASS_ROOT_NON_PRIV || class_id == RM_CLASS_ROOT_CLIENT;
}

static uint32_t allocate_device(const struct request *request, struct allocation *allocation) {
    uint32_t instance = 0; /* the driver's default where there are no parameters */

    if (allocation->parameters && !caller_read(request->thread, allocation->parameters, &instance, sizeof(instance)))
        return RM_ERR_INVALID_ADDRESS;
    return device_object_create(request->asker, allocation->client, allocation->parent, instance, &allocation->object);
}

static uint32_t allocate_memory(const struct request *request, struct allocation *allocation) {
    const size_t size_offset = offsetof(struct rm_memory_parameters, size_bytes);
    uint8_t parameters[sizeof(struct rm_memory_parameters)] = {0};
    const size_t alignment_offset = offsetof(struct rm_memory_parameters, alignment);
    uint32_t flags, status;
    uint64_t size_bytes, alignment;

    if (!allocation->parameters)
        return RM_ERR_INVALID_POINTER;
    /* Up to the alignment only: what is behind it differs between drivers. */
    if (!caller_read(request->thread, allocation->parameters, parameters, alignment_offset + sizeof(alignment)))
        return RM_ERR_INVALID_ADDRESS;
    memcpy(&flags, parameters + offsetof(struct rm_memory_parameters, flags), sizeof(flags));
    memcpy(&size_bytes, parameters + size_offset, sizeof(size_bytes));
    memcpy(&alignment, parameters + alignment_offset, sizeof(alignment));
    if (alignment & (alignment - 1))
        return RM_ERR_INVALID_ARGUMENT;
    if (flags & RM_MEMORY_FLAG_VIRTUAL)
        return object_create(request->asker, allocation->client, allocation->parent, allocation->class_id,
                             &allocation->object);
    status = memory_object_create(request->asker, allocation->client, allocation->parent, allocation->class_id,
                                  &size_bytes, alignment, &allocation->object);
    if (status == RM_OK &&
        !caller_write(request->thread, allocation->parameters + size_offset, &size_bytes, sizeof(size_bytes))) {
        object_free(request->asker, allocation->client, allocation->object);
        status = RM_ERR_INVALID_ADDRESS;
    }
    return status;
}

static uint32_t allocate(const struct request *request, struct allocation *allocation) {
    if (is_root_class(allocation->class_id))
        return client_create(request->asker, &allocation->object);
    if (allocation->class_id == RM_CLASS_DEVICE)
        return allocate_device(request, allocation);
    if (allocation->class_id == RM_CLASS_MEMORY_LOCAL)
        return allocate_memory(request, allocation);
    return object_create(request->asker, allocation->client, allocation->parent, allocation->class_id,
                         &allocation->object);
}

static void handle_alloc(const struct request *request, void *block) {
    struct rm_alloc *alloc = block;
    struct allocation allocation = {alloc->client, alloc->parent, alloc->object, alloc->class_id, alloc->parameters};

    if (alloc->flags & RM_ALLOC_SERIALISED) {
        alloc->status = RM_ERR_NOT_SUPPORTED;
        return;
    }
    alloc->status = allocate(request, &allocation);
    alloc->object = allocation.object;
}

static void handle_alloc_short(const struct request *request, void *block) {
    struct rm_alloc_short *alloc = block;
    struct allocation allocation = {alloc->client, alloc->parent, alloc->object, alloc->class_id, alloc->parameters};

    alloc->status = allocate(request, &allocation);
    alloc->object = allocation.object;
}

static void handle_alloc_memory(const struct request *request, void *block) {
    struct rm_alloc_memory *alloc = block;
    uint64_t size_bytes = alloc->limit + 1;

    if (alloc->class_id != RM_CLASS_MEMORY_LOCAL) {
        alloc->status = object_create(request->asker, alloc->client, alloc->parent, alloc->class_id, &alloc->object);
        return;
    }
    alloc->status = memory_object_create(request->asker, alloc->client, alloc->parent, alloc->class_id, &size_bytes, 0,
                                         &alloc->object);
    if (alloc->status == RM_OK)
        alloc->limit = size_bytes - 1;
}

static void handle_free(const struct request *request, void *block) {
    struct rm_free *free_block = block;

    free_block->status = object_free(request->asker, free_block->client, free_block->object);
}

static void handle_dup_object(const struct request *request, void *block) {
    struct rm_dup_object *dup = block;

    dup->status = object_duplicate(request->asker, dup->client, dup->parent, dup->source_client, dup->source_object,
                                   &dup->object);
}

/* The legacy way to memory, never seen from today's libcuda: refused rather than half done. */
static void handle_vid_heap_control(const struct request *request, void *block) {
    const uint32_t status = RM_ERR_NOT_SUPPORTED;

    (void)request;
    memcpy((char *)block + 20, &status, sizeof(status)); /* NVOS32: status @20 */
}

static const struct {
    unsigned escape;
    size_t size;
    void (*handle)(const struct request *, void *);
} escapes[] = {
    {RM_ESC_ALLOC, sizeof(struct rm_alloc), handle_alloc},
    {RM_ESC_ALLOC, sizeof(struct rm_alloc_short), handle_alloc_short},
    {RM_ESC_ALLOC_MEMORY, sizeof(struct rm_alloc_memory), handle_alloc_memory},
    {RM_ESC_FREE, sizeof(struct rm_free), handle_free},
    {RM_ESC_CONTROL, sizeof(struct rm_control), handle_control},
    {RM_ESC_DUP_OBJECT, sizeof(struct rm_dup_object), handle_dup_object},
    {RM_ESC_VID_HEAP_CONTROL, 184, handle_vid_heap_control},
};

static int handle_xfer(const struct request *request, const struct rm_xfer *xfer) {
    _Alignas(8) uint8_t block[ESCAPE_BLOCK_MAX];
    int result;

    if (xfer->escape == RM_ESC_XFER_CMD || xfer->size > sizeof(block))
        return EINVAL;
    if (!caller_read(request->thread, xfer->block, block, xfer->size))
        return EFAULT;
    result = escape_handle(request, xfer->escape, block, xfer->size);
    if (result == 0 && !caller_write(request->thread, xfer->block, block, xfer->size))
        return EFAULT;
    return result;
}

int escape_handle(const struct request *request, unsigned escape, void *block, size_t size) {
    bool known = false;

    if (escape == RM_ESC_XFER_CMD)
        return size == sizeof(struct rm_xfer) ? handle_xfer(request, block) : EINVAL;
    if (escape == SIM_ESC_STATS)
        return size == sizeof(struct sim_stats) ? stats_answer(block) : EINVAL;
    for (size_t i = 0; i < sizeof(escapes) / sizeof(escapes[0]); i++) {
        if (escapes[i].escape != escape)
            continue;
        known = true;
        if (escapes[i].size == size) {
            escapes[i].handle(request, block);
            return 0;
        }
    }
    /* Mapping, versions, events, ...: accepted, none of them takes video memory. */
    return known ? EINVAL : 0;
}
