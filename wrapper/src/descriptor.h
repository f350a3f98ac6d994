/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors whose close may be the end of a file that matters (file.h), known by their numbers. */
#ifndef CVG_DESCRIPTOR_H
#define CVG_DESCRIPTOR_H

#include <stdbool.h>

enum descriptor_role {
    DESCRIPTOR_WATCHED = 1,   /* its file is watched */
    DESCRIPTOR_REGISTERED = 2 /* its file keeps another one open (NV_ESC_REGISTER_FD), by which its clients live */
};

void descriptor_add_role(int descriptor, enum descriptor_role role);
bool descriptor_has_role(int descriptor, enum descriptor_role role);

/* Whether the roles are this process's own: a child that libc did not make has a copy, or shares them (vfork). */
bool descriptor_is_owner(void);

/* In the child of a fork: it has the same files under the same numbers. */
void descriptor_adopt_all(void);

#endif
