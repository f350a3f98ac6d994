/* SPDX-License-Identifier: Apache-2.0 */
#include "client.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "account.h"
#include "capture.h"
#include "clock.h"
#include "connection.h"
#include "descriptor.h"
#include "device.h"
#include "file.h"
#include "log.h"
#include "managed.h"
#include "objects.h"
#include "thread.h"

#define RECONNECT_NS (100 * NS_PER_MS)
/* The daemon is there but has not accepted the connections before ours: hundreds of processes start at once. */
#define CROWDED_NS (2 * NS_PER_MS)
/* An announcement may be made where the driver holds locks; if it is lost, the daemon's own round finds the credit. */
#define ANNOUNCE_NS (100 * NS_PER_MS)

_Atomic uint32_t client_mode_word = CLIENT_APART;

static _Atomic(struct cvg_page *) page;
static _Atomic uint64_t request_count;
/* With the policy `open`, how long a daemon may be away before memory is taken unasked: a restart takes less. */
#define OPEN_AFTER_NS (3 * NS_PER_S)

static atomic_flag open_said = ATOMIC_FLAG_INIT;
static _Atomic uint64_t away_since_ns; /* 0: the daemon was there at the last try */
static atomic_flag unreachable_said = ATOMIC_FLAG_INIT;
static atomic_flag refused_said = ATOMIC_FLAG_INIT;

struct cvg_page *client_page(void) {
    return atomic_load_explicit(&page, memory_order_acquire);
}

static bool pause_until(uint64_t deadline_ns, uint64_t pause_ns) {
    const uint64_t left_ns = clock_left_ns(deadline_ns);
    if (left_ns == 0)
        return false;
    const struct timespec pause = clock_timespec(left_ns < pause_ns ? left_ns : pause_ns);
    (void)syscall(SYS_nanosleep, &pause, NULL); /* a signal only makes the next try come earlier */
    return true;
}

static struct cvg_message new_message(uint32_t type) {
    return (struct cvg_message){.type = type, .abi_version = CVG_ABI_VERSION};
}

/* ---- Joining ---- */

enum hello { HELLO_WELCOME, HELLO_UNMANAGED, HELLO_REFUSED, HELLO_FAILED };

