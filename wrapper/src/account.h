/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process's side of its credit page: bytes move between granted, credit, reserved, used and managed. One invariant,
 * which the daemon may check at any moment:
 *
 *   granted >= credit + used + reserved + managed
 *
 * So each move first lowers the counter that the bytes leave and then raises the one that they enter. In between they
 * are in none of them, which is what "in flight" means. All functions are lock-free and expect a mapped page.
 */
#ifndef CVG_ACCOUNT_H
#define CVG_ACCOUNT_H

#include <stdbool.h>
#include <stdint.h>

#include "../include/convgpu_abi.h"

/* credit -> reserved; false, and nothing happens, if there is less credit. */
bool account_take(struct cvg_device_account *account, uint64_t size_bytes);

/* reserved -> credit. */
void account_give_back(struct cvg_device_account *account, uint64_t size_bytes);

/* A grant arrived by message: the daemon raised `granted` before it sent it. */
void account_receive(struct cvg_device_account *account, uint64_t size_bytes);

/* reserved -> used: the driver made an object of this size. */
void account_settle(struct cvg_device_account *account, uint64_t size_bytes);

/* used -> credit: `objects` objects of this total size ended. */
void account_free(struct cvg_device_account *account, uint64_t size_bytes, uint64_t objects);

/* reserved -> managed, and managed -> credit: memory that the boundary never sees. */
void account_settle_managed(struct cvg_device_account *account, uint64_t size_bytes);
void account_free_managed(struct cvg_device_account *account, uint64_t size_bytes);

/* The boundary said no. */
void account_refuse(struct cvg_device_account *account);

/* A context took this much: kept if it is the largest so far. */
void account_context(struct cvg_device_account *account, uint64_t size_bytes);

#endif
