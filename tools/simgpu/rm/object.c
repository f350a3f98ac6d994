/* SPDX-License-Identifier: Apache-2.0 */
#include "object.h"

#include "device.h"

#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#define PAGE_BYTES (64ull * 1024) /* the driver rounds video memory up to this, or to a larger alignment */
/*
 * Client numbers are global to a host, as the real driver's: one number names one client for every observer. Several
 * simulated drivers may run at once, so each begins in a range of its own, named by its pid.
 */
#define CLIENT_RANGE(pid) (0xc0000001u | ((uint32_t)(pid)&0x1fffu) << 16)
#define FIRST_OBJECT_HANDLE 0xcaf00001u /* given where the caller asks for any */
#define OBJECTS_MAX (1u << 22)          /* a client gone wild must not take the host's memory */
#define BUCKETS_MIN 1024u

/* Physical memory, shared by an object and its duplicates. */
struct memory {
    unsigned references;
    int device;
    uint64_t size_bytes;
};

struct object {
    uint32_t handle;
    uint32_t class_id;
    int device; /* DEVICE_NONE above and beside devices */
    bool charged;
    struct memory *memory;
    struct object *next_sharer, *previous_sharer; /* a ring of those that share the memory */
    struct client *client;
    struct object *parent, *children, *next, *previous; /* the tree */
    struct object *chain;                               /* the hash table */
};

struct client {
    struct object root; /* handle: the client's */
    struct asker asker;
    uint32_t next_handle;
    uint64_t used_bytes[SIM_GPUS_MAX];
    struct client *next, *previous;
};

static struct client *clients_first, *clients_last;
static uint32_t next_client_handle;

/* Every object of every client by (client, handle); a client's root by (handle, handle). */
static struct object **buckets;
static unsigned bucket_count, object_count;

static unsigned bucket_of(uint32_t client, uint32_t handle) {
    uint64_t key = ((uint64_t)client << 32 | handle) * 0x9e3779b97f4a7c15ull; /* Fibonacci hashing */

    return (unsigned)(key >> 32) & (bucket_count - 1);
}

static struct object *find(uint32_t client, uint32_t handle) {
    struct object *object = bucket_count ? buckets[bucket_of(client, handle)] : NULL;

    while (object && (object->handle != handle || object->client->root.handle != client))
        object = object->chain;
    return object;
}

static void insert(struct object *object) {
    struct object **bucket = &buckets[bucket_of(object->client->root.handle, object->handle)];

    object->chain = *bucket;
    *bucket = object;
}

/* Makes room for one more object; false: there is none. */
static bool grow(void) {
    struct object **old = buckets, **fresh;
    unsigned old_count = bucket_count;

    if (object_count == OBJECTS_MAX)
        return false;
    if (object_count < bucket_count)
        return true;
    fresh = calloc(bucket_count ? bucket_count * 2 : BUCKETS_MIN, sizeof(struct object *));
    if (!fresh)
        return false;
    buckets = fresh;
    bucket_count = old_count ? old_count * 2 : BUCKETS_MIN;
    for (unsigned i = 0; i < old_count; i++) {
        for (struct object *object = old[i], *chain; object; object = chain) {
            chain = object->chain;
            insert(object);
        }
    }
    free(old);
    return true;
}

static void enter(struct object *object, struct object *parent) {
    object->parent = parent;
    if (parent) {
        object->next = parent->children;
        if (object->next)
            object->next->previous = object;
        parent->children = object;
    }
    insert(object);
    object_count++;
}

static void leave(struct object *object) {
    struct object **link = &buckets[bucket_of(object->client->root.handle, object->handle)];

    while (*link != object)
        link = &(*link)->chain;
    *link = object->chain;
    if (object->next)
        object->next->previous = object->previous;
    if (object->previous)
        object->previous->next = object->next;
    else if (object->parent)
        object->parent->children = object->next;
    object_count--;
}

static void charge(struct object *object) {
    object->charged = true;
    object->client->used_bytes[object->memory->device] += object->memory->size_bytes;
}