static bool adopt_page(int descriptor, uint64_t instance) {
    struct cvg_page *mapped = mmap(NULL, CVG_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (mapped == MAP_FAILED)
        return false;
    if (mapped->magic != CVG_PAGE_MAGIC || mapped->abi_version != CVG_ABI_VERSION || mapped->instance != instance) {
        munmap(mapped, CVG_PAGE_BYTES);
        return false;
    }
    atomic_store_explicit(&page, mapped, memory_order_release);
    return true;
}

static enum hello welcome(const struct cvg_message *answer, int descriptor) {
    const struct cvg_page *held = client_page();
    const bool accepted =
        held == NULL ? descriptor >= 0 && adopt_page(descriptor, answer->request) : answer->request == held->instance;
    if (descriptor >= 0)
        (void)syscall(SYS_close, descriptor);
    if (accepted)
        return HELLO_WELCOME;
    log_once(&refused_said, "the daemon's account of this process is not usable: GPU memory is refused");
    return HELLO_REFUSED;
}

static enum hello say_hello(struct connection *connection, uint64_t deadline_ns) {
    const struct cvg_page *held = client_page();
    struct cvg_message message = new_message(CVG_HELLO);
    message.request = held != NULL ? held->instance : 0;
    struct cvg_message answer = {0};
    int descriptor;
    if (!connection_send(connection, &message) || !connection_receive(connection, &answer, &descriptor, deadline_ns))
        return HELLO_FAILED;
    if (answer.type == CVG_WELCOME && answer.abi_version == CVG_ABI_VERSION)
        return welcome(&answer, descriptor);
    if (descriptor >= 0)
        (void)syscall(SYS_close, descriptor);
    if (answer.type == CVG_UNMANAGED)
        return HELLO_UNMANAGED;
    log_once(&refused_said, "the daemon refuses this process (reason %u): GPU memory is refused",
             answer.type == CVG_REFUSED ? answer.reason : (uint32_t)CVG_REASON_VERSION);
    return HELLO_REFUSED;
}

/* One try: a new connection on which HELLO was answered with WELCOME, or null and why not. */
static struct connection *open_welcomed(uint64_t deadline_ns, enum hello *outcome) {
    *outcome = HELLO_FAILED;
    struct connection *connection = connection_open();
    if (connection == NULL)
        return NULL;
    *outcome = say_hello(connection, deadline_ns);
    if (*outcome == HELLO_WELCOME) {
        connection_welcomed(connection);
        return connection;
    }
    connection_drop(connection);
    errno = ECONNABORTED;
    return NULL;
}

/* The policy is in the page, where the daemon wrote it: a process that it never welcomed waits. */
static bool may_go_unasked(void) {
    const struct cvg_page *held = client_page();
    const uint64_t now_ns = clock_now_ns();
    uint64_t since_ns = 0;
    if (held == NULL || __atomic_load_n(&held->fail_open, __ATOMIC_RELAXED) == 0)
        return false;
    return !atomic_compare_exchange_strong(&away_since_ns, &since_ns, now_ns) && now_ns > since_ns + OPEN_AFTER_NS;
}

/* A taken and welcomed connection, an idle one if there is; tries until the deadline while the daemon is away. */
static struct connection *obtain(uint64_t deadline_ns, enum hello *outcome) {
    for (;;) {
        *outcome = HELLO_WELCOME;
        struct connection *connection = connection_take_idle();
        if (connection == NULL)
            connection = open_welcomed(deadline_ns, outcome);
        if (connection != NULL || *outcome != HELLO_FAILED) {
            atomic_store_explicit(&away_since_ns, 0, memory_order_relaxed);
            return connection;
        }
        const bool crowded = errno == EAGAIN;
        if (!crowded)
            log_once(&unreachable_said, "daemon not reachable at %s (%s), waiting", connection_path(), strerror(errno));
        if ((!crowded && may_go_unasked()) || !pause_until(deadline_ns, crowded ? CROWDED_NS : RECONNECT_NS))
            return NULL;
    }
}

static enum client_mode join_first(uint64_t deadline_ns) {
    enum hello outcome;
    client_watch_fork();
    struct connection *connection = obtain(deadline_ns, &outcome);
    if (connection != NULL)
        connection_put(connection);
    switch (outcome) {
    case HELLO_WELCOME:
        log_debug("joined: account %016llx, %u devices", (unsigned long long)client_page()->instance,
                  client_page()->device_count);
        return CLIENT_ACTIVE;
    case HELLO_UNMANAGED:
        log_debug("not guarded");
        return CLIENT_PASSIVE;
    case HELLO_REFUSED:
        return CLIENT_REFUSED;
    default:
        return CLIENT_APART;
    }
}

/*
 * One thread asks, the others sleep on the mode itself: two first HELLOs would make two accounts. Whoever sleeps holds
 * nothing.
 */
enum client_mode client_join(uint64_t deadline_ns) {
    for (;;) {
        uint32_t mode = atomic_load_explicit(&client_mode_word, memory_order_acquire);
        if (mode >= CLIENT_ACTIVE)
            return mode;
        if (mode == CLIENT_APART &&
            atomic_compare_exchange_strong(&client_mode_word, &mode, (uint32_t)CLIENT_JOINING)) {
            mode = join_first(deadline_ns);
            atomic_store_explicit(&client_mode_word, mode, memory_order_release);
            (void)syscall(SYS_futex, &client_mode_word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
            return mode;
        }
        const uint64_t left_ns = clock_left_ns(deadline_ns);
        if (left_ns == 0)
            return CLIENT_APART;
        const struct timespec timeout = clock_timespec(left_ns);
        (void)syscall(SYS_futex, &client_mode_word, FUTEX_WAIT_PRIVATE, CLIENT_JOINING,
                      deadline_ns == DEADLINE_NEVER ? NULL : &timeout, NULL, 0);
    }
}

/* ---- Fork ---- */

/* The child has no GPU memory and no account: it begins as if the process had just started. */
static void forget_parent(void) {
    struct cvg_page *inherited = client_page();
    atomic_store_explicit(&page, NULL, memory_order_relaxed);
    if (inherited != NULL)
        munmap(inherited, CVG_PAGE_BYTES);
    connection_forget_all();
    objects_forget_all();
    file_forget_all();
    descriptor_adopt_all();
    device_forget_all();
    managed_forget_all();
    capture_forget_all();
    memset(&thread_state, 0, sizeof(thread_state));
    atomic_store_explicit(&client_mode_word, CLIENT_APART, memory_order_release);
}

void client_watch_fork(void) {
    static atomic_flag watched = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&watched))
        pthread_atfork(NULL, NULL, forget_parent);
}

/* ---- Asking ---- */

/* The answer to this very request: what else arrives belongs to nobody. */
static bool receive_answer(struct connection *connection, uint64_t request, struct cvg_message *answer,
                           uint64_t deadline_ns) {
    do {
        if (!connection_receive(connection, answer, NULL, deadline_ns))
            return false;
    } while (answer->request != request || answer->abi_version != CVG_ABI_VERSION);
    return true;
}

