/* SPDX-License-Identifier: Apache-2.0 */
#include "holding.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

struct holding {
    _Atomic uint32_t references;
    uint32_t slot;
    uint64_t size_bytes;
};

struct holding *holding_new(uint32_t slot, uint64_t size_bytes) {
    struct holding *holding = malloc(sizeof(*holding));
    if (holding == NULL)
        return NULL;
    atomic_init(&holding->references, 1);
    holding->slot = slot;
    holding->size_bytes = size_bytes;
    return holding;
}

struct holding *holding_share(struct holding *holding) {
    if (holding != NULL)
        atomic_fetch_add_explicit(&holding->references, 1, memory_order_relaxed);
    return holding;
}

void holding_drop(struct holding *holding, struct object_bytes *ended) {
    if (holding == NULL || atomic_fetch_sub_explicit(&holding->references, 1, memory_order_acq_rel) != 1)
        return;
    ended->size_bytes[holding->slot] += holding->size_bytes;
    ended->objects[holding->slot]++;
    free(holding);
}