/* The charge goes on to the next in the ring, which is the duplicate that was made last of this one. */
static void drop_memory(struct object *object) {
    struct memory *memory = object->memory;

    if (!memory)
        return;
    if (object->charged)
        object->client->used_bytes[memory->device] -= memory->size_bytes;
    if (object->charged && object->next_sharer != object)
        charge(object->next_sharer);
    object->next_sharer->previous_sharer = object->previous_sharer;
    object->previous_sharer->next_sharer = object->next_sharer;
    if (--memory->references == 0) {
        device_give(memory->device, memory->size_bytes);
        free(memory);
    }
}

static void destroy_leaf(struct object *object) {
    struct client *client = object->client;

    drop_memory(object);
    leave(object);
    if (object != &client->root) {
        free(object);
        return;
    }
    *(client->previous ? &client->previous->next : &clients_first) = client->next;
    *(client->next ? &client->next->previous : &clients_last) = client->previous;
    free(client);
}

/* Leaves first, without recursion: a caller decides how deep the tree is. */
static void destroy(struct object *top) {
    struct object *object = top;

    for (;;) {
        struct object *parent = object->parent;
        bool done = object == top;

        if (object->children) {
            object = object->children;
            continue;
        }
        destroy_leaf(object);
        if (done)
            return;
        object = parent;
    }
}

/* The client, if the asker may use it: its creator's process, or anybody through its creator's descriptor. */
static struct client *usable_client(struct asker asker, uint32_t handle) {
    struct object *root = find(handle, handle);
    struct client *client = root ? root->client : NULL;

    if (!client || (client->asker.pid != asker.pid && client->asker.descriptor != asker.descriptor))
        return NULL;
    return client;
}

uint32_t client_create(struct asker asker, uint32_t *handle) {
    struct client *client;

    if (*handle && find(*handle, *handle))
        return RM_ERR_INSERT_DUPLICATE_NAME;
    client = grow() ? calloc(1, sizeof(*client)) : NULL;
    if (!client)
        return RM_ERR_INSUFFICIENT_RESOURCES;
    if (!next_client_handle)
        next_client_handle = CLIENT_RANGE(getpid());
    while (!*handle || find(*handle, *handle))
        *handle = next_client_handle++;
    client->asker = asker;
    client->next_handle = FIRST_OBJECT_HANDLE;
    client->root.handle = *handle;
    client->root.class_id = RM_CLASS_ROOT_CLIENT;
    client->root.device = DEVICE_NONE;
    client->root.client = client;
    enter(&client->root, NULL);
    client->previous = clients_last;
    *(clients_last ? &clients_last->next : &clients_first) = client;
    clients_last = client;
    return RM_OK;
}

static uint32_t create(struct asker asker, uint32_t client_handle, uint32_t parent_handle, uint32_t class_id,
                       uint32_t *handle, struct object **out) {
    struct client *client = usable_client(asker, client_handle);
    struct object *parent, *object;

    if (!client)
        return RM_ERR_INVALID_CLIENT;
    parent = find(client_handle, parent_handle);
    if (!parent)
        return RM_ERR_INVALID_OBJECT_PARENT;
    if (*handle && find(client_handle, *handle))
        return RM_ERR_INSERT_DUPLICATE_NAME;
    object = grow() ? calloc(1, sizeof(*object)) : NULL;
    if (!object)
        return RM_ERR_INSUFFICIENT_RESOURCES;
    while (!*handle || find(client_handle, *handle))
        *handle = client->next_handle++;
    object->handle = *handle;
    object->class_id = class_id;
    object->device = parent->device;
    object->client = client;
    enter(object, parent);
    *out = object;
    return RM_OK;
}

uint32_t object_create(struct asker asker, uint32_t client, uint32_t parent, uint32_t class_id, uint32_t *handle) {
    struct object *object;

    return create(asker, client, parent, class_id, handle, &object);
}

uint32_t device_object_create(struct asker asker, uint32_t client, uint32_t parent, uint32_t instance,
                              uint32_t *handle) {
    int device = device_index_of_instance(instance);
    struct object *object;
    uint32_t status;

    if (device == DEVICE_NONE)
        return RM_ERR_INVALID_DEVICE;
    status = create(asker, client, parent, RM_CLASS_DEVICE, handle, &object);
    if (status == RM_OK)
        object->device = device;
    return status;
}

