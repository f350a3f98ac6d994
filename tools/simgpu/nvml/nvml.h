/* SPDX-License-Identifier: Apache-2.0 */
/* The part of NVML that the simulated library offers, from the published structures, and what its modules share. */
#ifndef CONVGPU_SIM_NVML_NVML_H
#define CONVGPU_SIM_NVML_NVML_H

#include "sim_abi.h"

#define SIM_EXPORT __attribute__((visibility("default")))

typedef enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_FUNCTION_NOT_FOUND = 13,
    NVML_ERROR_GPU_IS_LOST = 15,
} nvmlReturn_t;

typedef struct sim_nvml_device *nvmlDevice_t;

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;

#define NVML_MEMORY_V2 (unsigned)(sizeof(nvmlMemory_v2_t) | 2 << 24)

typedef struct {
    unsigned pid;
    unsigned long long usedGpuMemory;
    unsigned gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;

#define NVML_NO_INSTANCE 0xffffffffu /* no MIG */

typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;

typedef struct {
    unsigned gpu, memory;
} nvmlUtilization_t;

enum { NVML_TEMPERATURE_GPU = 0 };

/* Fresh figures of a device; refuses a handle that is none, and every call before nvmlInit. */
nvmlReturn_t sim_nvml_stats(nvmlDevice_t device, uint32_t first_process, struct sim_stats *out);
/* Figures by index, for finding handles. */
nvmlReturn_t sim_nvml_stats_at(unsigned index, struct sim_stats *out);
nvmlDevice_t sim_nvml_handle(unsigned index);
nvmlReturn_t sim_nvml_ready(void);
/* Copies a text with its end into a caller's buffer. */
nvmlReturn_t sim_nvml_text(const char *text, char *out, unsigned length);

#endif
