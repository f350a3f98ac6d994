/* SPDX-License-Identifier: Apache-2.0 */
#include "managed.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "account.h"
#include "client.h"
#include "device.h"
#include "log.h"

/* The page of the host, in which such memory migrates. */
#define PAGE_BYTES 4096ULL

enum { BUCKETS = 1024 };

struct managed {
    struct managed *next;
    CUdeviceptr pointer;
    CUcontext context;
    uint32_t slot;
    uint64_t size_bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the table; held for table operations only */
static struct managed *buckets[BUCKETS];
static _Atomic size_t count;

static struct managed **bucket_of(CUdeviceptr pointer) {
    return &buckets[((pointer >> 9) * 0x9E3779B97F4A7C15ULL) >> 54]; /* allocations are aligned to 512 bytes */
}

static void insert(struct managed *managed) {
    pthread_mutex_lock(&lock);
    struct managed **bucket = bucket_of(managed->pointer);
    managed->next = *bucket;
    *bucket = managed;
    atomic_fetch_add_explicit(&count, 1, memory_order_relaxed);
    pthread_mutex_unlock(&lock);
}

struct managed *managed_detach(CUdeviceptr pointer) {
    if (atomic_load_explicit(&count, memory_order_relaxed) == 0)
        return NULL;
    pthread_mutex_lock(&lock);
    struct managed **link = bucket_of(pointer);
    while (*link != NULL && (*link)->pointer != pointer)
        link = &(*link)->next;
    struct managed *found = *link;
    if (found != NULL) {
        *link = found->next;
        atomic_fetch_sub_explicit(&count, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&lock);
    return found;
}

void managed_end(struct managed *managed, bool freed) {
    if (!freed) {
        insert(managed);
        return;
    }
    struct cvg_page *page = client_page();
    if (page != NULL) {
        account_free_managed(&page->device[managed->slot], managed->size_bytes);
        client_credit_grew(managed->slot);
    }
    free(managed);
}

void managed_end_context(CUcontext context) {
    struct managed *gone = NULL;
    pthread_mutex_lock(&lock);
    for (size_t index = 0; index < BUCKETS && context != NULL; index++)
        for (struct managed **link = &buckets[index]; *link != NULL;) {
            struct managed *managed = *link;
            if (managed->context != context) {
                link = &managed->next;
                continue;
            }
            *link = managed->next;
            atomic_fetch_sub_explicit(&count, 1, memory_order_relaxed);
            managed->next = gone;
            gone = managed;
        }
    pthread_mutex_unlock(&lock);
    while (gone != NULL) {
        struct managed *managed = gone;
        gone = managed->next;
        managed_end(managed, true);
    }
}

void managed_forget_all(void) {
    pthread_mutex_init(&lock, NULL);
    for (size_t index = 0; index < BUCKETS; index++)
        buckets[index] = NULL; /* not freed: a list may have been in the middle of a change */
    atomic_store_explicit(&count, 0, memory_order_relaxed);
}

void managed_estimate(const struct charge *charge, CUdeviceptr pointer) {
    struct cvg_page *page = client_page();
    const uint64_t size_bytes = thread_state.reserved_bytes;
    if (page == NULL || __atomic_load_n(&page->estimated, __ATOMIC_RELAXED) == 0 || size_bytes == 0 ||
        thread_state.settled_peak_bytes != 0)
        return;
    struct managed *managed = calloc(1, sizeof(*managed));
    if (managed == NULL)
        return;
    thread_state.reserved_bytes = 0;
    account_settle_managed(&page->device[charge->slot], size_bytes);
    *managed = (struct managed){.pointer = pointer, .slot = charge->slot, .size_bytes = size_bytes};
    (void)driver()->cuCtxGetCurrent(&managed->context);
    insert(managed);
}

CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags) {
    struct charge charge;
    if (dptr == NULL || bytesize == 0 || bytesize > UINT64_MAX - PAGE_BYTES ||
        !charge_begin(&charge, CVG_API_cuMemAllocManaged))
        return driver()->cuMemAllocManaged(dptr, bytesize, flags);
    const uint64_t size_bytes = (bytesize + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
    const uint32_t slot = device_slot_current();
    struct managed *managed = calloc(1, sizeof(*managed));
    if (managed != NULL && slot != CVG_SLOT_NONE)
        charge_expect_managed(&charge, slot, size_bytes);
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result)) {
        result = driver()->cuMemAllocManaged(dptr, bytesize, flags);
        if (result == CUDA_SUCCESS && charge_keep_managed(&charge)) {
            *managed = (struct managed){.pointer = *dptr, .slot = slot, .size_bytes = size_bytes};
            (void)driver()->cuCtxGetCurrent(&managed->context);
            insert(managed);
            managed = NULL;
        }
    }
    free(managed);
    return result;
}
