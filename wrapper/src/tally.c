/* SPDX-License-Identifier: Apache-2.0 */
#include "tally.h"

#include <stddef.h>

#include "account.h"
#include "client.h"
#include "thread.h"

static void count_in_call(uint32_t slot, uint64_t taken_bytes, uint64_t given_bytes) {
    if (thread_state.depth == 0 || (thread_state.slot != CVG_SLOT_NONE && thread_state.slot != slot))
        return;
    thread_state.settled_bytes += taken_bytes;
    thread_state.settled_bytes -= given_bytes < thread_state.settled_bytes ? given_bytes : thread_state.settled_bytes;
    if (thread_state.settled_bytes > thread_state.settled_peak_bytes)
        thread_state.settled_peak_bytes = thread_state.settled_bytes;
}

void tally_made(uint32_t slot, uint64_t size_bytes) {
    account_settle(&client_page()->device[slot], size_bytes);
    count_in_call(slot, size_bytes, 0);
}

bool tally_ended(const struct object_bytes *ended) {
    struct cvg_page *page = client_page();
    bool gave = false;
    for (uint32_t slot = 0; slot < CVG_DEVICES_MAX && page != NULL; slot++)
        if (ended->objects[slot] != 0) {
            account_free(&page->device[slot], ended->size_bytes[slot], ended->objects[slot]);
            count_in_call(slot, 0, ended->size_bytes[slot]);
            client_credit_grew(slot);
            gave = true;
        }
    return gave;
}
