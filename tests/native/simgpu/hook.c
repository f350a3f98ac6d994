/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A preloaded library that stands where ConvGPU's wrapper stands: it must see every ioctl of libcuda, can refuse one as
 * the driver does, and must not be handed out by the library's own cuGetProcAddress.
 *
 * At exit it prints `boundary allocations <n> bytes <sum> frees <n>` for class 0x40. SIMGPU_HOOK_LIMIT=N refuses the
 * N+1st allocation and every later one, or only as many as SIMGPU_HOOK_REFUSALS says. simgpu_hook_live_bytes() is the
 * sum of the objects that live: what the process holds, seen from the boundary alone; simgpu_hook_asked_bytes() is what
 * was asked for last, before the driver rounded it. simgpu_hook_refuse(n) refuses
 * one allocation, the n+1st from now; simgpu_hook_refused() says whether that happened since.
 */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RM_ALLOC_48 0xc030462bul
#define RM_FREE_16 0xc0104629ul
#define OBJECTS_MAX 4096
#define CLASS_VIDEO_MEMORY 0x40u
#define NV_ERR_NO_MEMORY 0x51u

static unsigned allocations, frees, overridden, refusals;
static unsigned long long allocated_bytes, asked_bytes;
static long countdown = -1; /* allocations until the one that is refused; negative: none is */
static struct {
    uint32_t client, handle;
    unsigned long long size_bytes; /* 0: a place that is free */
} live[OBJECTS_MAX];

__attribute__((visibility("default"))) unsigned long long simgpu_hook_live_bytes(void) {
    unsigned long long sum_bytes = 0;

    for (unsigned i = 0; i < OBJECTS_MAX; i++)
        sum_bytes += live[i].size_bytes;
    return sum_bytes;
}

__attribute__((destructor)) static void report(void) {
    printf("boundary allocations %u bytes %llu frees %u overridden %u\n", allocations, allocated_bytes, frees,
           overridden);
}

static uint32_t word(const void *block, size_t offset) {
    uint32_t value;

    memcpy(&value, (const char *)block + offset, sizeof(value));
    return value;
}

__attribute__((visibility("default"))) unsigned long long simgpu_hook_asked_bytes(void) {
    return asked_bytes;
}

__attribute__((visibility("default"))) void simgpu_hook_refuse(unsigned after) {
    countdown = after;
}

__attribute__((visibility("default"))) int simgpu_hook_refused(void) {
    int refused = countdown < 0;

    countdown = -1;
    return refused;
}

/* Begins (size_bytes) or ends (0) the life of an object. A second object of the same name would be an error. */
static void note(uint32_t client, uint32_t handle, unsigned long long size_bytes) {
    unsigned place = OBJECTS_MAX;

    for (unsigned i = 0; i < OBJECTS_MAX; i++) {
        if (live[i].size_bytes && live[i].client == client && live[i].handle == handle) {
            if (size_bytes)
                abort();
            live[i].size_bytes = 0;
        } else if (!live[i].size_bytes) {
            place = i;
        }
    }
    if (!size_bytes)
        return;
    if (place == OBJECTS_MAX)
        abort();
    live[place].client = client;
    live[place].handle = handle;
    live[place].size_bytes = size_bytes;
}

int ioctl(int descriptor, unsigned long command, ...) {
    static int (*real)(int, unsigned long, ...);
    const char *limit = getenv("SIMGPU_HOOK_LIMIT"), *most = getenv("SIMGPU_HOOK_REFUSALS");
    uint64_t parameters, size_bytes;
    va_list arguments;
    void *block;
    int result;

    va_start(arguments, command);
    block = va_arg(arguments, void *);
    va_end(arguments);
    if (!real)
        real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    if (command == RM_FREE_16) {
        frees++;
        result = real(descriptor, command, block);
        if (result == 0 && word(block, 12) == 0)
            note(word(block, 0), word(block, 8), 0);
        return result;
    }
    if (command != RM_ALLOC_48 || word(block, 12) != CLASS_VIDEO_MEMORY)
        return real(descriptor, command, block);
    if ((countdown >= 0 && countdown-- == 0) ||
        (limit && allocations >= strtoul(limit, NULL, 10) && (!most || refusals < strtoul(most, NULL, 10)))) {
        const uint32_t status = NV_ERR_NO_MEMORY;

        refusals++;
        memcpy((char *)block + 40, &status, sizeof(status));
        return 0;
    }
    memcpy(&parameters, (char *)block + 16, sizeof(parameters));
    memcpy(&asked_bytes, (void *)(uintptr_t)(parameters + 64), sizeof(asked_bytes));
    result = real(descriptor, command, block);
    if (result == 0 && word(block, 40) == 0) {
        memcpy(&size_bytes, (void *)(uintptr_t)(parameters + 64), sizeof(size_bytes));
        allocations++;
        allocated_bytes += size_bytes;
        note(word(block, 0), word(block, 8), size_bytes);
    }
    return result;
}

/* If libcuda's table led here, an allocation would fail with code 999. */
int cuMemAlloc_v2(unsigned long long *pointer, size_t size_bytes) {
    (void)pointer, (void)size_bytes;
    overridden++;
    return 999;
}
