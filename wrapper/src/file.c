/* SPDX-License-Identifier: Apache-2.0 */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "descriptor.h"
#include "log.h"
#include "objects.h"
#include "tally.h"

enum { PATH_BYTES = 256 };

/*
 * Each watched file's byte, far beyond any file's end: the driver's numbers of clients are unique on a host. Serial 0
 * is that of the client's own file, others are of files that it exported to.
 */
#define MARK(client, serial) (0x4356ULL << 48 | (uint64_t)(uint16_t)(serial) << 32 | (client))

/* Memory that a file keeps. */
struct kept {
    struct kept *next;
    uint32_t place;
    struct holding *holding;
};

struct watch {
    struct watch *next;
    uint64_t mark;
    uint32_t client; /* that lives by the file; 0: it is one that was exported to */
    struct kept *kept;
    int descriptor;
    bool is_suspect; /* the descriptor was closed, so the file may be */
    dev_t device;
    ino_t inode;
    char path[PATH_BYTES];
};

_Atomic uint32_t file_suspects;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of the watches; held over system calls that do not wait */
static struct watch *watches;
static _Atomic uint32_t watch_count;
static _Atomic uint32_t exports; /* ever */

/* A signal handler may close a file, so none may run on a thread that has the watches. Returns what unlock wants. */
static uint64_t lock_watches(void) {
    const uint64_t all = UINT64_MAX;
    uint64_t before = 0;
    (void)syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, &before, sizeof(all));
    pthread_mutex_lock(&mutex);
    return before;
}

static void unlock_watches(uint64_t before) {
    pthread_mutex_unlock(&mutex);
    (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof(before));
}

/* ---- The kernel's answers ---- */

static bool get_status(int descriptor, struct stat *status) {
    return syscall(SYS_fstat, descriptor, status) == 0;
}

static bool is_file_of(const struct watch *watch, const struct stat *status) {
    return watch->device == status->st_dev && watch->inode == status->st_ino;
}

static bool set_lock(int descriptor, short type, uint64_t mark) {
    struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)mark, .l_len = 1};
    return syscall(SYS_fcntl, descriptor, F_OFD_SETLK, &range) == 0;
}

static bool is_locked_by_another(int descriptor, uint64_t mark) {
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)mark, .l_len = 1};
    return syscall(SYS_fcntl, descriptor, F_OFD_GETLK, &range) != 0 || range.l_type != F_UNLCK;
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
        !get_status(asking, &status) || !is_file_of(watch, &status) || is_locked_by_another(asking, watch->mark);
    (void)syscall(SYS_close, asking);
    return open;
}

/* The descriptor of a watch refers to nothing, or to another file than the one that is locked. */
static bool is_elsewhere(const struct watch *watch) {
    struct stat status;
    return !get_status(watch->descriptor, &status) || !is_file_of(watch, &status) ||
           is_locked_by_another(watch->descriptor, watch->mark);
}

/* ---- The watches ---- */

/* A watch that is not in the list yet, its file locked; null if the file has no name to ask for it by. */
static struct watch *new_watch(int descriptor, uint32_t client, uint64_t mark) {
    char link[32];
    struct stat status;
    struct watch *watch = calloc(1, sizeof(*watch));
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
    if (watch == NULL || syscall(SYS_readlinkat, AT_FDCWD, link, watch->path, sizeof(watch->path)) <= 0 ||
        watch->path[sizeof(watch->path) - 1] != '\0' || watch->path[0] != '/' || !get_status(descriptor, &status) ||
        !set_lock(descriptor, F_RDLCK, mark)) {
        log_debug("client %x: the end of a file of its will not be noticed", client);
        free(watch);
        return NULL;
    }
    watch->mark = mark;
    watch->descriptor = descriptor;
    watch->device = status.st_dev;
    watch->inode = status.st_ino;
    return watch;
}

static void insert_locked(struct watch *watch) {
    watch->next = watches;
    watches = watch;
    atomic_fetch_add_explicit(&watch_count, 1, memory_order_relaxed);
    descriptor_add_role(watch->descriptor, DESCRIPTOR_WATCHED);
}

static struct watch *take_out_locked(struct watch **link) {
    struct watch *watch = *link;
    *link = watch->next;
    atomic_fetch_sub_explicit(&watch_count, 1, memory_order_relaxed);
    return watch;
}

/* Of all that was watched through a descriptor, the files are to be asked for; a wrong suspicion ends with the answer.
 */
static bool suspect_locked(int descriptor) {
    bool found = false;
    for (struct watch *watch = watches; watch != NULL; watch = watch->next)
        if (watch->descriptor == descriptor)
            watch->is_suspect = found = true;
    return found;
}

void file_watch(int descriptor, uint32_t client) {
    /* A client that lives by another file than its own is not watched. */
    struct watch *watch = client == 0 || descriptor_has_role(descriptor, DESCRIPTOR_REGISTERED)
                              ? NULL
                              : new_watch(descriptor, client, MARK(client, 0));
    if (watch == NULL)
        return;
    watch->client = client;
    const uint64_t signals = lock_watches();
    (void)suspect_locked(descriptor); /* this may be another file under an old number */
    insert_locked(watch);
    unlock_watches(signals);
    (void)file_collect();
}

