/* SPDX-License-Identifier: Apache-2.0 */
/* A library that is linked against libcuda, as a plug-in may be: it allocates by itself. */
#include <stddef.h>

int cuMemAlloc_v2(unsigned long long *pointer, size_t size_bytes);
int plugin_alloc(unsigned long long *pointer, size_t size_bytes);

int plugin_alloc(unsigned long long *pointer, size_t size_bytes) {
    return cuMemAlloc_v2(pointer, size_bytes);
}
