/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVML inside a container: it sees the whole device and every process of the host, so what it says about memory is
 * replaced by what the container has. The hooks are found like those of the driver (resolve.c).
 */
#ifndef CVG_NVML_H
#define CVG_NVML_H

#include <stdbool.h>
#include <stdint.h>

typedef int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;

typedef struct {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
} nvmlMemory_t;

typedef struct {
    unsigned int version;
    unsigned long long total;
    unsigned long long reserved;
    unsigned long long free;
    unsigned long long used;
} nvmlMemory_v2_t;

enum { NVML_SUCCESS = 0, NVML_ERROR_UNINITIALIZED = 1, NVML_ERROR_INVALID_ARGUMENT = 2 };
enum { NVML_ERROR_INSUFFICIENT_SIZE = 7, NVML_ERROR_FUNCTION_NOT_FOUND = 13 };

/* Looks for a loaded libnvidia-ml.so.1, unless it was found before. */
bool nvml_learn(void);

/* As driver_route and driver_hook_named. */
void *nvml_route(void *found);
bool nvml_hook_named(const char *name, void **hook, void **real);

#define CVG_NVML(name, parameters, arguments) __attribute__((visibility("default"))) nvmlReturn_t name parameters;
#include "../symbols.def"

#endif
