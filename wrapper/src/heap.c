/* SPDX-License-Identifier: Apache-2.0 */
#include "heap.h"

#include <stddef.h>

bool allocation_is_on_host(const struct allocation *allocation) {
    return allocation->attributes != NULL && RM_HEAP_LOCATION(*allocation->attributes) == RM_HEAP_LOCATION_HOST;
}

bool heap_allocates(struct rm_heap *heap, struct allocation *asked) {
    *asked = (struct allocation){.object = &heap->data.sized.memory, .status = &heap->status};
    switch (heap->function) {
    case RM_HEAP_ALLOC_SIZE:
        asked->asked_bytes = heap->data.sized.size_bytes;
        asked->alignment = heap->data.sized.alignment;
        asked->size_bytes = &heap->data.sized.size_bytes;
        asked->attributes = &heap->data.sized.attributes;
        break;
    case RM_HEAP_ALLOC_SIZE_RANGE:
        asked->asked_bytes = heap->data.ranged.size_bytes;
        asked->alignment = heap->data.ranged.alignment;
        asked->size_bytes = &heap->data.ranged.size_bytes;
        asked->attributes = &heap->data.ranged.attributes;
        break;
    case RM_HEAP_ALLOC_TILED_PITCH_HEIGHT:
        asked->asked_bytes = (uint64_t)heap->data.tiled.height * (uint64_t)(int64_t)heap->data.tiled.pitch_bytes;
        asked->alignment = heap->data.tiled.alignment;
        asked->size_bytes = &heap->data.tiled.size_bytes;
        asked->attributes = &heap->data.tiled.attributes;
        break;
    default:
        return false;
    }
    if ((heap->data.sized.flags & RM_ALLOC_FLAG_VIRTUAL) != 0 || allocation_is_on_host(asked))
        asked->size_bytes = NULL;
    return true;
}

bool heap_frees(const struct rm_heap *heap, uint32_t *object) {
    switch (heap->function) {
    case RM_HEAP_FREE:
        *object = heap->data.sized.memory;
        return true;
    case RM_HEAP_HW_FREE: /* frees any object */
        *object = heap->data.resource_handle;
        return true;
    default:
        return false;
    }
}
