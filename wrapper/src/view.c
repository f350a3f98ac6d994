/* SPDX-License-Identifier: Apache-2.0 */
/* What a program is told about memory: the container's limit is the whole device. */
#include "view.h"

#include "client.h"
#include "clock.h"
#include "device.h"
#include "driver.h"

/* A report is not worth a long wait: after this the page's own figures do. */
#define ANSWER_WAIT_NS (1 * NS_PER_S)

void view_figures(uint32_t slot, uint64_t *total_bytes, uint64_t *free_bytes) {
    if (client_query(slot, clock_now_ns() + ANSWER_WAIT_NS, total_bytes, free_bytes))
        return;
    const struct cvg_device_account *account = &client_page()->device[slot];
    const uint64_t limit_bytes = __atomic_load_n(&account->limit_bytes, __ATOMIC_RELAXED);
    const uint64_t used_bytes = __atomic_load_n(&account->used_bytes, __ATOMIC_RELAXED) +
                                __atomic_load_n(&account->managed_bytes, __ATOMIC_RELAXED);
    *total_bytes = limit_bytes;
    *free_bytes = limit_bytes > used_bytes ? limit_bytes - used_bytes : 0;
}

CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    const CUresult result = driver()->cuMemGetInfo_v2(free, total);
    if (result != CUDA_SUCCESS || client_is_passive() || thread_state.depth > 0 ||
        client_join(DEADLINE_NEVER) != CLIENT_ACTIVE)
        return result;
    const uint32_t slot = device_slot_current();
    if (slot == CVG_SLOT_NONE)
        return result;
    uint64_t total_bytes;
    uint64_t free_bytes;
    view_figures(slot, &total_bytes, &free_bytes);
    if (total != NULL && total_bytes < *total)
        *total = total_bytes;
    if (free != NULL && free_bytes < *free)
        *free = free_bytes;
    return result;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev) {
    const CUresult result = driver()->cuDeviceTotalMem_v2(bytes, dev);
    if (result != CUDA_SUCCESS || bytes == NULL || client_is_passive() || thread_state.depth > 0 ||
        client_join(DEADLINE_NEVER) != CLIENT_ACTIVE)
        return result;
    const uint32_t slot = device_slot(dev);
    if (slot == CVG_SLOT_NONE)
        return result;
    uint64_t total_bytes;
    uint64_t free_bytes;
    view_figures(slot, &total_bytes, &free_bytes);
    if (total_bytes < *bytes)
        *bytes = total_bytes;
    return result;
}
