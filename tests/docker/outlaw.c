/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that does what the wrapper cannot stop, one step after the other, and reports each on a line as the story
 * program does: <ms since boot> name=outlaw step=<step> key=value ...
 *
 *   cuda=SIZE      cudaMalloc, as a program that keeps to its limit; not in the static build
 *   raw=SIZE       the resource manager's ioctls by system calls of its own, past every library
 *   dlmopen=SIZE   cuMemAlloc_v2 of a libcuda in a namespace of its own, past the hooks; not in the static build
 *   credit=SIZE    write so much credit into its page; and so on for limit and used
 *   hold=SECONDS   sleep
 *
 * Built with -DOUTLAW_CUDA against the simulated runtime, or statically without: then nothing is preloaded into it.
 * Layouts: NVOS64 and NV_MEMORY_ALLOCATION_PARAMS, written out here on purpose.
 */
#define _GNU_SOURCE

#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifdef OUTLAW_CUDA
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#endif

#include "convgpu_abi.h"

#define RM_ALLOC_48 0xc030462bul
#define CLASS_CLIENT 0x41u
#define CLASS_DEVICE 0x80u
#define CLASS_VIDEO_MEMORY 0x40u

struct rm_alloc {
    uint32_t client, parent, object, class_id;
    uint64_t parameters, rights;
    uint32_t parameters_bytes, flags, status, padding;
};

static void report(const char *step, uint64_t size_bytes, int code) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%lld name=outlaw step=%s size_bytes=%" PRIu64 " code=%d\n", now.tv_sec * 1000LL + now.tv_nsec / 1000000,
           step, size_bytes, code);
    fflush(stdout);
}

static uint32_t rm_alloc(int file, struct rm_alloc *block) {
    return syscall(SYS_ioctl, file, RM_ALLOC_48, block) == 0 ? block->status : UINT32_MAX;
}

/* Never closed: the memory ends with the program. */
static int take_raw(uint64_t size_bytes) {
    const char *folder = getenv("CONVGPU_SIM_DEV"); /* outside of a container, where the simulated device lies */
    char path[256];
    int file;
    uint64_t device_parameters[7] = {0}, memory_parameters[16] = {0};
    struct rm_alloc root = {.class_id = CLASS_CLIENT};
    struct rm_alloc device, memory;

    snprintf(path, sizeof(path), "%s/nvidiactl", folder != NULL ? folder : "/dev");
    file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR);
    if (file < 0 || rm_alloc(file, &root) != 0)
        return 1;
    device = (struct rm_alloc){.client = root.object,
                               .parent = root.object,
                               .class_id = CLASS_DEVICE,
                               .parameters = (uintptr_t)device_parameters,
                               .parameters_bytes = sizeof(device_parameters)};
    if (rm_alloc(file, &device) != 0)
        return 2;
    memory_parameters[8] = size_bytes; /* at 64 */
    memory = (struct rm_alloc){.client = root.object,
                               .parent = device.object,
                               .class_id = CLASS_VIDEO_MEMORY,
                               .parameters = (uintptr_t)memory_parameters,
                               .parameters_bytes = sizeof(memory_parameters)};
    return rm_alloc(file, &memory) != 0 ? 3 : 0;
}

#ifdef OUTLAW_CUDA
static int take_cuda(uint64_t size_bytes) {
    void *pointer;

    return (int)cudaMalloc(&pointer, size_bytes);
}

/* A second libcuda with a second libc below it, which nothing is preloaded into. */
static int take_apart(uint64_t size_bytes) {
    void *library = dlmopen(LM_ID_NEWLM, "libcuda.so.1", RTLD_NOW);
    unsigned long long pointer;
    int (*init)(unsigned), (*retain)(void **, int), (*make_current)(void *), (*allocate)(unsigned long long *, size_t);
    void *context;

    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    *(void **)&init = dlsym(library, "cuInit");
    *(void **)&retain = dlsym(library, "cuDevicePrimaryCtxRetain");
    *(void **)&make_current = dlsym(library, "cuCtxSetCurrent");
    *(void **)&allocate = dlsym(library, "cuMemAlloc_v2");
    if (init(0) != 0 || retain(&context, 0) != 0 || make_current(context) != 0)
        return 2;
    return allocate(&pointer, size_bytes);
}
#endif

/* The page is mapped for this process to write; its file's name ends with .page, whatever part of its path is seen. */
static struct cvg_page *find_page(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    struct cvg_page *found = NULL;

    while (maps != NULL && found == NULL && fgets(line, sizeof(line), maps) != NULL) {
        unsigned long begin;

        if (strstr(line, "rw-s") != NULL && strstr(line, ".page") != NULL && sscanf(line, "%lx", &begin) == 1)
            found = (struct cvg_page *)begin;
    }
    if (maps != NULL)
        fclose(maps);
    return found != NULL && found->magic == CVG_PAGE_MAGIC ? found : NULL;
}

static int write_page(size_t offset, uint64_t value) {
    struct cvg_page *page = find_page();

    if (page == NULL)
        return 1;
    *(volatile uint64_t *)((char *)&page->device[0] + offset) = value;
    return 0;
}

static int perform(const char *step, uint64_t size_bytes) {
#ifdef OUTLAW_CUDA
    if (strcmp(step, "cuda") == 0)
        return take_cuda(size_bytes);
    if (strcmp(step, "dlmopen") == 0)
        return take_apart(size_bytes);
#endif
    if (strcmp(step, "raw") == 0)
        return take_raw(size_bytes);
    if (strcmp(step, "credit") == 0)
        return write_page(offsetof(struct cvg_device_account, credit_bytes), size_bytes);
    if (strcmp(step, "limit") == 0)
        return write_page(offsetof(struct cvg_device_account, limit_bytes), size_bytes);
    if (strcmp(step, "used") == 0)
        return write_page(offsetof(struct cvg_device_account, used_bytes), size_bytes);
    if (strcmp(step, "hold") == 0)
        return (int)sleep((unsigned)size_bytes);
    return 2;
}

int main(int count, char **words) {
    for (int i = 1; i < count; i++) {
        char *value = strchr(words[i], '=');
        int code;

        if (value == NULL)
            return 2;
        *value++ = '\0';
        code = perform(words[i], strtoull(value, NULL, 10));
        report(words[i], strtoull(value, NULL, 10), code);
        if (code != 0)
            return 1;
    }
    return 0;
}
