/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file system with two files: an ioctl on `accept` succeeds and changes nothing, one on `refuse` fails with EIO.
 *
 * The witness reads what the caller's memory says when the system call returns. With this, a test writes there what a
 * driver would have written: any status, any rounded size.
 */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fuse.h>
#include <string.h>
#include <sys/stat.h>

static int is_file(const char *path) {
    return !strcmp(path, "/accept") || !strcmp(path, "/refuse");
}

static int echo_getattr(const char *path, struct stat *status, struct fuse_file_info *info) {
    (void)info;
    memset(status, 0, sizeof(*status));
    if (!strcmp(path, "/")) {
        status->st_mode = S_IFDIR | 0755;
        status->st_nlink = 2;
        return 0;
    }
    if (!is_file(path))
        return -ENOENT;
    status->st_mode = S_IFREG | 0666;
    status->st_nlink = 1;
    return 0;
}

static int echo_open(const char *path, struct fuse_file_info *info) {
    (void)info;
    return is_file(path) ? 0 : -ENOENT;
}

static int echo_ioctl(const char *path, unsigned int command, void *argument, struct fuse_file_info *info,
                      unsigned int flags, void *data) {
    (void)command, (void)argument, (void)info, (void)flags, (void)data;
    return strcmp(path, "/refuse") ? 0 : -EIO;
}

int main(int argc, char **argv) {
    static const struct fuse_operations operations = {
        .getattr = echo_getattr,
        .open = echo_open,
        .ioctl = echo_ioctl,
    };
    return fuse_main(argc, argv, &operations, NULL);
}
