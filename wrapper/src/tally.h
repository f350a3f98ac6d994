/* SPDX-License-Identifier: Apache-2.0 */
/* What objects take and give back, in the account and in what the thread's driver call is known to have taken. */
#ifndef CVG_TALLY_H
#define CVG_TALLY_H

#include <stdbool.h>
#include <stdint.h>

#include "objects.h"

/* The driver made an object of this size: reserved -> used. */
void tally_made(uint32_t slot, uint64_t size_bytes);

/* Objects ended: used -> credit, and whoever waits for it is told. True: there is more credit than before. */
bool tally_ended(const struct object_bytes *ended);

#endif
