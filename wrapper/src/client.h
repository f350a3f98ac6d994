/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process as a client of the daemon: it joins once (HELLO, and gets its credit page), and then asks.
 */
#ifndef CVG_CLIENT_H
#define CVG_CLIENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../include/convgpu_abi.h"

enum client_mode {
    CLIENT_APART,   /* never asked, or the daemon could not be reached in time */
    CLIENT_JOINING, /* a thread is asking */
    CLIENT_ACTIVE,  /* guarded: the page is mapped */
    CLIENT_PASSIVE, /* not guarded: every hook goes straight on */
    CLIENT_REFUSED  /* guarded, but the daemon cannot serve it: nothing may be allocated */
};

/* Asks the daemon whose this process is, unless that is known; waits for it until the deadline. */
enum client_mode client_join(uint64_t deadline_ns);

extern _Atomic uint32_t client_mode_word;

static inline bool client_is_passive(void) {
    return atomic_load_explicit(&client_mode_word, memory_order_relaxed) == CLIENT_PASSIVE;
}

/* The credit page; null unless CLIENT_ACTIVE. */
struct cvg_page *client_page(void);

enum client_answer {
    CLIENT_GRANTED,     /* booked as reserved */
    CLIENT_DENIED,      /* *reason says why */
    CLIENT_UNREACHABLE, /* no answer before the deadline */
    CLIENT_UNGUARDED    /* a daemon that started anew does not guard this process any more */
};

/* What is asked for. */
struct client_request {
    uint32_t slot;
    uint32_t flags;
    uint32_t api;
    uint64_t size_bytes;
    uint64_t since_ns; /* when the program's call began; 0: now */
};

/*
 * Asks for memory. The deadline is for the daemon to answer, not for memory: a request that may wait has
 * DEADLINE_NEVER. While the daemon is away it goes on trying, and asks its successor the same again.
 */
enum client_answer client_acquire(const struct client_request *request, uint64_t deadline_ns, uint32_t *reason);

/* What the container may see of a device; false if the daemon did not answer in time. */
bool client_query(uint32_t slot, uint64_t deadline_ns, uint64_t *total_bytes, uint64_t *free_bytes);

/* The container's processes on a device, by number from 0; false after the last, or if the daemon did not answer. */
bool client_query_process(uint32_t slot, uint64_t number, uint64_t deadline_ns, uint64_t *pid, uint64_t *used_bytes);

/*
 * Credit of a slot grew: the daemon is told if somebody waits. Inside the hook of a driver call this is put off to
 * client_flush, when the driver holds no lock any more.
 */
void client_credit_grew(uint32_t slot);
void client_flush(void);

/* Makes the child of a fork a client of its own; may be called often. */
void client_watch_fork(void);

#endif
