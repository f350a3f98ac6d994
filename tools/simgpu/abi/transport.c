/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE

#include "transport.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int transport_stats(int descriptor, uint32_t index, uint32_t first_process, struct sim_stats *out) {
    memset(out, 0, sizeof(*out));
    out->magic = SIM_ABI_MAGIC;
    out->index = index;
    out->first_process = first_process;
    return ioctl(descriptor, SIM_IOC_STATS, out);
}

static int open_in(const char *folder) {
    struct sim_stats stats;
    char path[512];
    int descriptor;

    if (snprintf(path, sizeof(path), "%s/nvidiactl", folder) >= (int)sizeof(path))
        return -1;
    descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (descriptor >= 0 && (transport_stats(descriptor, 0, 0, &stats) != 0 || stats.magic != SIM_ABI_MAGIC)) {
        close(descriptor); /* a real driver's file, or another version's */
        descriptor = -1;
    }
    return descriptor;
}

int transport_open(void) {
    const char *chosen = getenv(SIM_DEV_ENVIRONMENT);
    int descriptor;

    if (chosen && *chosen)
        return open_in(chosen);
    descriptor = open_in(SIM_DEV_CONTAINER);
    return descriptor >= 0 ? descriptor : open_in(SIM_DEV_HOST);
}
