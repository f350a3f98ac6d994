/* SPDX-License-Identifier: Apache-2.0 */
#include "../include/convgpu_page.h"

#include <string.h>

#define PAGE_EXPORT __attribute__((visibility("default")))

/* A copy that is never stable belongs to a process that allocates without pause: give up rather than spin. */
enum { READS_MAX = 64 };

static struct cvg_device_account *account_of(struct cvg_page *page, uint32_t device) {
    return device < CVG_DEVICES_MAX ? &page->device[device] : NULL;
}

PAGE_EXPORT void cvg_page_init(struct cvg_page *page, uint64_t instance, int32_t pid, uint64_t start_ticks) {
    memset(page, 0, sizeof(*page));
    page->abi_version = CVG_ABI_VERSION;
    page->instance = instance;
    page->pid = pid;
    page->start_ticks = start_ticks;
    /* Last: a daemon that is killed here leaves a file that is no page. */
    __atomic_store_n(&page->magic, CVG_PAGE_MAGIC, __ATOMIC_RELEASE);
}

PAGE_EXPORT uint32_t cvg_page_add_device(struct cvg_page *page, const uint8_t *uuid, uint32_t pci_domain,
                                         uint32_t pci_bus, uint32_t pci_device, uint32_t nvml_index) {
    const uint32_t device = page->device_count;
    struct cvg_device_account *account = account_of(page, device);
    if (account == NULL)
        return CVG_DEVICES_MAX;
    memcpy(account->uuid, uuid, sizeof(account->uuid));
    account->pci_domain = pci_domain;
    account->pci_bus = pci_bus;
    account->pci_device = pci_device;
    account->nvml_index = nvml_index;
    __atomic_store_n(&page->device_count, device + 1, __ATOMIC_RELEASE);
    return device;
}

PAGE_EXPORT void cvg_page_set_limit(struct cvg_page *page, uint32_t device, uint64_t limit_bytes) {
    struct cvg_device_account *account = account_of(page, device);
    if (account != NULL)
        __atomic_store_n(&account->limit_bytes, limit_bytes, __ATOMIC_RELAXED);
}

PAGE_EXPORT void cvg_page_set_context_hint(struct cvg_page *page, uint32_t device, uint64_t size_bytes) {
    struct cvg_device_account *account = account_of(page, device);
    if (account != NULL)
        __atomic_store_n(&account->context_hint_bytes, size_bytes, __ATOMIC_RELAXED);
}

PAGE_EXPORT uint64_t cvg_page_grant(struct cvg_page *page, uint32_t device, uint64_t size_bytes) {
    struct cvg_device_account *account = account_of(page, device);
    return account == NULL ? 0 : __atomic_add_fetch(&account->granted_bytes, size_bytes, __ATOMIC_SEQ_CST);
}

PAGE_EXPORT uint64_t cvg_page_ungrant(struct cvg_page *page, uint32_t device, uint64_t size_bytes) {
    struct cvg_device_account *account = account_of(page, device);
    return account == NULL ? 0 : __atomic_sub_fetch(&account->granted_bytes, size_bytes, __ATOMIC_SEQ_CST);
}

/* Credit goes first and `granted` follows, so that `granted` covers the rest in between. */
PAGE_EXPORT uint64_t cvg_page_reclaim(struct cvg_page *page, uint32_t device) {
    struct cvg_device_account *account = account_of(page, device);
    if (account == NULL)
        return 0;
    const uint64_t taken_bytes = __atomic_exchange_n(&account->credit_bytes, 0, __ATOMIC_SEQ_CST);
    __atomic_sub_fetch(&account->granted_bytes, taken_bytes, __ATOMIC_SEQ_CST);
    return taken_bytes;
}

PAGE_EXPORT void cvg_page_set_wanted(struct cvg_page *page, uint32_t wanted) {
    __atomic_store_n(&page->wanted, wanted, __ATOMIC_SEQ_CST);
}

PAGE_EXPORT void cvg_page_set_fail_open(struct cvg_page *page, uint32_t fail_open) {
    __atomic_store_n(&page->fail_open, fail_open, __ATOMIC_RELAXED);
}

PAGE_EXPORT void cvg_page_set_granted(struct cvg_page *page, uint32_t device, uint64_t size_bytes) {
    struct cvg_device_account *account = account_of(page, device);
    if (account != NULL)
        __atomic_store_n(&account->granted_bytes, size_bytes, __ATOMIC_SEQ_CST);
}

/* The fields that move: the process's counters first, `granted`, which covers them, last. */
static void copy_counters(const struct cvg_device_account *from, struct cvg_device_account *to) {
    to->used_bytes = __atomic_load_n(&from->used_bytes, __ATOMIC_SEQ_CST);
    to->reserved_bytes = __atomic_load_n(&from->reserved_bytes, __ATOMIC_SEQ_CST);
    to->credit_bytes = __atomic_load_n(&from->credit_bytes, __ATOMIC_SEQ_CST);
    to->peak_bytes = __atomic_load_n(&from->peak_bytes, __ATOMIC_SEQ_CST);
    to->allocations = __atomic_load_n(&from->allocations, __ATOMIC_SEQ_CST);
    to->frees = __atomic_load_n(&from->frees, __ATOMIC_SEQ_CST);
    to->refusals = __atomic_load_n(&from->refusals, __ATOMIC_SEQ_CST);
    to->managed_bytes = __atomic_load_n(&from->managed_bytes, __ATOMIC_SEQ_CST);
    to->context_bytes = __atomic_load_n(&from->context_bytes, __ATOMIC_SEQ_CST);
    to->granted_bytes = __atomic_load_n(&from->granted_bytes, __ATOMIC_SEQ_CST);
}

PAGE_EXPORT int cvg_page_read(const struct cvg_page *page, uint32_t device, struct cvg_device_account *out) {
    memset(out, 0, sizeof(*out));
    if (device >= CVG_DEVICES_MAX)
        return 0;
    const struct cvg_device_account *account = &page->device[device];
    struct cvg_device_account again = *account; /* with the fields that do not move */
    again.limit_bytes = __atomic_load_n(&account->limit_bytes, __ATOMIC_RELAXED);
    *out = again;
    copy_counters(account, out);
    for (int reads = 1; reads < READS_MAX; reads++) {
        again = *out;
        copy_counters(account, &again);
        if (memcmp(&again, out, sizeof(again)) == 0)
            return 1;
        *out = again;
    }
    return 0;
}
