/* SPDX-License-Identifier: Apache-2.0 */
/* The one figure behind everything that a program is told about memory. */
#ifndef CVG_VIEW_H
#define CVG_VIEW_H

#include <stdint.h>

/* The container's limit on a device, and what is left of it; from the page alone if the daemon does not answer. */
void view_figures(uint32_t slot, uint64_t *total_bytes, uint64_t *free_bytes);

#endif
