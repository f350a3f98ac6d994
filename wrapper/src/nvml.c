/* SPDX-License-Identifier: Apache-2.0 */
#include "nvml.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "client.h"
#include "clock.h"
#include "libc.h"
#include "thread.h"
#include "view.h"

/* A monitor is not held up for long by a daemon that is away. */
#define DAEMON_WAIT_NS (1 * NS_PER_S)

/* ---- The real functions ---- */

typedef void (*any_function)(void);

static struct nvml_functions {
#define CVG_NVML(name, parameters, arguments) nvmlReturn_t(*name) parameters;
#include "../symbols.def"
    nvmlReturn_t (*nvmlDeviceGetUUID)(nvmlDevice_t, char *, unsigned int);
} real;

static const struct {
    const char *name;
    any_function hook;
    size_t offset;
} routes[] = {
#define CVG_NVML(name, parameters, arguments) {#name, (any_function)name, offsetof(struct nvml_functions, name)},
#include "../symbols.def"
};
enum { ROUTES = sizeof(routes) / sizeof(routes[0]) };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool learned;

static void *to_pointer(any_function function) {
    void *pointer;
    memcpy(&pointer, &function, sizeof(pointer));
    return pointer;
}

static void *real_of(unsigned int index) {
    void *pointer;
    memcpy(&pointer, (const char *)&real + routes[index].offset, sizeof(pointer));
    return pointer;
}

/* The handle is kept, so that the library stays where it is even if the program closes it. */
bool nvml_learn(void) {
    if (atomic_load_explicit(&learned, memory_order_acquire))
        return true;
    const struct libc_functions *libc = libc_functions();
    if (libc->dlopen == NULL || libc->dlsym == NULL)
        return false;
    void *library = libc->dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (library != NULL) {
        struct nvml_functions found;
        void *uuid = libc->dlsym(library, "nvmlDeviceGetUUID");
        for (unsigned int index = 0; index < ROUTES; index++) {
            void *pointer = libc->dlsym(library, routes[index].name);
            memcpy((char *)&found + routes[index].offset, &pointer, sizeof(pointer));
        }
        memcpy(&found.nvmlDeviceGetUUID, &uuid, sizeof(uuid));
        pthread_mutex_lock(&lock);
        if (!atomic_load_explicit(&learned, memory_order_relaxed))
            real = found;
        atomic_store_explicit(&learned, true, memory_order_release);
        pthread_mutex_unlock(&lock);
    }
    if (libc->dlerror != NULL)
        (void)libc->dlerror(); /* a function that this NVML lacks is no error of the program */
    return library != NULL;
}

void *nvml_route(void *found) {
    if (found == NULL || !atomic_load_explicit(&learned, memory_order_acquire))
        return found;
    for (unsigned int index = 0; index < ROUTES; index++)
        if (real_of(index) == found)
            return to_pointer(routes[index].hook);
    return found;
}

bool nvml_hook_named(const char *name, void **hook, void **real_function) {
    for (unsigned int index = 0; index < ROUTES; index++)
        if (strcmp(routes[index].name, name) == 0) {
            *hook = to_pointer(routes[index].hook);
            *real_function = nvml_learn() ? real_of(index) : NULL;
            return true;
        }
    return false;
}

/* ---- The device ---- */

