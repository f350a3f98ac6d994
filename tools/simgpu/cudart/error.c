/* SPDX-License-Identifier: Apache-2.0 */
#include "runtime.h"

static const char unrecognised[] = "unrecognized error code";

static const struct {
    int code;
    const char *name;
    const char *text;
} errors[] = {
#define ERROR(code, driver_name, runtime_name, text) {code, runtime_name, text},
#include "errors.def"
#undef ERROR
};

SIM_EXPORT const char *cudaGetErrorName(cudaError_t error) {
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
        if (errors[i].code == (int)error)
            return errors[i].name;
    return unrecognised;
}

SIM_EXPORT const char *cudaGetErrorString(cudaError_t error) {
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
        if (errors[i].code == (int)error)
            return errors[i].text;
    return unrecognised;
}
