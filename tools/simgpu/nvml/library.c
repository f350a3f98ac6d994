/* SPDX-License-Identifier: Apache-2.0 */
/* Begin and end, handles, and what concerns the system rather than a device. */
#include "nvml.h"
#include "transport.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

struct sim_nvml_device {
    char unused;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sim_nvml_device devices[SIM_GPUS_MAX]; /* a handle is an address in here */
static unsigned references;
static int control = -1;

static nvmlReturn_t query(unsigned index, uint32_t first_process, struct sim_stats *out) {
    nvmlReturn_t result = NVML_SUCCESS;

    pthread_mutex_lock(&lock);
    if (references == 0) {
        result = NVML_ERROR_UNINITIALIZED;
    } else if (transport_stats(control, index, first_process, out) != 0) {
        /* The simulated GPU may have been taken down and up again since: one more try on a fresh descriptor. */
        int fresh = transport_open();

        if (fresh >= 0) {
            close(control);
            control = fresh;
        }
        if (fresh < 0)
            result = NVML_ERROR_GPU_IS_LOST;
        else if (transport_stats(control, index, first_process, out) != 0)
            result = NVML_ERROR_INVALID_ARGUMENT; /* no such index */
    }
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t sim_nvml_ready(void) {
    nvmlReturn_t result;

    pthread_mutex_lock(&lock);
    result = references ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlDevice_t sim_nvml_handle(unsigned index) {
    return &devices[index];
}

nvmlReturn_t sim_nvml_stats_at(unsigned index, struct sim_stats *out) {
    return query(index, 0, out);
}

nvmlReturn_t sim_nvml_stats(nvmlDevice_t device, uint32_t first_process, struct sim_stats *out) {
    nvmlReturn_t result = sim_nvml_ready();

    if (result != NVML_SUCCESS)
        return result;
    for (unsigned i = 0; i < SIM_GPUS_MAX; i++)
        if (device == &devices[i])
            return query(i, first_process, out);
    return NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t sim_nvml_text(const char *text, char *out, unsigned length) {
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (length <= strlen(text))
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(out, text, strlen(text) + 1);
    return NVML_SUCCESS;
}

SIM_EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags);
SIM_EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    nvmlReturn_t result = NVML_SUCCESS;

    (void)flags;
    pthread_mutex_lock(&lock);
    if (references == 0)
        control = transport_open();
    if (control < 0)
        result = NVML_ERROR_DRIVER_NOT_LOADED;
    else
        references++;
    pthread_mutex_unlock(&lock);
    return result;
}

SIM_EXPORT nvmlReturn_t nvmlInit_v2(void);
SIM_EXPORT nvmlReturn_t nvmlInit_v2(void) {
    return nvmlInitWithFlags(0);
}

SIM_EXPORT nvmlReturn_t nvmlShutdown(void);
SIM_EXPORT nvmlReturn_t nvmlShutdown(void) {
    nvmlReturn_t result = NVML_SUCCESS;

    pthread_mutex_lock(&lock);
    if (references == 0) {
        result = NVML_ERROR_UNINITIALIZED;
    } else if (--references == 0) {
        close(control);
        control = -1;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

SIM_EXPORT const char *nvmlErrorString(nvmlReturn_t result);
SIM_EXPORT const char *nvmlErrorString(nvmlReturn_t result) {
    switch (result) {
    case NVML_SUCCESS:
        return "Success";
    case NVML_ERROR_UNINITIALIZED:
        return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT:
        return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED:
        return "Not Supported";
    case NVML_ERROR_NOT_FOUND:
        return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE:
        return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED:
        return "Driver Not Loaded";
    case NVML_ERROR_FUNCTION_NOT_FOUND:
        return "Function Not Found";
    case NVML_ERROR_GPU_IS_LOST:
        return "GPU is lost";
    default:
        return "Unknown Error";
    }
}

SIM_EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length);
SIM_EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length) {
    nvmlReturn_t result = sim_nvml_ready();

    return result == NVML_SUCCESS ? sim_nvml_text(SIM_DRIVER_VERSION, version, length) : result;
}

SIM_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version);
SIM_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
    nvmlReturn_t result = sim_nvml_ready();

    if (result == NVML_SUCCESS && !version)
        result = NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS)
        *version = SIM_CUDA_VERSION;
    return result;
}

SIM_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version);
SIM_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    return nvmlSystemGetCudaDriverVersion(version);
}
