/* SPDX-License-Identifier: Apache-2.0 */
/* Questions about the devices: RM_ESC_CONTROL, the simulation's own ioctl, and the readable status file. */
#ifndef CONVGPU_SIM_RM_CONTROL_H
#define CONVGPU_SIM_RM_CONTROL_H

#include "escape.h"

void handle_control(const struct request *request, void *block);

/* Fills a struct sim_stats; 0 or an errno. */
int stats_answer(void *block);

/* The state as JSON in fresh memory that the caller frees; NULL: out of memory. */
char *status_text(size_t *length);

#endif
