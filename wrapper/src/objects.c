/* SPDX-License-Identifier: Apache-2.0 */
#include "objects.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

#include "log.h"

struct object {
    struct object *next_in_bucket;
    struct object *parent;
    struct object *first_child;
    struct object *next_sibling;
    struct object *previous_sibling;
    struct object_made made;
};

enum { BUCKETS_AT_FIRST = 256 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all below; held for table operations only */
static struct object **buckets;
static size_t bucket_count; /* a power of two */
static size_t object_count;

static size_t bucket_of(struct object_name name, size_t count) {
    /* Handles count up from a base of their client: multiplied by the golden ratio the high bits differ well. */
    const uint64_t key = ((uint64_t)name.client << 32 | name.handle) * 0x9E3779B97F4A7C15ULL;
    return (size_t)(key >> 32) & (count - 1);
}

static struct object *find_locked(struct object_name name) {
    if (bucket_count == 0)
        return NULL;
    struct object *object = buckets[bucket_of(name, bucket_count)];
    while (object != NULL && (object->made.name.client != name.client || object->made.name.handle != name.handle))
        object = object->next_in_bucket;
    return object;
}

static void hash_in_locked(struct object *object) {
    struct object **bucket = &buckets[bucket_of(object->made.name, bucket_count)];
    object->next_in_bucket = *bucket;
    *bucket = object;
    object_count++;
}

static void hash_out_locked(struct object *object) {
    struct object **link = &buckets[bucket_of(object->made.name, bucket_count)];
    while (*link != object)
        link = &(*link)->next_in_bucket;
    *link = object->next_in_bucket;
    object_count--;
}

static bool make_room_locked(void) {
    if (object_count < bucket_count)
        return true;
    const size_t wider = bucket_count == 0 ? BUCKETS_AT_FIRST : bucket_count * 2;
    struct object **fresh = calloc(wider, sizeof(struct object *));
    if (fresh == NULL)
        return bucket_count != 0; /* longer chains, but it works */
    struct object **old = buckets;
    const size_t old_count = bucket_count;
    buckets = fresh;
    bucket_count = wider;
    object_count = 0;
    for (size_t index = 0; index < old_count; index++)
        for (struct object *object = old[index], *next; object != NULL; object = next) {
            next = object->next_in_bucket;
            hash_in_locked(object);
        }
    free(old);
    return true;
}

static void hang_below_locked(struct object *object, struct object *parent) {
    object->parent = parent;
    object->previous_sibling = NULL;
    object->next_sibling = parent != NULL ? parent->first_child : NULL;
    if (object->next_sibling != NULL)
        object->next_sibling->previous_sibling = object;
    if (parent != NULL)
        parent->first_child = object;
}

static void cut_off_locked(struct object *object) {
    if (object->previous_sibling != NULL)
        object->previous_sibling->next_sibling = object->next_sibling;
    else if (object->parent != NULL)
        object->parent->first_child = object->next_sibling;
    if (object->next_sibling != NULL)
        object->next_sibling->previous_sibling = object->previous_sibling;
    object->parent = object->next_sibling = object->previous_sibling = NULL;
}

/* The next object of a tree in pre-order, or null after the last. */
static struct object *next_in_tree(const struct object *root, struct object *object) {
    if (object->first_child != NULL)
        return object->first_child;
    while (object != root && object->next_sibling == NULL)
        object = object->parent;
    return object == root ? NULL : object->next_sibling;
}

static void take_out_locked(struct object *root) {
    cut_off_locked(root);
    for (struct object *object = root; object != NULL; object = next_in_tree(root, object))
        hash_out_locked(object);
}

/* Where an object hangs: below its parent, or below its client if this process has never seen the parent. */
static struct object *parent_locked(const struct object_made *made) {
    const struct object_name client = {made->name.client, made->name.client};
    if (made->name.handle == made->name.client)
        return NULL;
    struct object *parent = find_locked((struct object_name){made->name.client, made->parent});
    return parent != NULL ? parent : find_locked(client);
}

bool objects_insert(const struct object_made *made, struct object_bytes *ended) {
    struct object *object = calloc(1, sizeof(*object));
    if (object == NULL) {
        log_debug("no memory to note object %x of client %x", made->name.handle, made->name.client);
        return false;
    }
    object->made = *made;
    pthread_mutex_lock(&lock);
    struct object *stale = find_locked(made->name);
    if (stale != NULL)
        take_out_locked(stale);
    const bool inserted = make_room_locked();
    if (inserted) {
        hang_below_locked(object, parent_locked(made));
        hash_in_locked(object);
    }
    pthread_mutex_unlock(&lock);
    if (stale != NULL)
        objects_destroy(stale, ended);
    if (!inserted)
        free(object);
    return inserted;
}

struct object *objects_detach(struct object_name name) {
    pthread_mutex_lock(&lock);
    struct object *object = find_locked(name);
    if (object != NULL)
        take_out_locked(object);
    pthread_mutex_unlock(&lock);
    return object;
}

void objects_restore(struct object *tree) {
    pthread_mutex_lock(&lock);
    hang_below_locked(tree, parent_locked(&tree->made));
    for (struct object *object = tree; object != NULL; object = next_in_tree(tree, object))
        hash_in_locked(object);
    pthread_mutex_unlock(&lock);
}

void objects_destroy(struct object *tree, struct object_bytes *ended) {
    struct object *object = tree;
    while (object != NULL) {
        if (object->first_child != NULL) { /* down to a leaf, which then goes */
            object = object->first_child;
            continue;
        }
        struct object *parent = object == tree ? NULL : object->parent;
        holding_drop(object->made.holding, ended);
        if (parent != NULL)
            parent->first_child = object->next_sibling;
        free(object);
        object = parent;
    }
}

struct holding *objects_holding(struct object_name name) {
    pthread_mutex_lock(&lock);
    const struct object *object = find_locked(name);
    struct holding *holding = object != NULL ? holding_share(object->made.holding) : NULL;
    pthread_mutex_unlock(&lock);
    return holding;
}

bool objects_device_instance(struct object_name parent, uint32_t *instance) {
    bool found = false;
    pthread_mutex_lock(&lock);
    for (const struct object *object = find_locked(parent); object != NULL && !found; object = object->parent)
        if (object->made.has_instance) {
            *instance = object->made.instance;
            found = true;
        }
    pthread_mutex_unlock(&lock);
    return found;
}

void objects_forget_all(void) {
    pthread_mutex_init(&lock, NULL);
    buckets = NULL; /* not freed: the table may have been in the middle of a change */
    bucket_count = 0;
    object_count = 0;
}