void file_forget(int descriptor, uint32_t client) {
    struct watch *gone = NULL;
    if (client == 0 || atomic_load_explicit(&watch_count, memory_order_relaxed) == 0)
        return;
    const uint64_t signals = lock_watches();
    for (struct watch **link = &watches; *link != NULL && gone == NULL;)
        if ((*link)->client == client)
            gone = take_out_locked(link);
        else
            link = &(*link)->next;
    if (gone != NULL)
        (void)set_lock(descriptor, F_UNLCK, gone->mark);
    unlock_watches(signals);
    free(gone);
}

/* ---- Memory that files keep ---- */

static struct watch *find_exported_locked(int descriptor) {
    for (struct watch *watch = watches; watch != NULL; watch = watch->next)
        if (watch->client == 0 && watch->descriptor == descriptor && !is_elsewhere(watch))
            return watch;
    return NULL;
}

static struct kept *take_place_locked(struct watch *watch, uint32_t place) {
    struct kept **link = &watch->kept;
    while (*link != NULL && (*link)->place != place)
        link = &(*link)->next;
    struct kept *found = *link;
    if (found != NULL)
        *link = found->next;
    return found;
}

void file_keep(int descriptor, uint32_t client, uint32_t place, struct holding *holding) {
    struct object_bytes ended = {0};
    struct kept *added = holding != NULL ? malloc(sizeof(*added)) : NULL;
    struct kept *before = NULL;
    const uint64_t signals = lock_watches();
    struct watch *watch = find_exported_locked(descriptor);
    if (watch == NULL && added != NULL) {
        (void)suspect_locked(descriptor);
        watch = new_watch(descriptor, client, MARK(client, 1 + atomic_fetch_add(&exports, 1) % UINT16_MAX));
        if (watch != NULL)
            insert_locked(watch);
    }
    if (watch != NULL)
        before = take_place_locked(watch, place);
    if (watch != NULL && added != NULL) {
        *added = (struct kept){watch->kept, place, holding_share(holding)};
        watch->kept = added;
    }
    unlock_watches(signals);
    if (watch == NULL)
        free(added);
    if (before != NULL)
        holding_drop(before->holding, &ended);
    free(before);
    holding_drop(holding, &ended);
    (void)tally_ended(&ended);
}

struct holding *file_kept(int descriptor, uint32_t place) {
    struct holding *holding = NULL;
    if (atomic_load_explicit(&watch_count, memory_order_relaxed) == 0)
        return NULL;
    const uint64_t signals = lock_watches();
    const struct watch *watch = find_exported_locked(descriptor);
    for (const struct kept *kept = watch != NULL ? watch->kept : NULL; kept != NULL; kept = kept->next)
        if (kept->place == place)
            holding = holding_share(kept->holding);
    unlock_watches(signals);
    return holding;
}

/* ---- The end of files ---- */

static void end_watch(struct watch *watch, struct object_bytes *ended) {
    if (watch->client != 0) {
        struct object *tree = objects_detach((struct object_name){watch->client, watch->client});
        log_debug("client %x ended with its file", watch->client);
        if (tree != NULL)
            objects_destroy(tree, ended);
    }
    for (struct kept *kept = watch->kept, *next; kept != NULL; kept = next) {
        next = kept->next;
        holding_drop(kept->holding, ended);
        free(kept);
    }
    free(watch);
}

/* Files of exports may be many: only those are asked for that were seen to lose a descriptor. */
static bool is_to_be_asked_for(const struct watch *watch) {
    return watch->is_suspect || (watch->client != 0 && is_elsewhere(watch));
}

bool file_collect(void) {
    struct watch *gone = NULL;
    uint32_t suspects = 0;
    struct object_bytes ended = {0};
    if (atomic_load_explicit(&watch_count, memory_order_relaxed) == 0 || !descriptor_is_owner())
        return false;
    const int program_errno = errno;
    const uint64_t signals = lock_watches();
    for (struct watch **link = &watches; *link != NULL;) {
        struct watch *watch = *link;
        const bool asked = is_to_be_asked_for(watch);
        if (asked && !is_open(watch)) {
            take_out_locked(link)->next = gone;
            gone = watch;
            continue;
        }
        watch->is_suspect = asked && is_elsewhere(watch);
        suspects += watch->is_suspect;
        link = &watch->next;
    }
    atomic_store_explicit(&file_suspects, suspects, memory_order_relaxed);
    unlock_watches(signals);
    while (gone != NULL) {
        struct watch *watch = gone;
        gone = watch->next;
        end_watch(watch, &ended);
    }
    const bool gave = tally_ended(&ended);
    errno = program_errno;
    return gave;
}

bool file_suspect(int descriptor) {
    const int program_errno = errno;
    struct stat status;
    const bool any_may_be =
        atomic_load_explicit(&file_suspects, memory_order_relaxed) != 0 && get_status(descriptor, &status);
    const uint64_t signals = lock_watches();
    bool found = suspect_locked(descriptor);
    for (const struct watch *watch = watches; any_may_be && !found && watch != NULL; watch = watch->next)
        found = watch->is_suspect && is_file_of(watch, &status);
    unlock_watches(signals);
    errno = program_errno;
    return found;
}

void file_forget_all(void) {
    pthread_mutex_init(&mutex, NULL);
    watches = NULL; /* not freed: the list may have been in the middle of a change */
    atomic_store_explicit(&watch_count, 0, memory_order_relaxed);
    atomic_store_explicit(&file_suspects, 0, memory_order_relaxed);
}
