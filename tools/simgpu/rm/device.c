/* SPDX-License-Identifier: Apache-2.0 */
#include "device.h"

#include <stdio.h>
#include <string.h>

#define FIRST_PCI_DEVICE 6 /* as on the measured machines: 0000:00:06.0, 0000:00:07.0, ... */

static struct device devices[SIM_GPUS_MAX];
static unsigned count;

static void set_pci(struct device *device, uint32_t domain, uint32_t bus, uint32_t slot) {
    device->pci_domain = domain;
    device->pci_bus = bus;
    device->pci_device = slot;
    device->gpu_id = domain << 16 | bus << 8 | slot; /* seen on the H200: 00:06 is id 6, 00:07 is id 7 */
}

void devices_setup(unsigned device_count, uint64_t total_bytes, uint64_t context_bytes) {
    static const uint8_t uuid[16] = {0x5e, 0x5e, 0, 0, 0, 0, 0x40, 0, 0x80, 0};

    memset(devices, 0, sizeof(devices));
    count = device_count;
    for (unsigned i = 0; i < count; i++) {
        struct device *device = &devices[i];

        /* Measured with two GPUs: NVML index 0 was instance 1. Nobody may take one for the other. */
        device->instance = count - 1 - i;
        device->total_bytes = total_bytes;
        device->context_bytes = context_bytes;
        memcpy(device->uuid, uuid, sizeof(uuid));
        device->uuid[15] = (uint8_t)i;
        snprintf(device->name, sizeof(device->name), "Simulated GPU");
        set_pci(device, 0, 0, FIRST_PCI_DEVICE + i);
    }
}

bool device_set_uuid(unsigned index, const char *text) {
    uint8_t uuid[16];
    unsigned digits = 0;

    if (strncmp(text, "GPU-", 4) != 0)
        return false;
    for (const char *c = text + 4; *c; c++) {
        unsigned value;

        if (*c == '-' && (digits == 8 || digits == 12 || digits == 16 || digits == 20))
            continue;
        if (digits == 32 || !strchr("0123456789abcdef", *c))
            return false;
        value = (unsigned)(*c <= '9' ? *c - '0' : *c - 'a' + 10);
        uuid[digits / 2] = (uint8_t)(digits % 2 ? uuid[digits / 2] | value : value << 4);
        digits++;
    }
    if (digits != 32)
        return false;
    for (unsigned i = 0; i < count; i++)
        if (i != index && memcmp(devices[i].uuid, uuid, sizeof(uuid)) == 0)
            return false;
    memcpy(devices[index].uuid, uuid, sizeof(uuid));
    return true;
}

bool device_set_pci(unsigned index, const char *text) {
    unsigned domain, bus, slot;
    int end = 0;

    if (sscanf(text, "%4x:%2x:%2x.0%n", &domain, &bus, &slot, &end) != 3 || !end || text[end] != '\0' || slot > 31)
        return false;
    for (unsigned i = 0; i < count; i++)
        if (i != index && devices[i].gpu_id == (domain << 16 | bus << 8 | slot))
            return false;
    set_pci(&devices[index], domain, bus, slot);
    return true;
}

unsigned devices_count(void) {
    return count;
}

struct device *device_at(int index) {
    return &devices[index];
}

int device_index_of_instance(uint32_t instance) {
    for (unsigned i = 0; i < count; i++)
        if (devices[i].instance == instance)
            return (int)i;
    return DEVICE_NONE;
}

int device_index_of_gpu_id(uint32_t gpu_id) {
    for (unsigned i = 0; i < count; i++)
        if (devices[i].gpu_id == gpu_id)
            return (int)i;
    return DEVICE_NONE;
}

bool device_take(int index, uint64_t size_bytes) {
    struct device *device = &devices[index];

    if (size_bytes > device->total_bytes - device->used_bytes)
        return false;
    device->used_bytes += size_bytes;
    return true;
}

void device_give(int index, uint64_t size_bytes) {
    devices[index].used_bytes -= size_bytes;
}

void device_uuid_text(const struct device *device, char text[41]) {
    char *out = text + sprintf(text, "GPU-");

    for (int i = 0; i < 16; i++)
        out += sprintf(out, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", device->uuid[i]);
}
