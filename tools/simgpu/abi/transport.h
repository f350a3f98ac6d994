/* SPDX-License-Identifier: Apache-2.0 */
/* How the simulated libraries reach the simulated resource manager. Compiled into each of them. */
#ifndef CONVGPU_SIM_TRANSPORT_H
#define CONVGPU_SIM_TRANSPORT_H

#include "sim_abi.h"

/*
 * Opens nvidiactl where CONVGPU_SIM_DEV says, else the first of /dev and /run/convgpu-sim/dev that is a simulated one.
 * Returns a descriptor, or -1.
 */
int transport_open(void);

/* Asks for device `index`, its processes from the `first_process`th. 0, or -1 with errno. */
int transport_stats(int descriptor, uint32_t index, uint32_t first_process, struct sim_stats *out);

#endif
