/* SPDX-License-Identifier: Apache-2.0 */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "driver.h"
#include "libc.h"
#include "log.h"
#include "objects.h"
#include "tally.h"

/* libcuda makes one to three clients; what is beyond this is charged until the process ends. */
enum { WATCHES_MAX = 32 };
enum { PATH_BYTES = 256 };
/* Higher descriptors are not noticed at their close: the next collection finds them. */
enum { DESCRIPTORS_MAX = 65536 };

/* A byte for each client, far beyond any file's end. The driver's numbers of clients are unique on a host. */
#define LOCKED_BYTE(client) ((off_t)0x43564700LL << 32 | (off_t)(client))

enum role { HAS_CLIENTS = 1, IS_REGISTERED = 2 };

struct watch {
    uint32_t client; /* 0: the entry is free */
    int descriptor;
    bool is_suspect; /* the descriptor was closed, so the file may be */
    dev_t device;
    ino_t inode;
    char path[PATH_BYTES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the watches; held over system calls that do not wait */
static struct watch watches[WATCHES_MAX];
static _Atomic long owner; /* process of all this: a child that libc did not make has a copy, or shares it (vfork) */
static _Atomic uint32_t watch_count;
static _Atomic uint32_t suspect_count;
static _Atomic uint8_t roles[DESCRIPTORS_MAX]; /* by descriptor: enum role; a hint, so no lock */

static bool is_owner(void) {
    return atomic_load_explicit(&owner, memory_order_relaxed) == syscall(SYS_getpid);
}

static _Atomic uint8_t *role_of(int descriptor) {
    return descriptor >= 0 && descriptor < DESCRIPTORS_MAX ? &roles[descriptor] : NULL;
}

static void add_role(int descriptor, enum role role) {
    _Atomic uint8_t *roles_now = role_of(descriptor);
    atomic_store_explicit(&owner, syscall(SYS_getpid), memory_order_relaxed);
    if (roles_now != NULL)
        atomic_fetch_or_explicit(roles_now, (uint8_t)role, memory_order_relaxed);
}

static bool has_role(int descriptor, enum role role) {
    const _Atomic uint8_t *roles_now = role_of(descriptor);
    return roles_now != NULL && (atomic_load_explicit(roles_now, memory_order_relaxed) & role) != 0;
}

static void drop_roles(int descriptor) {
    _Atomic uint8_t *roles_now = role_of(descriptor);
    if (roles_now != NULL)
        atomic_store_explicit(roles_now, 0, memory_order_relaxed);
}

/* ---- The kernel's answers ---- */

static bool get_status(int descriptor, struct stat *status) {
    return syscall(SYS_fstat, descriptor, status) == 0;
}

static bool is_file_of(const struct watch *watch, const struct stat *status) {
    return watch->device == status->st_dev && watch->inode == status->st_ino;
}

static long file_lock(int descriptor, int command, struct flock *range, short type, uint32_t client) {
    *range = (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = LOCKED_BYTE(client), .l_len = 1};
    return syscall(SYS_fcntl, descriptor, command, range);
}

static bool is_locked_by_another(int descriptor, uint32_t client) {
    struct flock found;
    return file_lock(descriptor, F_OFD_GETLK, &found, F_WRLCK, client) != 0 || found.l_type != F_UNLCK;
}

/*
 * Asked through a file of its own, since a lock is no obstacle to whoever holds it. The thread that closes a file finds
 * the driver done with it; to another one the lock may go a moment earlier.
 */
static bool is_open(const struct watch *watch) {
    const int asking = (int)syscall(SYS_openat, AT_FDCWD, watch->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (asking < 0)
        return true;
    struct stat status;
    const bool open =
        !get_status(asking, &status) || !is_file_of(watch, &status) || is_locked_by_another(asking, watch->client);
    (void)syscall(SYS_close, asking);
    return open;
}

/* The descriptor of a watch refers to nothing, or to another file than the one that is locked. */
static bool is_elsewhere(const struct watch *watch) {
    struct stat status;
    return !get_status(watch->descriptor, &status) || !is_file_of(watch, &status) ||
           is_locked_by_another(watch->descriptor, watch->client);
}

/* ---- The watches ---- */

static void release_locked(struct watch *watch) {
    watch->client = 0;
    atomic_fetch_sub_explicit(&watch_count, 1, memory_order_relaxed);
}

static struct watch *find_locked(uint32_t client) {
    for (struct watch *watch = watches; watch < watches + WATCHES_MAX; watch++)
        if (watch->client == client)
            return watch;
    return NULL;
}

/* The files of all that was made through a descriptor are to be asked for. A wrong suspicion ends with the answer. */
static void suspect_locked(int descriptor) {
    for (struct watch *watch = watches; watch < watches + WATCHES_MAX; watch++)
        watch->is_suspect |= watch->client != 0 && watch->descriptor == descriptor;
}

/* Fills in what will name the file when its descriptor is gone; false if it has no name to be opened by. */
static bool describe(struct watch *watch, int descriptor) {
    char link[32];
    struct stat status;
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
    const long length = syscall(SYS_readlinkat, AT_FDCWD, link, watch->path, sizeof(watch->path));
    if (length <= 0 || length >= (long)sizeof(watch->path) || watch->path[0] != '/' || !get_status(descriptor, &status))
        return false;
    watch->path[length] = '\0';
    watch->descriptor = descriptor;
    watch->device = status.st_dev;
    watch->inode = status.st_ino;
    return true;
}

void file_watch(int descriptor, uint32_t client) {
    struct flock range;
    struct watch watch = {.client = client};
    if (client == 0 || has_role(descriptor, IS_REGISTERED) || !describe(&watch, descriptor) ||
        file_lock(descriptor, F_OFD_SETLK, &range, F_RDLCK, client) != 0) {
        log_debug("client %x: the end of its file will not be noticed", client);
        return;
    }
    pthread_mutex_lock(&lock);
    suspect_locked(descriptor); /* this may be another file under an old number */
    struct watch *entry = find_locked(client);
    if (entry == NULL && (entry = find_locked(0)) != NULL)
        atomic_fetch_add_explicit(&watch_count, 1, memory_order_relaxed);
    if (entry != NULL)
        *entry = watch;
    pthread_mutex_unlock(&lock);
    add_role(descriptor, HAS_CLIENTS);
    (void)file_collect();
}

void file_forget(int descriptor, uint32_t client) {
    struct flock range;
    if (client == 0 || atomic_load_explicit(&watch_count, memory_order_relaxed) == 0)
        return;
    pthread_mutex_lock(&lock);
    struct watch *watch = find_locked(client);
    if (watch != NULL) {
        release_locked(watch);
        (void)file_lock(descriptor, F_OFD_SETLK, &range, F_UNLCK, client);
    }
    pthread_mutex_unlock(&lock);
}

void file_registered(int descriptor) {
    add_role(descriptor, IS_REGISTERED);
}

bool file_collect(void) {
    uint32_t ended_clients[WATCHES_MAX];
    uint32_t ended_count = 0;
    uint32_t suspects = 0;
    struct object_bytes ended = {0};
    if (atomic_load_explicit(&watch_count, memory_order_relaxed) == 0 || !is_owner())
        return false;
    const int program_errno = errno;
    pthread_mutex_lock(&lock);
    for (struct watch *watch = watches; watch < watches + WATCHES_MAX; watch++) {
        if (watch->client == 0 || (!watch->is_suspect && !is_elsewhere(watch)))
            continue;
        if (is_open(watch)) {
            watch->is_suspect = is_elsewhere(watch);
            suspects += watch->is_suspect;
            continue;
        }
        ended_clients[ended_count++] = watch->client;
        release_locked(watch);
    }
    atomic_store_explicit(&suspect_count, suspects, memory_order_relaxed);
    pthread_mutex_unlock(&lock);
    for (uint32_t index = 0; index < ended_count; index++) {
        struct object *tree = objects_detach((struct object_name){ended_clients[index], ended_clients[index]});
        log_debug("client %x ended with its file", ended_clients[index]);
        if (tree != NULL)
            objects_destroy(tree, &ended);
    }
    const bool gave = tally_ended(&ended);
    errno = program_errno;
    return gave;
}

void file_forget_all(void) {
    pthread_mutex_init(&lock, NULL);
    memset(watches, 0, sizeof(watches));
    atomic_store_explicit(&watch_count, 0, memory_order_relaxed);
    atomic_store_explicit(&suspect_count, 0, memory_order_relaxed);
    atomic_store_explicit(&owner, syscall(SYS_getpid), memory_order_relaxed);
}

/* ---- The program closes ---- */

/*
 * Two loads for every close of the process. While a client outlives its descriptor, any descriptor may be the last one
 * of its file, and each close costs an fstat more.
 */
static inline bool may_matter(int descriptor) {
    return descriptor >= 0 &&
           ((descriptor < DESCRIPTORS_MAX && atomic_load_explicit(&roles[descriptor], memory_order_relaxed) != 0) ||
            atomic_load_explicit(&suspect_count, memory_order_relaxed) != 0);
}

static bool is_of_suspect(int descriptor) {
    struct stat status;
    bool found = false;
    if (atomic_load_explicit(&suspect_count, memory_order_relaxed) == 0 || !get_status(descriptor, &status))
        return false;
    pthread_mutex_lock(&lock);
    for (const struct watch *watch = watches; watch < watches + WATCHES_MAX; watch++)
        found |= watch->client != 0 && watch->is_suspect && is_file_of(watch, &status);
    pthread_mutex_unlock(&lock);
    return found;
}

/* Before a descriptor is closed, or given to another file. True: clients may end with it, so collect afterwards. */
static bool leave(int descriptor) {
    const int program_errno = errno;
    bool matters = false;
    if (is_owner()) {
        matters = has_role(descriptor, HAS_CLIENTS) || has_role(descriptor, IS_REGISTERED);
        matters |= is_of_suspect(descriptor);
        pthread_mutex_lock(&lock);
        suspect_locked(descriptor);
        pthread_mutex_unlock(&lock);
    }
    errno = program_errno;
    return matters;
}

CVG_EXPORT int close(int descriptor) {
    const struct libc_functions *libc = libc_calls();
    if (!may_matter(descriptor) || !leave(descriptor))
        return libc->close(descriptor);
    drop_roles(descriptor); /* before: afterwards another thread may be given this number */
    const int result = libc->close(descriptor);
    (void)file_collect();
    return result;
}

CVG_EXPORT int dup2(int from, int to) {
    const struct libc_functions *libc = libc_calls();
    if (from == to || !may_matter(to) || !leave(to))
        return libc->dup2(from, to);
    const int result = libc->dup2(from, to);
    if (result == to)
        drop_roles(to);
    (void)file_collect();
    return result;
}

CVG_EXPORT int dup3(int from, int to, int flags) {
    const struct libc_functions *libc = libc_calls();
    if (from == to || !may_matter(to) || !leave(to))
        return libc->dup3(from, to, flags);
    const int result = libc->dup3(from, to, flags);
    if (result == to)
        drop_roles(to);
    (void)file_collect();
    return result;
}
