/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A libcuda.so.1 for unit tests of the wrapper: real symbol names, real ioctls, no device. It lacks cuCtxCreate_v4 on
 * purpose (an older driver), and carries a symbol version so that dlvsym can be tested.
 *
 * FAKE_FORM           56: allocations have a form that the wrapper does not know
 * FAKE_CONTEXT_PARTS  a context is this many objects of 4 MiB (default 3)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;

enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
enum { GPUS_MAX = 8, CONTEXT_PARTS_MAX = 16 };
#define GRANULE 2097152ULL
#define SHARED 1048576ULL

struct context {
    CUdevice device;
    uint32_t parts[CONTEXT_PARTS_MAX];
    int references;
};

/* One video-memory object; small allocations share one. A pointer is base + an offset below 2^40. */
struct chunk {
    struct chunk *next;
    uint32_t handle;
    CUdevice device;
    CUdeviceptr base;
    uint64_t size_bytes, filled_bytes;
    uint64_t pieces;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int descriptor = -1;
static uint32_t client, devices[GPUS_MAX];
static struct context primary[GPUS_MAX];
static struct chunk *chunks;
static CUdeviceptr next_base = 0x7f0000000000ULL;
static __thread struct context *current;

static int gpus(void) {
    const char *text = getenv("FAKE_GPUS");
    return text != NULL ? atoi(text) : 1;
}

static uint32_t rm_alloc(uint32_t parent, uint32_t class_id, void *parameters, uint32_t *handle) {
    struct {
        uint32_t root, parent, object, class_id;
        uint64_t parameters, rights;
        uint32_t bytes, flags, status, padding;
        uint64_t future;
    } block = {client, parent, 0, class_id, (uint64_t)(uintptr_t)parameters, 0, 0, 0, 0, 0, 0};
    const unsigned int size = getenv("FAKE_FORM") != NULL && class_id == 0x40 ? 56 : 48;
    if (ioctl(descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0x2B, size), &block) != 0)
        return 0xffff;
    *handle = block.object;
    return block.status;
}

static void rm_free(uint32_t handle) {
    uint32_t block[4] = {client, client, handle, 0};
    (void)ioctl(descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0x29, sizeof(block)), block);
}

static void rm_control(uint32_t command, void *parameters, uint32_t bytes) {
    struct {
        uint32_t client, object, command, flags;
        uint64_t parameters;
        uint32_t bytes, status;
    } block = {client, client, command, 0, (uint64_t)(uintptr_t)parameters, bytes, 0};
    (void)ioctl(descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0x2A, sizeof(block)), &block);
}

static uint32_t rm_memory(CUdevice device, uint64_t size_bytes, uint32_t *handle) {
    uint64_t parameters[16] = {0};
    parameters[8] = size_bytes;
    return rm_alloc(devices[device], 0x40, parameters, handle);
}

CUresult cuInit(unsigned int flags) {
    if (flags != 0)
        return INVALID;
    pthread_mutex_lock(&lock);
    if (descriptor < 0) {
        descriptor = open("/dev/null", O_RDWR | O_CLOEXEC);
        rm_alloc(0, 0x41, NULL, &client);
        for (int gpu = 0; gpu < gpus(); gpu++) {
            uint32_t info[16] = {0x500u + (uint32_t)gpu};
            uint32_t pci[3] = {0x500u + (uint32_t)gpu};
            rm_control(0x205, info, sizeof(info));
            rm_control(0x21b, pci, sizeof(pci));
            rm_alloc(client, 0x80, &info[2], &devices[gpu]);
        }
    }
    pthread_mutex_unlock(&lock);
    return OK;
}

CUresult cuDeviceGetUuid_v2(char *uuid, CUdevice device) {
    memset(uuid, 0xA0 + device, 16);
    return OK;
}

CUresult cuDeviceGetUuid(char *uuid, CUdevice device) {
    return cuDeviceGetUuid_v2(uuid, device);
}

CUresult cuCtxGetDevice(CUdevice *device) {
    if (current == NULL)
        return INVALID_CONTEXT;
    *device = current->device;
    return OK;
}

CUresult cuCtxSetCurrent(struct context *context) {
    current = context;
    return OK;
}

static CUresult build(struct context *context, CUdevice device) {
    const char *text = getenv("FAKE_CONTEXT_PARTS");
    const int parts = text != NULL ? atoi(text) : 3;
    if (descriptor < 0)
        return NOT_INITIALIZED;
    context->device = device;
    for (int part = 0; part < parts; part++)
        if (rm_memory(device, 2 * GRANULE, &context->parts[part]) != 0) {
            while (part-- > 0)
                rm_free(context->parts[part]);
            return OUT_OF_MEMORY;
        }
    return OK;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active) {
    *flags = 0;
    *active = primary[device].references > 0;
    return OK;
}

CUresult cuDevicePrimaryCtxRetain(struct context **context, CUdevice device) {
    if (context == NULL)
        return INVALID;
    pthread_mutex_lock(&lock);
    const CUresult result = primary[device].references > 0 ? OK : build(&primary[device], device);
    primary[device].references += result == OK;
    pthread_mutex_unlock(&lock);
    *context = &primary[device];
    return result;
}

