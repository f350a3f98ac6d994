/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel copies the block of an ioctl in and out by the size and direction in its number (FUSE's restricted
 * ioctls), names the calling thread, and sends `release` when the last reference to an open file has gone, also after
 * SIGKILL. Requests are served one after the other: the order of arrival is the order of effect.
 *
 * A real driver has freed everything when the last close returns. Here `release` is then on its way, and nobody waits
 * for it; but it is ahead of every request that is made after the close, which is the same to whoever asks.
 */
#define _GNU_SOURCE

#include "filesystem.h"

#include "caller.h"
#include "control.h"
#include "device.h"
#include "escape.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Beyond this many at a time the kernel holds `release` back and lets later requests overtake it: its largest. */
#define BACKGROUND_MAX UINT16_MAX

#define CACHE_S 3600.0 /* names and attributes never change while mounted */

/* Files in the order of file_name. */
enum inode { INODE_ROOT = FUSE_ROOT_ID, INODE_STATUS, INODE_CONTROL, INODE_UVM, INODE_FIRST_GPU };

/* An open file. */
struct descriptor {
    pid_t opener;  /* of a device file: thread group id */
    char *text;    /* of the status: as it was at open, so that a reader in steps sees one moment */
    size_t length; /* of the text */
};

static unsigned file_count(void) {
    return INODE_FIRST_GPU - INODE_STATUS + devices_count();
}

static void file_name(fuse_ino_t inode, char name[16]) {
    static const char *const fixed[] = {"status", "nvidiactl", "nvidia-uvm"};

    if (inode < INODE_FIRST_GPU)
        snprintf(name, 16, "%s", fixed[inode - INODE_STATUS]);
    else
        snprintf(name, 16, "nvidia%u", (unsigned)(inode - INODE_FIRST_GPU) % 1000);
}

static void file_attributes(fuse_ino_t inode, struct stat *out) {
    memset(out, 0, sizeof(*out));
    out->st_ino = inode;
    out->st_nlink = inode == INODE_ROOT ? 2 : 1;
    out->st_mode = inode == INODE_ROOT ? S_IFDIR | 0755 : inode == INODE_STATUS ? S_IFREG | 0444 : S_IFREG | 0666;
}

static void on_init(void *data, struct fuse_conn_info *connection) {
    (void)data;
    connection->max_background = BACKGROUND_MAX;
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *wanted) {
    struct fuse_entry_param entry = {.attr_timeout = CACHE_S, .entry_timeout = CACHE_S};
    char name[16];

    for (unsigned i = 0; parent == INODE_ROOT && i < file_count(); i++) {
        file_name(INODE_STATUS + i, name);
        if (strcmp(name, wanted) == 0) {
            entry.ino = INODE_STATUS + i;
            file_attributes(entry.ino, &entry.attr);
            fuse_reply_entry(request, &entry);
            return;
        }
    }
    fuse_reply_err(request, ENOENT);
}

static void on_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file) {
    struct stat attributes;

    (void)file;
    file_attributes(inode, &attributes);
    fuse_reply_attr(request, &attributes, CACHE_S);
}

static void on_readdir(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *file) {
    char *buffer = malloc(size), name[16];
    struct stat attributes;
    size_t filled = 0;

    (void)inode, (void)file;
    if (!buffer) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    for (unsigned i = (unsigned)offset; i < file_count(); i++) {
        size_t needed;

        file_name(INODE_STATUS + i, name);
        file_attributes(INODE_STATUS + i, &attributes);
        needed = fuse_add_direntry(request, buffer + filled, size - filled, name, &attributes, i + 1);
        if (needed > size - filled)
            break;
        filled += needed;
    }
    fuse_reply_buf(request, buffer, filled);
    free(buffer);
}

/* Fills a fresh descriptor; 0 or an errno. */
static int prepare(struct descriptor *descriptor, fuse_ino_t inode, pid_t thread) {
    if (inode == INODE_STATUS) {
        descriptor->text = status_text(&descriptor->length);
        return descriptor->text ? 0 : ENOMEM;
    }
    descriptor->opener = caller_process(thread);
    if (!descriptor->opener) /* outside our pid namespace: neither chargeable nor readable */
        fprintf(stderr, "simgpu-rm: open by a process that this pid namespace does not see\n");
    return descriptor->opener ? 0 : EPERM;
}

static void discard(struct descriptor *descriptor) {
    if (descriptor)
        free(descriptor->text);
    free(descriptor);
}

static void on_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file) {
    struct descriptor *descriptor = calloc(1, sizeof(*descriptor));
    int error = descriptor ? prepare(descriptor, inode, fuse_req_ctx(request)->pid) : ENOMEM;

    if (error) {
        fuse_reply_err(request, error);
        discard(descriptor);
        return;
    }
    file->fh = (uint64_t)(uintptr_t)descriptor;
    file->direct_io = inode == INODE_STATUS; /* its size is not known before */
    if (fuse_reply_open(request, file) != 0) /* the caller was interrupted: no release will come */
        discard(descriptor);
}

static void on_release(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file) {
    struct descriptor *descriptor = (struct descriptor *)(uintptr_t)file->fh;

    (void)inode;
    clients_release(descriptor);
    discard(descriptor);
    fuse_reply_err(request, 0);
}

static void on_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *file) {
    const struct descriptor *descriptor = (const struct descriptor *)(uintptr_t)file->fh;
    size_t at = (size_t)offset;

    if (inode != INODE_STATUS)
        fuse_reply_err(request, EINVAL);
    else if (at >= descriptor->length)
        fuse_reply_buf(request, NULL, 0);
    else
        fuse_reply_buf(request, descriptor->text + at, descriptor->length - at < size ? descriptor->length - at : size);
}

static void on_ioctl(fuse_req_t request, fuse_ino_t inode, unsigned command, void *argument,
                     struct fuse_file_info *file, unsigned flags, const void *in, size_t in_size, size_t out_size) {
    _Alignas(8) uint8_t block[1 << _IOC_SIZEBITS];
    const struct descriptor *descriptor = (const struct descriptor *)(uintptr_t)file->fh;
    const pid_t thread = fuse_req_ctx(request)->pid;
    struct request escape = {.thread = thread};
    size_t size = in_size > out_size ? in_size : out_size;
    int result;

    (void)argument;
    if (inode == INODE_UVM) { /* UVM's numbers carry no size; none of its calls takes memory here */
        fuse_reply_ioctl(request, 0, NULL, 0);
        return;
    }
    if (inode == INODE_STATUS || flags & FUSE_IOCTL_COMPAT || size > sizeof(block)) {
        fuse_reply_err(request, inode == INODE_STATUS ? ENOTTY : EINVAL);
        return;
    }
    /* A child may use its parent's descriptor: it is another asker. */
    escape.asker.descriptor = descriptor;
    escape.asker.pid = descriptor->opener;
    if (!caller_is_of(thread, descriptor->opener)) {
        pid_t process = caller_process(thread);

        if (process)
            escape.asker.pid = process;
    }
    memset(block, 0, size);
    memcpy(block, in, in_size);
    result = escape_handle(&escape, _IOC_NR(command), block, size);
    if (result != 0)
        fuse_reply_err(request, result);
    else
        fuse_reply_ioctl(request, 0, block, out_size);
}

const struct fuse_lowlevel_ops filesystem_operations = {
    .init = on_init,
    .lookup = on_lookup,
    .getattr = on_getattr,
    .readdir = on_readdir,
    .open = on_open,
    .release = on_release,
    .read = on_read,
    .ioctl = on_ioctl,
};
