/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "driver.h"
#include "file.h"
#include "libc.h"

/* Higher descriptors are not noticed at their close: the next collection finds them. */
enum { DESCRIPTORS_MAX = 65536 };

static _Atomic uint8_t roles[DESCRIPTORS_MAX];
static _Atomic long owner; /* process */

static _Atomic uint8_t *roles_of(int descriptor) {
    return descriptor >= 0 && descriptor < DESCRIPTORS_MAX ? &roles[descriptor] : NULL;
}

bool descriptor_is_owner(void) {
    return atomic_load_explicit(&owner, memory_order_relaxed) == syscall(SYS_getpid);
}

void descriptor_adopt_all(void) {
    atomic_store_explicit(&owner, syscall(SYS_getpid), memory_order_relaxed);
}

void descriptor_add_role(int descriptor, enum descriptor_role role) {
    _Atomic uint8_t *known = roles_of(descriptor);
    descriptor_adopt_all();
    if (known != NULL)
        atomic_fetch_or_explicit(known, (uint8_t)role, memory_order_relaxed);
}

bool descriptor_has_role(int descriptor, enum descriptor_role role) {
    const _Atomic uint8_t *known = roles_of(descriptor);
    return known != NULL && (atomic_load_explicit(known, memory_order_relaxed) & role) != 0;
}

static void drop_roles(int descriptor) {
    _Atomic uint8_t *known = roles_of(descriptor);
    if (known != NULL)
        atomic_store_explicit(known, 0, memory_order_relaxed);
}

/*
 * Two loads for every close of the process. While a watched file outlives its descriptor, any other may be its last
 * one, and each close costs an fstat more.
 */
static inline bool may_matter(int descriptor) {
    return descriptor >= 0 &&
           ((descriptor < DESCRIPTORS_MAX && atomic_load_explicit(&roles[descriptor], memory_order_relaxed) != 0) ||
            atomic_load_explicit(&file_suspects, memory_order_relaxed) != 0);
}

/* Before a descriptor is closed, or given to another file. True: something may end with it, so collect afterwards. */
static bool leaves(int descriptor) {
    return descriptor_is_owner() &&
           (file_suspect(descriptor) || descriptor_has_role(descriptor, DESCRIPTOR_REGISTERED));
}

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): libc's own names are reserved */

CVG_EXPORT int close(int descriptor) {
    const struct libc_functions *libc = libc_calls();
    if (!may_matter(descriptor) || !leaves(descriptor))
        return libc->close(descriptor);
    drop_roles(descriptor); /* before: afterwards another thread may be given this number */
    const int result = libc->close(descriptor);
    (void)file_collect();
    return result;
}

/* Of dup2 and dup3: `to` keeps its roles if it keeps its file. */
static int replaced(int to, int result) {
    if (result == to)
        drop_roles(to);
    (void)file_collect();
    return result;
}

CVG_EXPORT int dup2(int from, int to) {
    const struct libc_functions *libc = libc_calls();
    if (from == to || !may_matter(to) || !leaves(to))
        return libc->dup2(from, to);
    return replaced(to, libc->dup2(from, to));
}

CVG_EXPORT int dup3(int from, int to, int flags) {
    const struct libc_functions *libc = libc_calls();
    if (from == to || !may_matter(to) || !leaves(to))
        return libc->dup3(from, to, flags);
    return replaced(to, libc->dup3(from, to, flags));
}

/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