CUresult cuCtxCreate_v2(struct context **context, unsigned int flags, CUdevice device) {
    (void)flags;
    *context = calloc(1, sizeof(**context));
    pthread_mutex_lock(&lock);
    const CUresult result = build(*context, device);
    pthread_mutex_unlock(&lock);
    current = result == OK ? *context : current;
    return result;
}

static CUresult allocate(CUdeviceptr *pointer, uint64_t size_bytes) {
    const int shared = size_bytes <= SHARED;
    struct chunk *chunk = shared ? chunks : NULL;
    while (chunk != NULL && (chunk->device != current->device || chunk->size_bytes - chunk->filled_bytes < size_bytes))
        chunk = chunk->next;
    if (chunk == NULL) {
        chunk = calloc(1, sizeof(*chunk));
        chunk->size_bytes = (size_bytes + GRANULE - 1) / GRANULE * GRANULE;
        if (rm_memory(current->device, chunk->size_bytes, &chunk->handle) != 0) {
            free(chunk);
            return OUT_OF_MEMORY;
        }
        chunk->device = current->device;
        chunk->base = next_base;
        next_base += chunk->size_bytes;
        chunk->next = chunks;
        chunks = chunk;
    }
    *pointer = chunk->base + chunk->filled_bytes;
    chunk->filled_bytes = shared ? chunk->filled_bytes + size_bytes : chunk->size_bytes;
    chunk->pieces++;
    return OK;
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size_bytes) {
    if (pointer == NULL || size_bytes == 0)
        return INVALID;
    if (current == NULL)
        return INVALID_CONTEXT;
    pthread_mutex_lock(&lock); /* held over the ioctl, as the real one does */
    const CUresult result = allocate(pointer, size_bytes);
    pthread_mutex_unlock(&lock);
    return result;
}

static CUresult free_managed(CUdeviceptr pointer, const struct context *context);

CUresult cuMemFree_v2(CUdeviceptr pointer) {
    if (pointer == 0)
        return OK;
    CUresult result = INVALID;
    pthread_mutex_lock(&lock);
    for (struct chunk **link = &chunks; *link != NULL; link = &(*link)->next) {
        struct chunk *chunk = *link;
        if (pointer - chunk->base < chunk->size_bytes) {
            result = OK;
            if (--chunk->pieces == 0) {
                rm_free(chunk->handle);
                *link = chunk->next;
                free(chunk);
            }
            break;
        }
    }
    if (result != OK)
        result = free_managed(pointer, (struct context *)1);
    pthread_mutex_unlock(&lock);
    return result;
}

#include "wrapper_fake_libcuda_more.h"

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
    uint64_t report[2] = {0, 0};
    const char *capacity = getenv("FAKE_RM_CAPACITY");
    if (current == NULL)
        return INVALID_CONTEXT;
    (void)ioctl(descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0xE0, sizeof(report)), report);
    const size_t total = capacity != NULL ? strtoull(capacity, NULL, 0) : 1ULL << 30;
    if (total_bytes != NULL)
        *total_bytes = total;
    if (free_bytes != NULL)
        *free_bytes = total - report[0];
    return OK;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status);

CUresult cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}

/* By base name and version, as the real one. */
CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
    static const struct {
        const char *name;
        int from_version;
        void *function;
    } newest_first[] = {
        {"cuGetProcAddress", 12000, (void *)cuGetProcAddress_v2},
        {"cuGetProcAddress", 11030, (void *)cuGetProcAddress},
        {"cuInit", 2000, (void *)cuInit},
        {"cuMemAlloc", 3020, (void *)cuMemAlloc_v2},
        {"cuMemAllocAsync", 11020, (void *)cuMemAllocAsync},
        {"cuMemFree", 3020, (void *)cuMemFree_v2},
        {"cuMemGetInfo", 3020, (void *)cuMemGetInfo_v2},
        {"cuCtxGetDevice", 2000, (void *)cuCtxGetDevice},
        {"cuCtxSetCurrent", 4000, (void *)cuCtxSetCurrent},
        {"cuDevicePrimaryCtxRetain", 7000, (void *)cuDevicePrimaryCtxRetain},
        {"cuCtxCreate", 3020, (void *)cuCtxCreate_v2},
    };
    if (strcmp(symbol, "cuMemAllocAsync") == 0 && (flags & 2) != 0 && version >= 11020) { /* PTDS */
        *function = (void *)cuMemAllocAsync_ptsz;
        if (status != NULL)
            *status = 0;
        return OK;
    }
    for (size_t index = 0; index < sizeof(newest_first) / sizeof(newest_first[0]); index++)
        if (strcmp(newest_first[index].name, symbol) == 0 && version >= newest_first[index].from_version) {
            *function = newest_first[index].function;
            if (status != NULL)
                *status = 0;
            return OK;
        }
    *function = NULL;
    if (status != NULL)
        *status = 1;
    return status != NULL ? OK : NOT_FOUND;
}