static int hex_digit(char digit) {
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* "GPU-" or "MIG-", and 32 digits with dashes between. */
static bool parse_uuid(const char *text, uint8_t *bytes) {
    unsigned int digits = 0;
    if (strncmp(text, "GPU-", 4) != 0 && strncmp(text, "MIG-", 4) != 0)
        return false;
    for (text += 4; *text != '\0'; text++) {
        const int digit = hex_digit(*text);
        if (*text == '-')
            continue;
        if (digit < 0 || digits == 32)
            return false;
        bytes[digits / 2] = (uint8_t)(digits % 2 == 0 ? digit << 4 : bytes[digits / 2] | digit);
        digits++;
    }
    return digits == 32;
}

/* The page's slot of a device. A process that asks nothing else of a GPU joins here, at its first question. */
static bool slot_of(nvmlDevice_t device, uint32_t *slot) {
    char text[96];
    uint8_t uuid[16];
    if (client_is_passive() || client_join(clock_now_ns() + DAEMON_WAIT_NS) != CLIENT_ACTIVE ||
        real.nvmlDeviceGetUUID == NULL || real.nvmlDeviceGetUUID(device, text, sizeof(text)) != NVML_SUCCESS ||
        !parse_uuid(text, uuid))
        return false;
    const struct cvg_page *page = client_page();
    for (uint32_t index = 0; index < page->device_count && index < CVG_DEVICES_MAX; index++)
        if (memcmp(page->device[index].uuid, uuid, sizeof(uuid)) == 0) {
            *slot = index;
            return true;
        }
    return false;
}

/* What the call answers where the loaded library has no such function. */
static nvmlReturn_t absent(void) {
    return atomic_load_explicit(&learned, memory_order_acquire) ? NVML_ERROR_FUNCTION_NOT_FOUND
                                                                : NVML_ERROR_UNINITIALIZED;
}

#define REAL(name, arguments) (nvml_learn() && real.name != NULL ? real.name arguments : absent())

/* ---- Memory ---- */

static void view(uint32_t slot, unsigned long long *total, unsigned long long *free, unsigned long long *used) {
    uint64_t total_bytes;
    uint64_t free_bytes;
    view_figures(slot, &total_bytes, &free_bytes);
    *total = total_bytes < *total ? total_bytes : *total;
    *used = total_bytes - free_bytes;
    *free = free_bytes < *free ? free_bytes : *free;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    const nvmlReturn_t result = REAL(nvmlDeviceGetMemoryInfo, (device, memory));
    uint32_t slot;
    if (result == NVML_SUCCESS && slot_of(device, &slot))
        view(slot, &memory->total, &memory->free, &memory->used);
    return result;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    const nvmlReturn_t result = REAL(nvmlDeviceGetMemoryInfo_v2, (device, memory));
    uint32_t slot;
    if (result == NVML_SUCCESS && slot_of(device, &slot)) {
        view(slot, &memory->total, &memory->free, &memory->used);
        memory->reserved = 0; /* the device's own share is outside of the container's limit */
    }
    return result;
}

/* ---- Processes ---- */

enum { PROCESSES_MAX = 1024 };

/* nvmlProcessInfo_v1_t is the first two fields; the others have all four. */
struct process_info {
    unsigned int pid;
    unsigned long long used_bytes;
    unsigned int gpu_instance;
    unsigned int compute_instance;
};

/* The container's processes on a device, as the daemon knows them, in the caller's own pid namespace. */
static nvmlReturn_t list(uint32_t slot, unsigned int *count, char *infos, size_t info_bytes) {
    const unsigned int room = infos != NULL ? *count : 0;
    unsigned int found = 0;
    struct process_info info = {.gpu_instance = UINT32_MAX, .compute_instance = UINT32_MAX};
    uint64_t pid;
    uint64_t used_bytes;
    while (found < PROCESSES_MAX &&
           client_query_process(slot, found, clock_now_ns() + DAEMON_WAIT_NS, &pid, &used_bytes)) {
        info.pid = (unsigned int)pid;
        info.used_bytes = used_bytes;
        if (found < room)
            memcpy(infos + found * info_bytes, &info, info_bytes);
        found++;
    }
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

#define COMPUTE_LIST(name, info_bytes)                                                                                 \
    nvmlReturn_t name(nvmlDevice_t device, unsigned int *infoCount, void *infos) {                                     \
        uint32_t slot;                                                                                                 \
        if (infoCount == NULL || !nvml_learn() || real.name == NULL || !slot_of(device, &slot))                        \
            return REAL(name, (device, infoCount, infos));                                                             \
        return list(slot, infoCount, infos, info_bytes);                                                               \
    }

/* What is guarded is shown as computing, whatever else it does. */
#define GRAPHICS_LIST(name)                                                                                            \
    nvmlReturn_t name(nvmlDevice_t device, unsigned int *infoCount, void *infos) {                                     \
        uint32_t slot;                                                                                                 \
        if (infoCount == NULL || !nvml_learn() || real.name == NULL || !slot_of(device, &slot))                        \
            return REAL(name, (device, infoCount, infos));                                                             \
        *infoCount = 0;                                                                                                \
        return NVML_SUCCESS;                                                                                           \
    }

COMPUTE_LIST(nvmlDeviceGetComputeRunningProcesses, offsetof(struct process_info, gpu_instance))
COMPUTE_LIST(nvmlDeviceGetComputeRunningProcesses_v2, sizeof(struct process_info))
COMPUTE_LIST(nvmlDeviceGetComputeRunningProcesses_v3, sizeof(struct process_info))
GRAPHICS_LIST(nvmlDeviceGetGraphicsRunningProcesses)
GRAPHICS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2)
GRAPHICS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3)
