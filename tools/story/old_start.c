/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lets a program that a new glibc's start files were linked into run with an old glibc, as the images of others have
 * it. glibc 2.34 gave __libc_start_main a new version, and that is all that such a program needs of it. Linked with
 * -Wl,--wrap=__libc_start_main. The old version is there in every glibc; a newer one runs the constructors itself.
 */
typedef int start_main(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void), void (*)(void),
                       void *);

start_main old_start_main;
start_main __wrap___libc_start_main;

#if defined(__x86_64__)
__asm__(".symver old_start_main, __libc_start_main@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver old_start_main, __libc_start_main@GLIBC_2.17");
#else
#error "which version of __libc_start_main is the first one here?"
#endif

int __wrap___libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void),
                             void (*fini)(void), void (*rtld_fini)(void), void *stack_end) {
    return old_start_main(main, argc, argv, init, fini, rtld_fini, stack_end);
}
