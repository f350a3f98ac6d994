/* SPDX-License-Identifier: Apache-2.0 */
#include "sim.h"

static const struct {
    int code;
    const char *name;
    const char *text;
} errors[] = {
#define ERROR(code, driver_name, runtime_name, text) {code, driver_name, text},
#include "errors.def"
#undef ERROR
};

SIM_EXPORT CUresult cuGetErrorName(CUresult error, const char **pStr) {
    if (!pStr)
        return CUDA_ERROR_INVALID_VALUE;
    *pStr = NULL;
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
        if (errors[i].code == (int)error)
            *pStr = errors[i].name;
    return *pStr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

SIM_EXPORT CUresult cuGetErrorString(CUresult error, const char **pStr) {
    if (!pStr)
        return CUDA_ERROR_INVALID_VALUE;
    *pStr = NULL;
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
        if (errors[i].code == (int)error && errors[i].name)
            *pStr = errors[i].text;
    return *pStr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
