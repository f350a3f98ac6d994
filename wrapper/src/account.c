/* SPDX-License-Identifier: Apache-2.0 */
#include "account.h"

#include "log.h"

/*
 * Sequentially consistent throughout: a free adds to credit and then reads `wanted`, the daemon sets `wanted` and then
 * takes the credit; at least one of them has to see the other, and acquire/release does not promise that. On x86-64 a
 * locked instruction costs the same either way.
 */
static void raise(uint64_t *word, uint64_t size_bytes) {
    __atomic_fetch_add(word, size_bytes, __ATOMIC_SEQ_CST);
}

/*
 * Never below zero: a wrong page must not turn into 17 exabytes in use. Returns by how much, which is all that may be
 * raised elsewhere: nor must it turn into credit that nobody granted.
 */
static uint64_t lower(uint64_t *word, uint64_t size_bytes) {
    uint64_t now = __atomic_load_n(word, __ATOMIC_RELAXED);
    uint64_t next;
    do {
        next = now > size_bytes ? now - size_bytes : 0;
    } while (!__atomic_compare_exchange_n(word, &now, next, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    if (now < size_bytes)
        log_debug("account underflow: %llu bytes leave a counter of %llu", (unsigned long long)size_bytes,
                  (unsigned long long)now);
    return now - next;
}

static void raise_to(uint64_t *word, uint64_t size_bytes) {
    uint64_t now = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (now < size_bytes &&
           !__atomic_compare_exchange_n(word, &now, size_bytes, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

bool account_take(struct cvg_device_account *account, uint64_t size_bytes) {
    uint64_t now = __atomic_load_n(&account->credit_bytes, __ATOMIC_RELAXED);
    do {
        if (now < size_bytes)
            return false;
    } while (!__atomic_compare_exchange_n(&account->credit_bytes, &now, now - size_bytes, true, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED));
    raise(&account->reserved_bytes, size_bytes);
    return true;
}

void account_give_back(struct cvg_device_account *account, uint64_t size_bytes) {
    raise(&account->credit_bytes, lower(&account->reserved_bytes, size_bytes));
}

void account_receive(struct cvg_device_account *account, uint64_t size_bytes) {
    raise(&account->reserved_bytes, size_bytes);
}

static void enter_use(struct cvg_device_account *account, uint64_t size_bytes) {
    const uint64_t used_bytes = __atomic_add_fetch(&account->used_bytes, size_bytes, __ATOMIC_SEQ_CST);
    raise_to(&account->peak_bytes, used_bytes);
    __atomic_fetch_add(&account->allocations, 1, __ATOMIC_RELAXED);
}

void account_settle(struct cvg_device_account *account, uint64_t size_bytes) {
    lower(&account->reserved_bytes, size_bytes);
    enter_use(account, size_bytes);
}

void account_free(struct cvg_device_account *account, uint64_t size_bytes, uint64_t objects) {
    const uint64_t freed_bytes = lower(&account->used_bytes, size_bytes);
    __atomic_fetch_add(&account->frees, objects, __ATOMIC_RELAXED);
    raise(&account->credit_bytes, freed_bytes);
}

void account_settle_managed(struct cvg_device_account *account, uint64_t size_bytes) {
    lower(&account->reserved_bytes, size_bytes);
    raise(&account->managed_bytes, size_bytes);
}

void account_free_managed(struct cvg_device_account *account, uint64_t size_bytes) {
    raise(&account->credit_bytes, lower(&account->managed_bytes, size_bytes));
}

void account_refuse(struct cvg_device_account *account) {
    __atomic_fetch_add(&account->refusals, 1, __ATOMIC_RELAXED);
}

void account_context(struct cvg_device_account *account, uint64_t size_bytes) {
    raise_to(&account->context_bytes, size_bytes);
}
