/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a stream of this process captures a graph. Then nobody waits: in its usual mode a capture forbids every
 * thread to free memory, so what one waits for might never come.
 */
#ifndef CVG_CAPTURE_H
#define CVG_CAPTURE_H

#include <stdbool.h>

#include "driver.h"

bool capture_is_on(void);
void capture_forget_all(void);

#endif
