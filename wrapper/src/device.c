/* SPDX-License-Identifier: Apache-2.0 */
#include "device.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "client.h"
#include "log.h"

/* Ordinals and resource-manager devices kept; the driver supports 32 devices a host. */
enum { DEVICES_KEPT = 64 };

struct known_gpu {
    uint32_t gpu_id;
    bool has_instance;
    uint32_t instance;
    bool has_pci;
    uint32_t pci_domain;
    uint32_t pci_bus;
    uint32_t pci_device;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct known_gpu gpus[DEVICES_KEPT];
static uint32_t gpu_count;

/* By ordinal: 0 not looked up, else slot + 1; an ordinal never changes its device within a process. */
static _Atomic uint32_t slot_plus_one[DEVICES_KEPT];

static uint32_t find_uuid(const struct cvg_page *page, const CUuuid *uuid) {
    for (uint32_t slot = 0; slot < page->device_count && slot < CVG_DEVICES_MAX; slot++)
        if (memcmp(page->device[slot].uuid, uuid->bytes, sizeof(uuid->bytes)) == 0)
            return slot;
    return CVG_SLOT_NONE;
}

uint32_t device_slot(CUdevice device) {
    const struct cvg_page *page = client_page();
    if (page == NULL || page->device_count == 0)
        return CVG_SLOT_NONE;
    if (page->device_count == 1)
        return 0;
    const bool kept = device >= 0 && device < DEVICES_KEPT;
    const uint32_t looked_up = kept ? atomic_load_explicit(&slot_plus_one[device], memory_order_relaxed) : 0;
    if (looked_up != 0)
        return looked_up - 1;
    /* _v2 names a MIG instance by its own UUID, the first version by that of its GPU: the page may have either. */
    CUuuid uuid;
    uint32_t slot = CVG_SLOT_NONE;
    if (driver()->cuDeviceGetUuid_v2(&uuid, device) == CUDA_SUCCESS)
        slot = find_uuid(page, &uuid);
    if (slot == CVG_SLOT_NONE && driver()->cuDeviceGetUuid(&uuid, device) == CUDA_SUCCESS)
        slot = find_uuid(page, &uuid);
    if (kept && slot != CVG_SLOT_NONE)
        atomic_store_explicit(&slot_plus_one[device], slot + 1, memory_order_relaxed);
    return slot;
}

uint32_t device_slot_current(void) {
    const struct cvg_page *page = client_page();
    if (page != NULL && page->device_count == 1)
        return 0;
    CUdevice device;
    if (driver()->cuCtxGetDevice(&device) != CUDA_SUCCESS)
        return CVG_SLOT_NONE;
    return device_slot(device);
}

static struct known_gpu *gpu_of_id_locked(uint32_t gpu_id) {
    for (uint32_t index = 0; index < gpu_count; index++)
        if (gpus[index].gpu_id == gpu_id)
            return &gpus[index];
    if (gpu_count == DEVICES_KEPT)
        return NULL;
    gpus[gpu_count] = (struct known_gpu){.gpu_id = gpu_id};
    return &gpus[gpu_count++];
}

void device_learn_instance(uint32_t instance, uint32_t gpu_id) {
    pthread_mutex_lock(&lock);
    struct known_gpu *gpu = gpu_of_id_locked(gpu_id);
    if (gpu != NULL) {
        gpu->has_instance = true;
        gpu->instance = instance;
    }
    pthread_mutex_unlock(&lock);
}

void device_learn_pci(uint32_t gpu_id, uint32_t domain, uint32_t bus, uint32_t device) {
    pthread_mutex_lock(&lock);
    struct known_gpu *gpu = gpu_of_id_locked(gpu_id);
    if (gpu != NULL) {
        gpu->has_pci = true;
        gpu->pci_domain = domain;
        gpu->pci_bus = bus;
        gpu->pci_device = device;
    }
    pthread_mutex_unlock(&lock);
}

static bool find_instance(uint32_t instance, struct known_gpu *out) {
    bool found = false;
    pthread_mutex_lock(&lock);
    for (uint32_t index = 0; index < gpu_count && !found; index++)
        if (gpus[index].has_instance && gpus[index].has_pci && gpus[index].instance == instance) {
            *out = gpus[index];
            found = true;
        }
    pthread_mutex_unlock(&lock);
    return found;
}

enum device_lookup device_slot_of_instance(bool known, uint32_t instance, uint32_t *slot) {
    const struct cvg_page *page = client_page();
    struct known_gpu gpu;
    if (page == NULL || page->device_count == 0)
        return DEVICE_UNGUARDED;
    if (known && find_instance(instance, &gpu)) {
        for (uint32_t index = 0; index < page->device_count && index < CVG_DEVICES_MAX; index++) {
            const struct cvg_device_account *account = &page->device[index];
            if (account->pci_domain == gpu.pci_domain && account->pci_bus == gpu.pci_bus &&
                account->pci_device == gpu.pci_device) {
                *slot = index;
                return DEVICE_FOUND;
            }
        }
        log_debug("device instance %u (PCI %04x:%02x:%02x) is not guarded", instance, gpu.pci_domain, gpu.pci_bus,
                  gpu.pci_device);
        return DEVICE_UNGUARDED;
    }
    if (page->device_count == 1) {
        *slot = 0;
        return DEVICE_FOUND;
    }
    return DEVICE_UNKNOWN;
}

void device_forget_all(void) {
    pthread_mutex_init(&lock, NULL);
    gpu_count = 0;
    for (uint32_t index = 0; index < DEVICES_KEPT; index++)
        atomic_store_explicit(&slot_plus_one[index], 0, memory_order_relaxed);
}