static enum hello exchange(struct cvg_message *message, struct cvg_message *answer, uint64_t deadline_ns) {
    message->request = atomic_fetch_add(&request_count, 1) + 1;
    for (;;) {
        enum hello outcome;
        struct connection *connection = obtain(deadline_ns, &outcome);
        if (connection == NULL)
            return outcome;
        bool lost = false;
        if (connection_send(connection, message)) {
            if (receive_answer(connection, message->request, answer, deadline_ns)) {
                connection_put(connection);
                return HELLO_WELCOME;
            }
            lost = true;
            if (message->type == CVG_ACQUIRE)
                message->flags |= CVG_FLAG_AGAIN;
        }
        connection_drop(connection);
        /* An idle connection of a daemon that is gone fails at sending: the next try opens a new one. */
        if (lost && !pause_until(deadline_ns, RECONNECT_NS))
            return HELLO_FAILED;
    }
}

enum client_answer client_acquire(const struct client_request *request, uint64_t deadline_ns, uint32_t *reason) {
    struct cvg_page *held = client_page();
    struct cvg_message message = new_message(CVG_ACQUIRE);
    message.device = request->slot;
    message.size_bytes = request->size_bytes;
    message.flags = request->flags;
    message.api = request->api;
    message.since_ns = request->since_ns != 0 ? request->since_ns : clock_now_ns();
    struct cvg_message answer = {0};
    *reason = CVG_REASON_UNKNOWN;
    switch (exchange(&message, &answer, deadline_ns)) {
    case HELLO_WELCOME:
        break;
    case HELLO_UNMANAGED:
        atomic_store_explicit(&client_mode_word, CLIENT_PASSIVE, memory_order_release);
        return CLIENT_UNGUARDED;
    case HELLO_REFUSED:
        return CLIENT_DENIED;
    default:
        if (!may_go_unasked())
            return CLIENT_UNREACHABLE;
        /* Above what was granted, for a while: the next daemon finds it in the page and takes it as granted. */
        log_once(&open_said, "the daemon is away: memory is not limited until it is back (fail open)");
        account_receive(&held->device[request->slot], request->size_bytes);
        return CLIENT_GRANTED;
    }
    *reason = answer.reason;
    if (answer.type != CVG_GRANTED)
        return CLIENT_DENIED;
    struct cvg_device_account *account = &held->device[request->slot];
    account_receive(account, answer.size_bytes);
    if (answer.size_bytes >= request->size_bytes) {
        if (answer.size_bytes > request->size_bytes)
            account_give_back(account, answer.size_bytes - request->size_bytes);
        return CLIENT_GRANTED;
    }
    account_give_back(account, answer.size_bytes);
    return CLIENT_DENIED;
}

bool client_query(uint32_t slot, uint64_t deadline_ns, uint64_t *total_bytes, uint64_t *free_bytes) {
    struct cvg_message message = new_message(CVG_QUERY);
    message.device = slot;
    struct cvg_message answer = {0};
    if (exchange(&message, &answer, deadline_ns) != HELLO_WELCOME || answer.type != CVG_INFO)
        return false;
    *total_bytes = answer.total_bytes;
    *free_bytes = answer.free_bytes;
    return true;
}

bool client_query_process(uint32_t slot, uint64_t number, uint64_t deadline_ns, uint64_t *pid, uint64_t *used_bytes) {
    struct cvg_message message = new_message(CVG_PROCESS);
    message.device = slot;
    message.size_bytes = number;
    struct cvg_message answer = {0};
    if (exchange(&message, &answer, deadline_ns) != HELLO_WELCOME || answer.type != CVG_PROCESS ||
        answer.reason != CVG_REASON_NONE)
        return false;
    *pid = answer.total_bytes;
    *used_bytes = answer.free_bytes;
    return true;
}

static void announce(uint32_t slot) {
    struct cvg_message message = new_message(CVG_RELEASED);
    message.device = slot;
    if (connection_send_aside(&message))
        return;
    enum hello outcome;
    struct connection *connection = open_welcomed(clock_now_ns() + ANNOUNCE_NS, &outcome);
    if (connection == NULL)
        return;
    (void)connection_send(connection, &message);
    connection_put(connection);
}

void client_credit_grew(uint32_t slot) {
    const struct cvg_page *held = client_page();
    /* After the credit was raised, and in that order on the other side too: see account.c. */
    if (held == NULL || __atomic_load_n(&held->wanted, __ATOMIC_SEQ_CST) == 0)
        return;
    if (thread_state.depth > 0)
        thread_state.released_slots |= 1U << slot;
    else
        announce(slot);
}

void client_flush(void) {
    while (thread_state.released_slots != 0) {
        const uint32_t slot = (uint32_t)__builtin_ctz(thread_state.released_slots);
        thread_state.released_slots &= thread_state.released_slots - 1;
        announce(slot);
    }
}
