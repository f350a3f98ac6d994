/* SPDX-License-Identifier: Apache-2.0 */
#include "reserve.h"

#include "account.h"
#include "client.h"
#include "clock.h"
#include "device.h"
#include "log.h"

/*
 * libcuda serves requests up to this size from chunks of one granule that it keeps (1000 x 64 KiB took 64 MiB, 1000 x
 * 1025 KiB took 2000 MiB on an H200): they may need no memory at all, so the driver is asked first.
 */
#define SHARED_CHUNK_BYTES (1024ULL * 1024)

/*
 * An attempt that the boundary refused is made again with what it lacked. Each round gets further than the one before,
 * so this bounds a driver that asks for something else every time. A context is about 20 allocations.
 */
#define ATTEMPTS_MAX 32

__thread struct thread_state thread_state __attribute__((tls_model("initial-exec")));

void hook_enter(void) {
    thread_state.depth++;
}

void hook_leave(void) {
    if (--thread_state.depth == 0 && thread_state.released_slots != 0)
        client_flush();
}

bool charge_begin(struct charge *charge, enum cvg_api api) {
    if (client_is_passive() || thread_state.depth > 0 || client_join(DEADLINE_NEVER) == CLIENT_PASSIVE)
        return false;
    *charge = (struct charge){.api = api, .slot = CVG_SLOT_NONE};
    hook_enter();
    return true;
}

void charge_expect(struct charge *charge, uint32_t slot, uint64_t size_bytes) {
    charge->slot = slot;
    charge->need_bytes = slot != CVG_SLOT_NONE ? size_bytes : 0; /* no device is known: the boundary will find it */
}

void charge_expect_context(struct charge *charge, uint32_t slot, bool is_made) {
    charge->slot = slot;
    charge->is_context = true;
    charge->is_guess = true;
    if (is_made || slot == CVG_SLOT_NONE)
        return;
    const struct cvg_device_account *account = &client_page()->device[slot];
    const uint64_t measured_bytes = __atomic_load_n(&account->context_bytes, __ATOMIC_RELAXED);
    const uint64_t hint_bytes = __atomic_load_n(&account->context_hint_bytes, __ATOMIC_RELAXED);
    charge->need_bytes = measured_bytes > hint_bytes ? measured_bytes : hint_bytes;
}

/* Makes need_bytes the thread's reservation; waits for it if it must, holding nothing meanwhile. */
static bool reserve(struct charge *charge) {
    struct cvg_page *page = client_page();
    if (page == NULL)
        return false; /* refused by the daemon */
    if (!account_take(&page->device[charge->slot], charge->need_bytes)) {
        client_flush(); /* what an attempt before this gave back may be what another waits for */
        const struct client_request request = {
            .slot = charge->slot, .api = charge->api, .size_bytes = charge->need_bytes, .since_ns = charge->since_ns};
        uint32_t reason;
        switch (client_acquire(&request, DEADLINE_NEVER, &reason)) {
        case CLIENT_GRANTED:
            break;
        case CLIENT_UNGUARDED:
            return true;
        default:
            log_debug("api %u: %llu bytes denied, reason %u", charge->api, (unsigned long long)charge->need_bytes,
                      reason);
            return charge->is_guess && reason == CVG_REASON_LIMIT;
        }
    }
    thread_state.reserved_bytes = charge->need_bytes;
    return true;
}

static void give_back_unspent(const struct charge *charge) {
    const uint64_t unspent_bytes = thread_state.reserved_bytes;
    if (unspent_bytes == 0)
        return;
    thread_state.reserved_bytes = 0;
    account_give_back(&client_page()->device[charge->slot], unspent_bytes);
    client_credit_grew(charge->slot);
}

/* After an attempt that the boundary refused: what the next one needs is what this one had, and what it lacked. */
static bool needs_another(struct charge *charge, CUresult result) {
    if (result == CUDA_SUCCESS || thread_state.refused_bytes == 0 || thread_state.refused_slot == CVG_SLOT_NONE ||
        charge->attempts >= ATTEMPTS_MAX || client_page() == NULL)
        return false;
    charge->slot = thread_state.refused_slot;
    charge->need_bytes = thread_state.settled_peak_bytes + thread_state.refused_bytes;
    charge->is_guess = false;
    return true;
}

bool charge_attempt(struct charge *charge, CUresult *result) {
    if (charge->attempts == 0) {
        charge->since_ns = clock_now_ns();
    } else {
        give_back_unspent(charge);
        if (charge->is_context && *result == CUDA_SUCCESS && charge->slot != CVG_SLOT_NONE)
            account_context(&client_page()->device[charge->slot], thread_state.settled_bytes);
        if (!needs_another(charge, *result)) {
            hook_leave();
            return false;
        }
    }
    charge->attempts++;
    thread_state.slot = charge->slot;
    thread_state.settled_bytes = 0;
    thread_state.settled_peak_bytes = 0;
    thread_state.refused_bytes = 0;
    thread_state.refused_slot = CVG_SLOT_NONE;
    if (charge->need_bytes == 0 || reserve(charge))
        return true;
    hook_leave(); /* denied: *result is out of memory, or what the driver said when it was refused */
    return false;
}

CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize) {
    struct charge charge;
    if (dptr == NULL || bytesize == 0 || !charge_begin(&charge, CVG_API_cuMemAlloc_v2))
        return driver()->cuMemAlloc_v2(dptr, bytesize); /* the driver's own way to complain */
    if (bytesize > SHARED_CHUNK_BYTES) {
        const uint64_t granules = bytesize / CVG_GRANULE_BYTES + (bytesize % CVG_GRANULE_BYTES != 0);
        charge_expect(&charge, device_slot_current(), granules * CVG_GRANULE_BYTES);
    }
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    while (charge_attempt(&charge, &result))
        result = driver()->cuMemAlloc_v2(dptr, bytesize);
    return result;
}

CUresult cuMemFree_v2(CUdeviceptr dptr) {
    if (client_is_passive())
        return driver()->cuMemFree_v2(dptr);
    hook_enter();
    const CUresult result = driver()->cuMemFree_v2(dptr);
    hook_leave();
    return result;
}
