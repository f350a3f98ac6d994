/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What only the simulation has: one ioctl on nvidiactl with which its libraries ask about a device. A real driver
 * refuses the number, which is how a library tells a simulated nvidiactl from a real one.
 */
#ifndef CONVGPU_SIM_ABI_H
#define CONVGPU_SIM_ABI_H

#include <linux/ioctl.h>
#include <stdint.h>

#define SIM_ABI_MAGIC 0x534d5531u /* "SMU1": another layout gets another number */
#define SIM_GPUS_MAX 16
#define SIM_PROCESSES_MAX 128 /* in one answer; ask again with first_process for more */
#define SIM_NAME_BYTES 64

#define SIM_DRIVER_VERSION "580.159.04-sim"
#define SIM_CUDA_VERSION 13000

/* Where the libraries look, in this order: the folder that CONVGPU_SIM_DEV names, then these. */
#define SIM_DEV_ENVIRONMENT "CONVGPU_SIM_DEV"
#define SIM_DEV_CONTAINER "/dev"
#define SIM_DEV_HOST "/run/convgpu-sim/dev"

struct sim_process {
    int32_t pid; /* thread group id in the server's pid namespace: the host's, as NVML has it */
    uint32_t padding;
    uint64_t used_bytes;
};

struct sim_stats {
    uint32_t magic;         /* in */
    uint32_t index;         /* in: NVML index, from 0 */
    uint32_t first_process; /* in: so many processes were answered before */
    uint32_t gpu_count;
    uint32_t instance; /* device instance of the resource manager: not the index */
    uint32_t gpu_id;
    uint32_t pci_domain;
    uint32_t pci_bus;
    uint32_t pci_device;
    uint32_t process_count; /* all that hold memory, also those not in this answer */
    uint64_t total_bytes;
    uint64_t used_bytes;
    uint64_t context_bytes; /* what a context costs */
    uint8_t uuid[16];
    char name[SIM_NAME_BYTES];
    struct sim_process process[SIM_PROCESSES_MAX];
};

#define SIM_ESC_STATS 0xE0
#define SIM_IOC_STATS _IOWR('F', SIM_ESC_STATS, struct sim_stats)

_Static_assert(sizeof(struct sim_stats) == 40 + 24 + 16 + SIM_NAME_BYTES + 16 * SIM_PROCESSES_MAX, "no padding");
_Static_assert(sizeof(struct sim_stats) < 1 << 14, "fits the size field of an ioctl number");

#endif
