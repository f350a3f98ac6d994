/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A resource manager inside the process: preloaded behind the wrapper, it answers the ioctls that the wrapper lets
 * through. It serves unit tests of layouts and failures that no driver makes on purpose; the simulated GPU plays the
 * whole device. Knows the 32- and 48-byte allocation, free with everything below, the three questions about devices,
 * duplicates, exports and imports (whose memory it does not follow), and commands wrapped in XFER_CMD.
 *
 * FAKE_RM_CAPACITY  bytes of video memory (default 1 GiB); more is NV_ERR_NO_MEMORY
 * FAKE_RM_ROUND     sizes are rounded up to a multiple of this (default 1)
 * FAKE_GPUS         number of devices (default 1); instance numbers run against the order of PCI addresses
 *
 * Parent 0xdead fails with EINVAL. Private commands: 0xe0 reports, 0xe1 makes the next free fail with a status.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OBJECTS_MAX = 65536 };
enum { STATUS_NO_MEMORY = 0x51, STATUS_INVALID = 0x1f };

struct object {
    uint32_t client, parent, handle;
    uint64_t size_bytes;
};

struct report {
    uint64_t used_bytes;
    uint64_t allocations_seen; /* of video memory that reached this side */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct object *objects;
static size_t object_count;
static uint32_t next_handle = 0xcaf00001;
static struct report report;
static int next_free_fails;

static uint64_t setting(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

static uint32_t word(const void *block, size_t offset) {
    uint32_t value;
    memcpy(&value, (const char *)block + offset, sizeof(value));
    return value;
}

static uint64_t word64(const void *block, size_t offset) {
    uint64_t value;
    memcpy(&value, (const char *)block + offset, sizeof(value));
    return value;
}

static void set_word(void *block, size_t offset, uint32_t value) {
    memcpy((char *)block + offset, &value, sizeof(value));
}

static uint32_t take_memory(char *parameters) {
    const uint64_t round = setting("FAKE_RM_ROUND", 1);
    const uint64_t size_bytes = (word64(parameters, 64) + round - 1) / round * round;
    report.allocations_seen++;
    if (size_bytes > setting("FAKE_RM_CAPACITY", 1ULL << 30) - report.used_bytes)
        return STATUS_NO_MEMORY;
    memcpy(parameters + 64, &size_bytes, sizeof(size_bytes));
    report.used_bytes += size_bytes;
    objects[object_count].size_bytes = size_bytes;
    return 0;
}

static int allocate(char *block, size_t status_offset) {
    const uint32_t class_id = word(block, 12);
    char *parameters = (char *)(uintptr_t)word64(block, 16);
    if (word(block, 4) == 0xdead) {
        errno = EINVAL;
        return -1;
    }
    if (objects == NULL)
        objects = calloc(OBJECTS_MAX, sizeof(*objects));
    if (object_count == OBJECTS_MAX)
        abort();
    uint32_t status = 0;
    objects[object_count].size_bytes = 0;
    if (class_id == 0x40 && (word(parameters, 8) & 0x80000) == 0)
        status = take_memory(parameters);
    set_word(block, status_offset, status);
    if (status != 0)
        return 0;
    if (word(block, 8) == 0)
        set_word(block, 8, next_handle++);
    struct object *object = &objects[object_count++];
    object->handle = word(block, 8);
    object->parent = word(block, 4);
    object->client = class_id == 0x41 ? object->handle : word(block, 0);
    return 0;
}

static void release(uint32_t client, uint32_t handle) {
    for (size_t index = 0; index < object_count; index++)
        if (objects[index].client == client && objects[index].handle == handle) {
            report.used_bytes -= objects[index].size_bytes;
            objects[index] = objects[--object_count];
            break;
        }
    for (size_t index = 0; index < object_count;)
        if (objects[index].client == client && objects[index].parent == handle && objects[index].handle != handle) {
            release(client, objects[index].handle);
            index = 0;
        } else {
            index++;
        }
}

static int control(char *block) {
    const uint32_t gpus = (uint32_t)setting("FAKE_GPUS", 1);
    char *parameters = (char *)(uintptr_t)word64(block, 16);
    set_word(block, 28, 0);
    if (parameters == NULL)
        return 0;
    const uint32_t gpu = word(parameters, 0) - 0x500;
    switch (word(block, 8)) {
    case 0x202:
    case 0x205:
        set_word(parameters, 8, gpus - 1 - gpu);
        break;
    case 0x21b: {
        const uint16_t bus = (uint16_t)(5 + gpu);
        set_word(parameters, 4, 0);
        memcpy(parameters + 8, &bus, sizeof(bus));
        memset(parameters + 10, 0, 2);
        break;
    }
    case 0x3d0c:                                                     /* IMPORT_OBJECTS_FROM_FD: objectTypes @520 */
        memset(parameters + 520, 1, word(parameters, 648) & 0xffff); /* numObjects @648 */
        break;
    default:
        break;
    }
    return 0;
}

static int duplicate(char *block) {
    if (word(block, 8) == 0)
        set_word(block, 8, next_handle++);
    set_word(block, 24, 0);
    return 0;
}

/*
 * VID_HEAP_CONTROL: the same memory by the older command, in its three forms. Memory of any place is the host's, as
 * today's driver has it.
 */
static int heap(char *block) {
    char parameters[128] = {0};
    char modern[48] = {0};
    const uint32_t function = word(block, 8);
    const size_t size_offset = function == 14 ? 80 : 88;
    const size_t attributes_offset = function == 6 ? 64 : 56;
    const uint64_t address = (uint64_t)(uintptr_t)parameters;
    uint64_t size_bytes = word64(block, size_offset);
    set_word(block, 20, 0);
    if (function == 3 || function == 20) {
        release(word(block, 0), word(block, function == 3 ? 44 : 40));
        return 0;
    }
    if (function == 6)
        size_bytes = (uint64_t)word(block, 56) * word(block, 60);
    memcpy(parameters + 64, &size_bytes, 8);
    set_word(modern, 0, word(block, 0));
    set_word(modern, 4, word(block, 4));
    set_word(modern, 8, word(block, 44));
    set_word(modern, 12, (word(block, attributes_offset) >> 25 & 3) != 0 ? 0x3e : 0x40);
    memcpy(modern + 16, &address, 8);
    if (word(modern, 12) == 0x3e)
        set_word(block, attributes_offset, (word(block, attributes_offset) & ~(3U << 25)) | 1U << 25);
    const int result = allocate(modern, 40);
    set_word(block, 20, word(modern, 40));
    set_word(block, 44, word(modern, 8));
    memcpy(block + size_offset, parameters + 64, 8);
    return result;
}

static int answer(uint32_t number, uint32_t size_bytes, char *block) {
    switch (number << 16 | size_bytes) {
    case 0x2B << 16 | 48:
        return allocate(block, 40);
    case 0x2B << 16 | 32:
        return allocate(block, 28);
    case 0x2B << 16 | 56: /* a form of the future: as the 48 bytes, and something behind */
        return allocate(block, 40);
    case 0x4A << 16 | 184:
        return heap(block);
    case 0x29 << 16 | 16:
        set_word(block, 12, next_free_fails ? STATUS_INVALID : 0);
        if (!next_free_fails)
            release(word(block, 0), word(block, 8));
        next_free_fails = 0;
        return 0;
    case 0x2A << 16 | 32:
        return control(block);
    case 0x34 << 16 | 28:
        return duplicate(block);
    case 0xE0 << 16 | 16:
        memcpy(block, &report, sizeof(report));
        return 0;
    case 0xE1 << 16 | 16:
        next_free_fails = 1;
        return 0;
    case 211 << 16 | 16:
        return answer(word(block, 0), word(block, 4), (char *)(uintptr_t)word64(block, 8));
    default:
        errno = ENOTTY;
        return -1;
    }
}

int ioctl(int descriptor, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if ((request >> 8 & 0xff) != 'F')
        return (int)syscall(SYS_ioctl, descriptor, request, argument);
    pthread_mutex_lock(&lock);
    const int result = answer(request & 0xff, request >> 16 & 0x3fff, argument);
    pthread_mutex_unlock(&lock);
    return result;
}
