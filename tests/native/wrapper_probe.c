/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks names up relative to itself, as a library of a program does. Built twice
 * (-DPROBE_NUMBER=1 and 2) and linked in this order: each defines probe_number, and number 1 asks for the next one
 * after itself, which has to be 2, with a preloaded dlsym or without.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

int probe_number(void);

int probe_number(void) {
    return PROBE_NUMBER;
}

#if PROBE_NUMBER == 1
/* The number of the next library after this one, times 10, plus that of the first of all. */
int probe_order(void);

int probe_order(void) {
    int (*next)(void) = (int (*)(void))dlsym(RTLD_NEXT, "probe_number");
    int (*first)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "probe_number");
    return next == NULL || first == NULL ? -2 : next() * 10 + first();
}

void *probe_next(const char *name);

/* A local variable that survives the call keeps the compiler from turning this into a jump. */
void *probe_next(const char *name) {
    void *volatile found = dlsym(RTLD_NEXT, name);
    return found;
}
#endif