uint32_t memory_object_create(struct asker asker, uint32_t client, uint32_t parent, uint32_t class_id,
                              uint64_t *size_bytes, uint64_t alignment, uint32_t *handle) {
    uint32_t asked_handle = *handle, status;
    struct memory *memory;
    struct object *object;
    uint64_t taken_bytes, page_bytes = alignment > PAGE_BYTES ? alignment : PAGE_BYTES;

    if (*size_bytes == 0)
        return RM_ERR_INVALID_ARGUMENT;
    if (*size_bytes > UINT64_MAX - page_bytes)
        return RM_ERR_NO_MEMORY;
    taken_bytes = (*size_bytes + page_bytes - 1) / page_bytes * page_bytes;
    memory = calloc(1, sizeof(*memory));
    if (!memory)
        return RM_ERR_INSUFFICIENT_RESOURCES;
    status = create(asker, client, parent, class_id, handle, &object);
    if (status != RM_OK) {
        free(memory);
        return status;
    }
    if (object->device == DEVICE_NONE)
        status = RM_ERR_INVALID_OBJECT_PARENT; /* no device above it, so no video memory to take */
    else if (!device_take(object->device, taken_bytes))
        status = RM_ERR_NO_MEMORY;
    if (status != RM_OK) {
        destroy(object);
        free(memory);
        *handle = asked_handle;
        return status;
    }
    memory->references = 1;
    memory->device = object->device;
    memory->size_bytes = taken_bytes;
    object->memory = memory;
    object->next_sharer = object->previous_sharer = object;
    charge(object);
    *size_bytes = taken_bytes;
    return RM_OK;
}

uint32_t object_duplicate(struct asker asker, uint32_t client, uint32_t parent, uint32_t source_client,
                          uint32_t source_object, uint32_t *handle) {
    struct object *source = find(source_client, source_object), *object;
    uint32_t status;

    if (!source)
        return RM_ERR_OBJECT_NOT_FOUND;
    status = create(asker, client, parent, source->class_id, handle, &object);
    if (status == RM_OK && source->memory) {
        object->memory = source->memory;
        object->memory->references++;
        object->next_sharer = source->next_sharer;
        object->previous_sharer = source;
        source->next_sharer->previous_sharer = object;
        source->next_sharer = object;
    }
    return status;
}

uint32_t object_check(struct asker asker, uint32_t client, uint32_t handle) {
    if (!usable_client(asker, client))
        return RM_ERR_INVALID_CLIENT;
    return find(client, handle) ? RM_OK : RM_ERR_OBJECT_NOT_FOUND;
}

uint32_t object_free(struct asker asker, uint32_t client, uint32_t handle) {
    uint32_t status = object_check(asker, client, handle);

    if (status == RM_OK)
        destroy(find(client, handle));
    return status;
}

void clients_release(const void *descriptor) {
    for (struct client *client = clients_first, *next; client; client = next) {
        next = client->next;
        if (client->asker.descriptor == descriptor)
            destroy(&client->root);
    }
}

/* Whether an older client of the same process has memory of the device, so that the process was listed already. */
static bool listed_before(const struct client *client, int device) {
    for (const struct client *older = client->previous; older; older = older->previous)
        if (older->asker.pid == client->asker.pid && older->used_bytes[device])
            return true;
    return false;
}

unsigned processes_list(int device, unsigned first, struct sim_process *out, unsigned room) {
    unsigned count = 0;

    for (const struct client *client = clients_first; client; client = client->next) {
        if (!client->used_bytes[device] || listed_before(client, device))
            continue;
        if (count >= first && count - first < room) {
            out[count - first] = (struct sim_process){.pid = client->asker.pid};
            for (const struct client *same = client; same; same = same->next)
                if (same->asker.pid == client->asker.pid)
                    out[count - first].used_bytes += same->used_bytes[device];
        }
        count++;
    }
    return count;
}
