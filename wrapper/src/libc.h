/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The functions of libc behind the names that this library takes over, found without asking dlsym, since that name is
 * ours as well.
 */
#ifndef CVG_LIBC_H
#define CVG_LIBC_H

struct libc_functions {
    void *(*dlopen)(const char *, int);
    void *(*dlsym)(void *, const char *);
    void *(*dlvsym)(void *, const char *, const char *);
    char *(*dlerror)(void);
    /* The next in the search order, so that other preloaded libraries go on; never null. */
    int (*ioctl)(int, unsigned long, ...);
    int (*close)(int);
    int (*dup2)(int, int);
    int (*dup3)(int, int, int);
};

/* For ioctl, close, dup2 and dup3: looked up once. */
const struct libc_functions *libc_calls(void);

/* For the loader's functions: null while the library that has them is not loaded (libdl, before glibc 2.34). */
const struct libc_functions *libc_functions(void);

#endif
