/* SPDX-License-Identifier: Apache-2.0 */
/* cuGetProcAddress: from a base name and a version to the exported symbol. */
#include "sim.h"

#include <string.h>

#define FLAGS_ALL (CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM)

/*
 * Types do not matter for an address. The alias keeps clear of the declarations in cuda.h. A symbol may stand for more
 * than one base name, which C allows to be declared twice.
 */
#define EXPORT(base, symbol, since) extern const char address_of_##symbol[] __asm__(#symbol);
#include "exports.def"
#undef EXPORT

static const struct {
    const char *base;
    const void *address;
    int since;
    bool per_thread;
} exports[] = {
#define EXPORT(base, symbol, since) {#base, address_of_##symbol, since, false},
#define EXPORT_PTSZ(base, symbol, since) {#base, address_of_##symbol, since, true},
#include "exports.def"
#undef EXPORT
};

/* The newest variant that `version` knows; NULL with *known: only newer ones exist. */
static const void *find(const char *base, int version, bool per_thread, bool *known) {
    const void *address = NULL;

    *known = false;
    for (size_t i = 0; i < sizeof(exports) / sizeof(exports[0]); i++) {
        if (strcmp(exports[i].base, base) != 0 || (exports[i].per_thread && !per_thread))
            continue;
        *known = true;
        if (version < 0 || exports[i].since <= version) /* a negative version finds the newest, as measured */
            address = exports[i].address;
    }
    return address;
}

static CUresult resolve(const char *symbol, void **pfn, int version, cuuint64_t flags,
                        CUdriverProcAddressQueryResult *status, const void **address) {
    bool known;

    if (!symbol || !pfn || version > SIM_CUDA_VERSION || flags & ~(cuuint64_t)FLAGS_ALL)
        return CUDA_ERROR_INVALID_VALUE;
    *address = find(symbol, version, flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &known);
    *status = *address ? CU_GET_PROC_ADDRESS_SUCCESS
              : known  ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                       : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return CUDA_SUCCESS;
}

#undef cuGetProcAddress
SIM_EXPORT CUresult cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags);
SIM_EXPORT CUresult cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags) {
    CUdriverProcAddressQueryResult status;
    const void *address;
    CUresult result = resolve(symbol, pfn, cudaVersion, flags, &status, &address);

    if (result == CUDA_SUCCESS && !address)
        return CUDA_ERROR_NOT_FOUND; /* and *pfn stays as it was: measured */
    if (result == CUDA_SUCCESS)
        *pfn = (void *)(uintptr_t)address;
    return result;
}

/* Not to find is a success with NULL, also where nobody asks for the status: measured. */
SIM_EXPORT CUresult cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                                        CUdriverProcAddressQueryResult *symbolStatus) {
    CUdriverProcAddressQueryResult status;
    const void *address;
    CUresult result = resolve(symbol, pfn, cudaVersion, flags, &status, &address);

    if (result != CUDA_SUCCESS)
        return result;
    if (symbolStatus)
        *symbolStatus = status;
    *pfn = (void *)(uintptr_t)address;
    return CUDA_SUCCESS;
}

/* NVIDIA's private interfaces: nothing here has them, so NVIDIA's own libcudart does not run on this library. */
SIM_EXPORT CUresult cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId) {
    (void)pExportTableId;
    if (!ppExportTable)
        return CUDA_ERROR_INVALID_VALUE;
    *ppExportTable = NULL;
    return CUDA_ERROR_NOT_SUPPORTED;
}
