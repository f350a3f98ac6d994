/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A preloaded library that stands where ConvGPU's wrapper stands: it must see every ioctl of libcuda, can refuse one as
 * the driver does, and must not be handed out by the library's own cuGetProcAddress.
 *
 * At exit it prints `boundary allocations <n> bytes <sum> frees <n>` for class 0x40. SIMGPU_HOOK_LIMIT=N refuses the
 * N+1st allocation and every later one, or only as many as SIMGPU_HOOK_REFUSALS says.
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
#define CLASS_VIDEO_MEMORY 0x40u
#define NV_ERR_NO_MEMORY 0x51u

static unsigned allocations, frees, overridden, refusals;
static unsigned long long allocated_bytes;

__attribute__((destructor)) static void report(void) {
    printf("boundary allocations %u bytes %llu frees %u overridden %u\n", allocations, allocated_bytes, frees,
           overridden);
}

static uint32_t word(const void *block, size_t offset) {
    uint32_t value;

    memcpy(&value, (const char *)block + offset, sizeof(value));
    return value;
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
    if (command == RM_FREE_16)
        frees++;
    if (command != RM_ALLOC_48 || word(block, 12) != CLASS_VIDEO_MEMORY)
        return real(descriptor, command, block);
    if (limit && allocations >= strtoul(limit, NULL, 10) && (!most || refusals < strtoul(most, NULL, 10))) {
        const uint32_t status = NV_ERR_NO_MEMORY;

        refusals++;
        memcpy((char *)block + 40, &status, sizeof(status));
        return 0;
    }
    result = real(descriptor, command, block);
    if (result == 0 && word(block, 40) == 0) {
        memcpy(&parameters, (char *)block + 16, sizeof(parameters));
        memcpy(&size_bytes, (void *)(uintptr_t)(parameters + 64), sizeof(size_bytes));
        allocations++;
        allocated_bytes += size_bytes;
    }
    return result;
}

/* If libcuda's table led here, an allocation would fail with code 999. */
int cuMemAlloc_v2(unsigned long long *pointer, size_t size_bytes) {
    (void)pointer, (void)size_bytes;
    overridden++;
    return 999;
}
