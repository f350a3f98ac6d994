/* SPDX-License-Identifier: Apache-2.0 */
/* Devices: how one is found, what it is, what it holds. */
#include "nvml.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define PCI_VENDOR_AND_DEVICE 0xffff10deu /* NVIDIA's vendor number, and a device that does not exist */

static void uuid_text(const struct sim_stats *stats, char text[41]) {
    char *out = text + sprintf(text, "GPU-");

    for (int i = 0; i < 16; i++)
        out += sprintf(out, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", stats->uuid[i]);
}

/* The index behind a handle, by asking for its figures. */
static nvmlReturn_t number(nvmlDevice_t device, unsigned *out) {
    struct sim_stats stats;
    nvmlReturn_t result = sim_nvml_stats(device, 0, &stats);

    if (result == NVML_SUCCESS && !out)
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS)
        *out = stats.index;
    return result;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    struct sim_stats stats;
    nvmlReturn_t result = sim_nvml_stats_at(0, &stats);

    if (result == NVML_SUCCESS && !count)
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS)
        *count = stats.gpu_count;
    return result;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    struct sim_stats stats;
    nvmlReturn_t result = sim_nvml_stats_at(0, &stats);

    if (result == NVML_SUCCESS && (!device || index >= stats.gpu_count))
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS)
        *device = sim_nvml_handle(index);
    return result;
}

static bool has_uuid(const struct sim_stats *stats, const char *wanted) {
    char text[41];

    uuid_text(stats, text);
    return strcmp(wanted, text) == 0 || strcmp(wanted, text + 4) == 0; /* the prefix may be left out: measured */
}

static bool has_pci(const struct sim_stats *stats, const char *wanted) {
    unsigned domain = 0, bus, slot;
    int end = 0;

    if (sscanf(wanted, "%8x:%2x:%2x.0%n", &domain, &bus, &slot, &end) != 3 || !end || wanted[end]) {
        domain = 0; /* the domain may be left out: measured */
        end = 0;
        if (sscanf(wanted, "%2x:%2x.0%n", &bus, &slot, &end) != 2 || !end || wanted[end])
            return false;
    }
    return domain == stats->pci_domain && bus == stats->pci_bus && slot == stats->pci_device;
}

static nvmlReturn_t find(bool (*matches)(const struct sim_stats *, const char *), const char *wanted,
                         nvmlReturn_t otherwise, nvmlDevice_t *device) {
    struct sim_stats stats = {.gpu_count = 1};

    for (unsigned i = 0; i < stats.gpu_count; i++) {
        nvmlReturn_t result = sim_nvml_stats_at(i, &stats);

        if (result == NVML_SUCCESS && (!wanted || !device))
            result = NVML_ERROR_INVALID_ARGUMENT;
        if (result != NVML_SUCCESS)
            return result;
        if (matches(&stats, wanted)) {
            *device = sim_nvml_handle(i);
            return NVML_SUCCESS;
        }
    }
    return otherwise;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    return find(has_uuid, uuid, NVML_ERROR_NOT_FOUND, device);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *pciBusId, nvmlDevice_t *device);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *pciBusId, nvmlDevice_t *device) {
    return find(has_pci, pciBusId, NVML_ERROR_INVALID_ARGUMENT, device);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length) {
    struct sim_stats stats;
    nvmlReturn_t result = sim_nvml_stats(device, 0, &stats);
    char text[41];

    if (result != NVML_SUCCESS)
        return result;
    uuid_text(&stats, text);
    return sim_nvml_text(text, uuid, length);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length) {
    struct sim_stats stats;
    nvmlReturn_t result = sim_nvml_stats(device, 0, &stats);

    return result == NVML_SUCCESS ? sim_nvml_text(stats.name, name, length) : result;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index) {
    return number(device, index);
}

/* The N of nvidiaN. */
SIM_EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned *minorNumber);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned *minorNumber) {
    return number(device, minorNumber);
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    struct sim_stats stats;
    nvmlReturn_t result = sim_nvml_stats(device, 0, &stats);

    if (result == NVML_SUCCESS && !memory)
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS) {
        memory->total = stats.total_bytes;
        memory->used = stats.used_bytes;
        memory->free = stats.total_bytes - stats.used_bytes;
    }
    return result;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    struct sim_stats stats;
    nvmlReturn_t result = sim_nvml_stats(device, 0, &stats);

    if (result == NVML_SUCCESS && !memory)
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS && memory->version != NVML_MEMORY_V2)
        result = NVML_ERROR_FUNCTION_NOT_FOUND; /* as measured */
    if (result == NVML_SUCCESS) {
        memory->total = stats.total_bytes;
        memory->reserved = 0;
        memory->used = stats.used_bytes;
        memory->free = stats.total_bytes - stats.used_bytes;
    }
    return result;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    struct sim_stats stats;
    nvmlReturn_t result = sim_nvml_stats(device, 0, &stats);

    if (result == NVML_SUCCESS && !pci)
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result != NVML_SUCCESS)
        return result;
    memset(pci, 0, sizeof(*pci));
    pci->domain = stats.pci_domain;
    pci->bus = stats.pci_bus;
    pci->device = stats.pci_device;
    pci->pciDeviceId = PCI_VENDOR_AND_DEVICE;
    snprintf(pci->busIdLegacy, sizeof(pci->busIdLegacy), "%04X:%02X:%02X.0", pci->domain & 0xffff, pci->bus & 0xff,
             pci->device & 0xff);
    snprintf(pci->busId, sizeof(pci->busId), "%08X:%02X:%02X.0", pci->domain, pci->bus & 0xff, pci->device & 0xff);
    return NVML_SUCCESS;
}

/*
 * *count: in, the room in `processes`; out, how many there are. Too little room is INSUFFICIENT_SIZE and nothing
 * written; so a caller asks with 0 first, takes some more than the answer, and asks again.
 */
SIM_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count,
                                                                nvmlProcessInfo_t *processes);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count,
                                                                nvmlProcessInfo_t *processes) {
    struct sim_stats stats;
    nvmlReturn_t result = sim_nvml_stats(device, 0, &stats);
    unsigned room, done = 0;

    if (result == NVML_SUCCESS && (!count || (*count && !processes)))
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result != NVML_SUCCESS)
        return result;
    room = *count;
    *count = stats.process_count;
    if (stats.process_count > room)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (;;) {
        for (unsigned i = 0; i < SIM_PROCESSES_MAX && done < stats.process_count && done < room; i++, done++)
            processes[done] = (nvmlProcessInfo_t){(unsigned)stats.process[i].pid, stats.process[i].used_bytes,
                                                  NVML_NO_INSTANCE, NVML_NO_INSTANCE};
        if (done >= stats.process_count || done >= room)
            break;
        result = sim_nvml_stats(device, done, &stats); /* may have fewer by now */
        if (result != NVML_SUCCESS)
            return result;
    }
    *count = done;
    return NVML_SUCCESS;
}

/* Nothing computes here, and nothing gets warm. */
SIM_EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
    struct sim_stats stats;
    nvmlReturn_t result = sim_nvml_stats(device, 0, &stats);

    if (result == NVML_SUCCESS && !utilization)
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS)
        *utilization = (nvmlUtilization_t){0, 0};
    return result;
}

SIM_EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *temp);
SIM_EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *temp) {
    struct sim_stats stats;
    nvmlReturn_t result = sim_nvml_stats(device, 0, &stats);

    if (result == NVML_SUCCESS && (!temp || sensor != NVML_TEMPERATURE_GPU))
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS)
        *temp = 25; /* degrees Celsius: a room */
    return result;
}
