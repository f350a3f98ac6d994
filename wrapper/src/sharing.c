/* SPDX-License-Identifier: Apache-2.0 */
#include "sharing.h"

#include "client.h"
#include "file.h"
#include "holding.h"
#include "objects.h"
#include "tally.h"

/* What nobody here holds needs no entry. */
static void note(struct object_name name, uint32_t parent, struct holding *holding) {
    const struct object_made made = {.name = name, .parent = parent, .holding = holding};
    struct object_bytes ended = {0};
    if (holding == NULL)
        return;
    client_watch_fork();
    (void)objects_insert(&made, &ended);
    (void)tally_ended(&ended);
}

void sharing_duplicated(const struct rm_duplicate *block) {
    note((struct object_name){block->client, block->object}, block->parent,
         objects_holding((struct object_name){block->source_client, block->source_object}));
}

static void exported(uint32_t client, int descriptor, uint32_t place, uint32_t object) {
    file_keep(descriptor, client, place, object != 0 ? objects_holding((struct object_name){client, object}) : NULL);
}

static void imported(uint32_t client, uint32_t parent, int descriptor, uint32_t place, uint32_t object) {
    note((struct object_name){client, object}, parent, file_kept(descriptor, place));
}

void sharing_controlled(const struct rm_control *block) {
    const void *parameters = (const void *)(uintptr_t)block->parameters;
    if (block->command == RM_CONTROL_EXPORT_OBJECTS && block->parameters_bytes == sizeof(struct rm_export)) {
        const struct rm_export *list = parameters;
        for (uint32_t i = 0; i < list->object_count && i < RM_EXPORT_OBJECTS_MAX; i++)
            exported(block->client, list->descriptor, list->index + i, list->objects[i]);
    } else if (block->command == RM_CONTROL_IMPORT_OBJECTS && block->parameters_bytes == sizeof(struct rm_import)) {
        const struct rm_import *list = parameters;
        for (uint32_t i = 0; i < list->object_count && i < RM_IMPORT_OBJECTS_MAX; i++)
            if (list->types[i] != 0)
                imported(block->client, list->parent, list->descriptor, list->index + i, list->objects[i]);
    } else if (block->command == RM_CONTROL_EXPORT_OBJECT && block->parameters_bytes == sizeof(struct rm_export_one)) {
        const struct rm_export_one *one = parameters;
        exported(block->client, one->descriptor, 0, one->object);
    } else if (block->command == RM_CONTROL_IMPORT_OBJECT && block->parameters_bytes == sizeof(struct rm_import_one)) {
        const struct rm_import_one *one = parameters;
        imported(block->client, one->parent, one->descriptor, 0, one->object);
    }
}
