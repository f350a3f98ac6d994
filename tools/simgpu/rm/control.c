/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE

#include "control.h"

#include "caller.h"
#include "device.h"
#include "rm_abi.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint32_t control_ids(const struct request *request, const struct rm_control *control) {
    uint32_t ids[RM_GPU_IDS_MAX];

    if (control->parameters_size < sizeof(ids))
        return RM_ERR_INVALID_ARGUMENT;
    memset(ids, 0xff, sizeof(ids)); /* RM_GPU_ID_NONE */
    for (unsigned instance = 0; instance < devices_count(); instance++)
        ids[instance] = device_at(device_index_of_instance(instance))->gpu_id;
    return caller_write(request->thread, control->parameters, ids, sizeof(ids)) ? RM_OK : RM_ERR_INVALID_ADDRESS;
}

static uint32_t control_id_info(const struct request *request, const struct rm_control *control) {
    const size_t size = control->command == RM_CMD_GPU_GET_ID_INFO ? RM_GPU_ID_INFO_SIZE : RM_GPU_ID_INFO_V2_SIZE;
    struct rm_gpu_id_info info;
    int device;

    if (control->parameters_size != size)
        return RM_ERR_INVALID_ARGUMENT;
    if (!caller_read(request->thread, control->parameters, &info, sizeof(info)))
        return RM_ERR_INVALID_ADDRESS;
    device = device_index_of_gpu_id(info.gpu_id);
    if (device == DEVICE_NONE)
        return RM_ERR_INVALID_ARGUMENT;
    info.flags = 0;
    info.device_instance = device_at(device)->instance;
    info.subdevice_instance = 0;
    return caller_write(request->thread, control->parameters, &info, sizeof(info)) ? RM_OK : RM_ERR_INVALID_ADDRESS;
}

static uint32_t control_pci_info(const struct request *request, const struct rm_control *control) {
    struct rm_gpu_pci_info info;
    int device;

    if (control->parameters_size != sizeof(info))
        return RM_ERR_INVALID_ARGUMENT;
    if (!caller_read(request->thread, control->parameters, &info, sizeof(info)))
        return RM_ERR_INVALID_ADDRESS;
    device = device_index_of_gpu_id(info.gpu_id);
    if (device == DEVICE_NONE)
        return RM_ERR_INVALID_ARGUMENT;
    info.domain = device_at(device)->pci_domain;
    info.bus = (uint16_t)device_at(device)->pci_bus;
    info.slot = (uint16_t)device_at(device)->pci_device;
    return caller_write(request->thread, control->parameters, &info, sizeof(info)) ? RM_OK : RM_ERR_INVALID_ADDRESS;
}

void handle_control(const struct request *request, void *block) {
    struct rm_control *control = block;

    control->status = object_check(request->asker, control->client, control->object);
    if (control->status != RM_OK)
        return;
    switch (control->command) {
    case RM_CMD_GPU_GET_ATTACHED_IDS:
    case RM_CMD_GPU_GET_PROBED_IDS:
        control->status = control_ids(request, control);
        break;
    case RM_CMD_GPU_GET_ID_INFO:
    case RM_CMD_GPU_GET_ID_INFO_V2:
        control->status = control_id_info(request, control);
        break;
    case RM_CMD_GPU_GET_PCI_INFO:
        control->status = control_pci_info(request, control);
        break;
    default:
        break;
    }
}

int stats_answer(void *block) {
    struct sim_stats *stats = block;
    const uint32_t index = stats->index, first_process = stats->first_process;
    const struct device *device;

    if (stats->magic != SIM_ABI_MAGIC || index >= devices_count())
        return EINVAL;
    device = device_at((int)index);
    memset(stats, 0, sizeof(*stats));
    stats->magic = SIM_ABI_MAGIC;
    stats->index = index;
    stats->first_process = first_process;
    stats->gpu_count = devices_count();
    stats->instance = device->instance;
    stats->gpu_id = device->gpu_id;
    stats->pci_domain = device->pci_domain;
    stats->pci_bus = device->pci_bus;
    stats->pci_device = device->pci_device;
    stats->total_bytes = device->total_bytes;
    stats->used_bytes = device->used_bytes;
    stats->context_bytes = device->context_bytes;
    memcpy(stats->uuid, device->uuid, sizeof(stats->uuid));
    memcpy(stats->name, device->name, sizeof(stats->name));
    stats->process_count = processes_list((int)index, first_process, stats->process, SIM_PROCESSES_MAX);
    return 0;
}

static void write_device(FILE *out, int index) {
    const struct device *device = device_at(index);
    unsigned count = processes_list(index, 0, NULL, 0);
    struct sim_process *processes = calloc(count ? count : 1, sizeof(*processes));
    char uuid[41];

    if (!processes)
        count = 0;
    processes_list(index, 0, processes, count);
    device_uuid_text(device, uuid);
    fprintf(out,
            "%s{\"index\": %d, \"instance\": %u, \"uuid\": \"%s\", \"pci\": \"%04x:%02x:%02x.0\", \"name\": \"%s\", "
            "\"total_bytes\": %llu, \"used_bytes\": %llu, \"context_bytes\": %llu, \"processes\": [",
            index ? ", " : "", index, device->instance, uuid, device->pci_domain, device->pci_bus, device->pci_device,
            device->name, (unsigned long long)device->total_bytes, (unsigned long long)device->used_bytes,
            (unsigned long long)device->context_bytes);
    for (unsigned i = 0; i < count; i++)
        fprintf(out, "%s{\"pid\": %d, \"used_bytes\": %llu}", i ? ", " : "", processes[i].pid,
                (unsigned long long)processes[i].used_bytes);
    fprintf(out, "]}");
    free(processes);
}

char *status_text(size_t *length) {
    char *text = NULL;
    FILE *out = open_memstream(&text, length);

    if (!out)
        return NULL;
    fprintf(out, "{\"simulated\": true, \"driver\": \"%s\", \"pid\": %d, \"gpus\": [", SIM_DRIVER_VERSION, getpid());
    for (unsigned i = 0; i < devices_count(); i++)
        write_device(out, (int)i);
    fprintf(out, "]}\n");
    return fclose(out) == 0 ? text : NULL;
}
