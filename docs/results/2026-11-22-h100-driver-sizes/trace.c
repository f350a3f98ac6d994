/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a CUDA program: prints, for each video-memory object (class 0x40) that libcuda allocates through
 * RM_ALLOC, the size asked and the size the driver returned. Layouts: wrapper/src/rm.h.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define RM_ALLOC 0xc030462bul
#define CLASS_VIDEO_MEMORY 0x40u

static uint64_t word(const char *block, size_t offset, size_t size) {
    uint64_t value = 0;
    memcpy(&value, block + offset, size);
    return value;
}

int ioctl(int descriptor, unsigned long command, ...) {
    static int (*real)(int, unsigned long, ...);
    va_list arguments;
    va_start(arguments, command);
    char *block = va_arg(arguments, char *);
    va_end(arguments);
    if (!real)
        real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    if (command != RM_ALLOC || word(block, 12, 4) != CLASS_VIDEO_MEMORY)
        return real(descriptor, command, block);

    const char *parameters = (const char *)(uintptr_t)word(block, 16, 8);
    const uint64_t asked = word(parameters, 64, 8), flags = word(parameters, 8, 4), attr = word(parameters, 24, 4);
    const uint64_t attr2 = word(parameters, 28, 4), type = word(parameters, 4, 4);
    const int result = real(descriptor, command, block);
    fprintf(stderr, "RM ask=%lu got=%lu flags=%lx attr=%lx attr2=%lx type=%lx status=%lx align=%lx\n", asked,
            word(parameters, 64, 8), flags, attr, attr2, type, word(block, 40, 4), word(parameters, 72, 8));
    return result;
}
