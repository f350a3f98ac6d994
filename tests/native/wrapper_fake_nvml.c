/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A libnvidia-ml.so.1 for unit tests of the wrapper: devices named like those of wrapper_fake_rm.c, all of 1 GiB with
 * 600 MiB in use by two processes of the host, of which the container must see nothing. A handle is the index + 1.
 * It lacks the _v2 lists on purpose.
 */
#include <stdint.h>
#include <stdio.h>

enum { OK = 0, INVALID = 2, MIB = 1 << 20 };

int nvmlDeviceGetUUID(uintptr_t device, char *text, unsigned int size) {
    if (device == 0 || device > 8)
        return INVALID;
    const unsigned int byte = 0xA0 + (unsigned int)device - 1;
    snprintf(text, size, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", byte, byte, byte,
             byte, byte, byte, byte, byte, byte, byte, byte, byte, byte, byte, byte, byte);
    return OK;
}

int nvmlDeviceGetMemoryInfo(uintptr_t device, unsigned long long *memory) {
    if (device == 0 || device > 8)
        return INVALID;
    memory[0] = 1024ULL * MIB;
    memory[1] = 424ULL * MIB;
    memory[2] = 600ULL * MIB;
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(uintptr_t device, unsigned long long *memory) {
    unsigned long long first[3];
    const int result = nvmlDeviceGetMemoryInfo(device, first);
    if (result != OK)
        return result;
    memory[1] = first[0];
    memory[2] = 5;
    memory[3] = first[1];
    memory[4] = first[2];
    return OK;
}

static int list(uintptr_t device, unsigned int *count) {
    if (device == 0 || device > 8)
        return INVALID;
    *count = 2;
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses(uintptr_t device, unsigned int *count, void *infos) {
    (void)infos;
    return list(device, count);
}

int nvmlDeviceGetComputeRunningProcesses_v3(uintptr_t device, unsigned int *count, void *infos) {
    (void)infos;
    return list(device, count);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(uintptr_t device, unsigned int *count, void *infos) {
    (void)infos;
    return list(device, count);
}
