/* SPDX-License-Identifier: Apache-2.0 */
/* What wrapper_program.c says to the resource manager by hand, through the descriptor that `file use` named. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

/* NVOS32_PARAMETERS of a function, written out by offsets; returns the word in which the size is answered. */
static int fill_heap_block(uint64_t *block, unsigned int function, unsigned int client, unsigned int parent,
                           uint64_t size_bytes, unsigned int attributes) {
    memset(block, 0, 23 * sizeof(*block));
    block[0] = (uint64_t)parent << 32 | client;
    block[1] = function;
    block[2] = 0xfeedULL << 32; /* status @20 */
    switch (function) {
    case 3: /* Free: hMemory @44 */
        block[5] = (uint64_t)parent << 32;
        return 11;
    case 20: /* HwFree: hResourceHandle @40 */
        block[5] = parent;
        return 11;
    case 6: /* AllocTiledPitchHeight: height @56, pitch @60, attr @64, size @88 */
        block[7] = 1ULL << 52 | size_bytes >> 20;
        block[8] = attributes;
        return 11;
    case 14: /* AllocSizeRange: attr @56, size @80 */
        block[7] = attributes;
        block[10] = size_bytes;
        return 10;
    default: /* AllocSize: attr @56, size @88 */
        block[7] = attributes;
        block[11] = size_bytes;
        return 11;
    }
}

static int control(unsigned int client, unsigned int command, void *parameters, unsigned int bytes) {
    uint32_t block[8] = {client, client, command, 0, 0, 0, bytes, 0xfeed};
    const uint64_t address = (uint64_t)(uintptr_t)parameters;
    memcpy(&block[4], &address, sizeof(address));
    const int result = ioctl(raw_descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0x2A, sizeof(block)), block);
    return result == 0 ? (int)block[7] : result;
}

/*
 * dup <client> <parent> <source client> <source object>; export <client> <descriptor> <place> <object>;
 * import <client> <parent> <descriptor> <place> <object>; export_one and import_one by the commands for one object.
 */
static int share(const char *arguments, char *out) {
    unsigned int client, parent, object, other, place;
    int descriptor, status = 0;
    if (sscanf(arguments, "dup %x %x %x %x", &client, &parent, &other, &object) == 4) {
        uint32_t block[7] = {client, parent, 0, other, object, 0, 0xfeed};
        const int result = ioctl(raw_descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0x34, sizeof(block)), block);
        snprintf(out, 300, "%d %#x %#x", result, block[6], block[2]);
        return 1;
    }
    if (sscanf(arguments, "export %x %d %u %x", &client, &descriptor, &place, &object) == 4) {
        uint32_t block[532] = {(uint32_t)descriptor, 0, 8};
        block[19] = object;
        block[531] = place << 16 | 1;
        status = control(client, 0x3d0b, block, sizeof(block));
    } else if (sscanf(arguments, "import %x %x %d %u %x", &client, &parent, &descriptor, &place, &object) == 5) {
        uint32_t block[163] = {(uint32_t)descriptor, parent, object};
        block[162] = place << 16 | 1;
        status = control(client, 0x3d0c, block, sizeof(block));
    } else if (sscanf(arguments, "export_one %x %d %x", &client, &descriptor, &object) == 3) {
        uint32_t block[6] = {1, 0, 0, object, (uint32_t)descriptor, 0};
        status = control(client, 0x3d05, block, sizeof(block));
    } else if (sscanf(arguments, "import_one %x %x %d %x", &client, &parent, &descriptor, &object) == 4) {
        uint32_t block[5] = {(uint32_t)descriptor, 1, 0, parent, object};
        status = control(client, 0x3d06, block, sizeof(block));
    } else {
        return 0;
    }
    snprintf(out, 300, "%d", status);
    return 1;
}

/* raw alloc <long|short|xfer> <client> <parent> <class> <size> <flags>, raw free <client> <handle>,
 * raw heap <function> <client> <parent or memory> <size> <attributes>, raw request <number>: straight to the boundary.
 */
static void raw(const char *arguments, char *out) {
    char form[16];
    unsigned int client = 0, parent = 0, class_id = 0, flags = 0;
    unsigned long long size_bytes = 0;
    errno = 12345;
    if (share(arguments, out))
        return;
    if (sscanf(arguments, "request %llx", &size_bytes) == 1) {
        uint64_t block[16] = {0};
        const int result = ioctl(raw_descriptor, (unsigned long)size_bytes, block);
        snprintf(out, 300, "%d %d", result, errno);
    } else if (sscanf(arguments, "heap %x %x %x %llu %x", &class_id, &client, &parent, &size_bytes, &flags) == 5) {
        uint64_t block[23];
        const int size_word = fill_heap_block(block, class_id, client, parent, size_bytes, flags);
        const int result = ioctl(raw_descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0x4A, sizeof(block)), block);
        snprintf(out, 300, "%d %#x %#x %llu %d", result, (unsigned int)(block[2] >> 32), (unsigned int)(block[5] >> 32),
                 (unsigned long long)block[size_word], errno);
    } else if (sscanf(arguments, "free %x %x", &client, &parent) == 2) {
        uint32_t block[4] = {client, client, parent, 0};
        const int result = ioctl(raw_descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0x29, sizeof(block)), block);
        snprintf(out, 300, "%d %#x %d", result, block[3], errno);
    } else if (sscanf(arguments, "alloc %15s %x %x %x %llu %x", form, &client, &parent, &class_id, &size_bytes,
                      &flags) == 6) {
        uint64_t parameters[16] = {0};
        uint32_t block[14] = {client, parent, 0, class_id};
        const uint64_t address = (uint64_t)(uintptr_t)parameters;
        memcpy(&block[4], &address, sizeof(address));
        ((uint32_t *)parameters)[class_id == 0x80 ? 0 : 2] = flags;
        parameters[8] = size_bytes;
        const uint32_t size = strcmp(form, "short") == 0 ? 32 : strcmp(form, "future") == 0 ? 56 : 48;
        uint32_t *status = &block[size == 32 ? 7 : 10];
        *status = 0xfeed;
        int result;
        if (strcmp(form, "xfer") == 0) {
            struct {
                uint32_t number, bytes;
                uint64_t block;
            } xfer = {0x2B, size, (uint64_t)(uintptr_t)block};
            result = ioctl(raw_descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 211, sizeof(xfer)), &xfer);
        } else {
            result = ioctl(raw_descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0x2B, size), block);
        }
        snprintf(out, 300, "%d %#x %#x %llu %d", result, *status, block[2], (unsigned long long)parameters[8], errno);
    }
}
