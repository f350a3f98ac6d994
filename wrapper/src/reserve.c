/* SPDX-License-Identifier: Apache-2.0 */
#include "reserve.h"

#include "account.h"
#include "capture.h"
#include "client.h"
#include "clock.h"
#include "device.h"
#include "file.h"
#include "log.h"

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

void charge_expect_managed(struct charge *charge, uint32_t slot, uint64_t size_bytes) {
    charge->slot = slot;
    charge->managed_bytes = size_bytes;
    charge->need_bytes = size_bytes;
}

void charge_on_stream(struct charge *charge, CUstream stream) {
    charge->has_stream = true;
    charge->stream = stream;
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

/* Not while a stream captures: this call's own, or any that this process was seen to begin with. */
static bool may_wait(const struct charge *charge) {
    int status = 0;
    if (capture_is_on())
        return false;
    return !charge->has_stream || driver()->cuStreamIsCapturing(charge->stream, &status) == CUDA_ERROR_NOT_FOUND ||
           status == 0;
}

/* Makes need_bytes the thread's reservation; waits for it if it must, holding nothing meanwhile. */
static bool reserve(struct charge *charge) {
    struct cvg_page *page = client_page();
    if (page == NULL)
        return false; /* refused by the daemon */
    if (!account_take(&page->device[charge->slot], charge->need_bytes) &&
        !(file_collect() && account_take(&page->device[charge->slot], charge->need_bytes))) {
        client_flush(); /* what an attempt before this gave back may be what another waits for */
        if (charge->since_ns == 0)
            charge->since_ns = clock_now_ns();
        const struct client_request request = {.slot = charge->slot,
                                               .flags = may_wait(charge) ? 0 : CVG_FLAG_NOWAIT,
                                               .api = charge->api,
                                               .size_bytes = charge->need_bytes,
                                               .since_ns = charge->since_ns};
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
    charge->kept_bytes = charge->managed_bytes;
    thread_state.reserved_bytes = charge->need_bytes - charge->kept_bytes;
    return true;
}

bool charge_keep_managed(struct charge *charge) {
    if (charge->kept_bytes == 0)
        return false;
    account_settle_managed(&client_page()->device[charge->slot], charge->kept_bytes);
    charge->kept_bytes = 0;
    return true;
}

static void give_back_unspent(struct charge *charge) {
    const uint64_t unspent_bytes = thread_state.reserved_bytes + charge->kept_bytes;
    if (unspent_bytes == 0)
        return;
    charge->kept_bytes = 0;
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
    charge->need_bytes = charge->managed_bytes + thread_state.settled_peak_bytes + thread_state.refused_bytes;
    charge->is_guess = false;
    return true;
}

bool charge_attempt(struct charge *charge, CUresult *result) {
    if (charge->attempts != 0) {
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
