/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls are made by number, for two reasons: libc's functions are cancellation points, and a thread that is
 * cancelled while it waits would take its connection and a grant with it; and other preloaded libraries (proxies) hook
 * libc's socket functions.
 */
#include "connection.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"

/* Descriptors are moved above those that programs use by number, or close in a loop and open again. */
#define LOWEST_DESCRIPTOR 500
/* Beyond this many idle connections one is closed when it is put back: they remain from a crowd of waiting threads. */
#define IDLE_MAX 4
/* How long an answer is looked for before its asker sleeps: as long as a sleeping daemon takes to wake up and answer.
 */
#define SPIN_NS 100000

struct connection {
    struct connection *next;
    int descriptor;
    long pid; /* who opened it: after a clone that libc did not make, two processes have it */
    bool taken;
    bool welcomed;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the list; never held over a call that can block */
static struct connection *connections;
static _Atomic bool spinning; /* a thread of this process looks for its answer without sleeping */

static void close_descriptor(int descriptor) {
    (void)syscall(SYS_close, descriptor);
}

const char *connection_path(void) {
    const char *path = secure_getenv("CONVGPU_SOCKET");
    return path != NULL && path[0] != '\0' ? path : CVG_CLIENT_SOCKET;
}

struct connection *connection_take_idle(void) {
    const long pid = syscall(SYS_getpid);
    pthread_mutex_lock(&lock);
    struct connection *connection = connections;
    while (connection != NULL && (connection->taken || connection->pid != pid))
        connection = connection->next;
    if (connection != NULL)
        connection->taken = true;
    pthread_mutex_unlock(&lock);
    return connection;
}

static void pause_processor(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int connect_to_daemon(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = connection_path();
    const size_t length = strlen(path);
    if (length >= sizeof(address.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, path, length + 1);
    int descriptor = (int)syscall(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0)
        return -1;
    if (syscall(SYS_connect, descriptor, &address, (socklen_t)sizeof(address)) != 0) {
        const int why = errno;
        close_descriptor(descriptor);
        errno = why;
        return -1;
    }
    int moved = (int)syscall(SYS_fcntl, descriptor, F_DUPFD_CLOEXEC, LOWEST_DESCRIPTOR);
    if (moved >= 0) {
        close_descriptor(descriptor);
        descriptor = moved;
    }
    return descriptor;
}

struct connection *connection_open(void) {
    struct connection *connection = malloc(sizeof(*connection));
    if (connection == NULL)
        return NULL;
    connection->descriptor = connect_to_daemon();
    if (connection->descriptor < 0) {
        const int why = errno;
        free(connection);
        errno = why;
        return NULL;
    }
    connection->pid = syscall(SYS_getpid);
    connection->taken = true;
    connection->welcomed = false;
    pthread_mutex_lock(&lock);
    connection->next = connections;
    connections = connection;
    pthread_mutex_unlock(&lock);
    return connection;
}

void connection_welcomed(struct connection *connection) {
    pthread_mutex_lock(&lock);
    connection->welcomed = true;
    pthread_mutex_unlock(&lock);
}

/* With the lock held, so that connection_send_aside never uses a number that means another file by now. */
static void remove_locked(struct connection *connection) {
    struct connection **link = &connections;
    while (*link != connection)
        link = &(*link)->next;
    *link = connection->next;
    close_descriptor(connection->descriptor);
    free(connection);
}

void connection_put(struct connection *connection) {
    pthread_mutex_lock(&lock);
    unsigned int idle = 0;
    for (const struct connection *other = connections; other != NULL; other = other->next)
        idle += !other->taken;
    if (idle >= IDLE_MAX)
        remove_locked(connection);
    else
        connection->taken = false;
    pthread_mutex_unlock(&lock);
}

void connection_drop(struct connection *connection) {
    pthread_mutex_lock(&lock);
    remove_locked(connection);
    pthread_mutex_unlock(&lock);
}

static bool send_on(int descriptor, const struct cvg_message *message) {
    long sent;
    do {
        sent = syscall(SYS_sendto, descriptor, message, sizeof(*message), MSG_NOSIGNAL | MSG_DONTWAIT, NULL, 0);
    } while (sent < 0 && errno == EINTR);
    return sent == (long)sizeof(*message);
}

bool connection_send(struct connection *connection, const struct cvg_message *message) {
    return send_on(connection->descriptor, message);
}

bool connection_send_aside(const struct cvg_message *message) {
    bool sent = false;
    pthread_mutex_lock(&lock);
    for (const struct connection *connection = connections; connection != NULL && !sent; connection = connection->next)
        sent = connection->welcomed && send_on(connection->descriptor, message);
    pthread_mutex_unlock(&lock);
    return sent;
}

static bool wait_readable(int descriptor, uint64_t deadline_ns) {
    for (;;) {
        struct pollfd poll = {.fd = descriptor, .events = POLLIN};
        const uint64_t left_ns = clock_left_ns(deadline_ns);
        struct timespec timeout = clock_timespec(left_ns);
        const long ready =
            syscall(SYS_ppoll, &poll, 1, deadline_ns == DEADLINE_NEVER ? NULL : &timeout, NULL, _NSIG / 8);
        if (ready > 0)
            return true;
        if (ready == 0 || errno != EINTR)
            return false;
    }
}

/*
 * An answer that needs no waiting is there within tens of microseconds; to sleep and be woken takes as long again, and
 * several times that in a virtual machine. So one thread of a process may look for its answer for a moment before it
 * sleeps, where there is another processor for the daemon to run on.
 */
static uint64_t begin_spin(void) {
    static _Atomic int processors; /* 0: not asked yet */
    int known = atomic_load_explicit(&processors, memory_order_relaxed);
    if (known == 0) {
        unsigned long mask[16] = {0}; /* of 1024 processors; the system call fails where there are more */
        const long size = syscall(SYS_sched_getaffinity, 0, sizeof(mask), mask);
        known = size < 0 ? 2 : 0;
        for (unsigned int i = 0; i < sizeof(mask) / sizeof(mask[0]); i++)
            known += __builtin_popcountl(mask[i]);
        atomic_store_explicit(&processors, known, memory_order_relaxed);
    }
    return known > 1 && !atomic_exchange_explicit(&spinning, true, memory_order_relaxed) ? clock_now_ns() + SPIN_NS : 0;
}

static void end_spin(uint64_t *spin_until_ns) {
    if (*spin_until_ns != 0)
        atomic_store_explicit(&spinning, false, memory_order_relaxed);
    *spin_until_ns = 0;
}

static int descriptor_of(struct msghdr *header) {
    int descriptor = -1;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part != NULL; part = CMSG_NXTHDR(header, part))
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS && part->cmsg_len == CMSG_LEN(sizeof(int)))
            memcpy(&descriptor, CMSG_DATA(part), sizeof(descriptor));
    return descriptor;
}

bool connection_receive(struct connection *connection, struct cvg_message *message, int *descriptor,
                        uint64_t deadline_ns) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec vector = {.iov_base = message, .iov_len = sizeof(*message)};
    bool reset = false;
    uint64_t spin_until_ns = begin_spin();
    for (;;) {
        struct msghdr header = {
            .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
        if (spin_until_ns == 0 && !wait_readable(connection->descriptor, deadline_ns))
            return false;
        const long received = syscall(SYS_recvmsg, connection->descriptor, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (received < 0 && errno == EAGAIN && spin_until_ns != 0 && clock_now_ns() < spin_until_ns) {
            pause_processor();
            continue;
        }
        const int why = errno;
        end_spin(&spin_until_ns);
        errno = why;
        if (received < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (received < 0 && errno == ECONNRESET && !reset) {
            reset = true; /* reported once before what a dying daemon still sent: an answer may lie behind it */
            continue;
        }
        if (received <= 0)
            return false;
        int came_along = descriptor_of(&header);
        if (received != (long)sizeof(*message) || descriptor == NULL) {
            if (came_along >= 0)
                close_descriptor(came_along);
            came_along = -1;
        }
        if (descriptor != NULL)
            *descriptor = came_along;
        return received == (long)sizeof(*message);
    }
}

void connection_forget_all(void) {
    atomic_store_explicit(&spinning, false, memory_order_relaxed);
    pthread_mutex_init(&lock, NULL); /* its owner, if it had one, is a thread of the parent */
    for (struct connection *connection = connections; connection != NULL; connection = connection->next)
        close_descriptor(connection->descriptor);
    connections = NULL; /* not freed: the list may have been in the middle of a change */
}
