/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FIXTURE_CUDA_H
#define FIXTURE_CUDA_H

#include <stddef.h>
#include <stdint.h>

#define FIXTURE_BASE 0x7f0000000000ULL
#define FIXTURE_STRIDE 0x200000ULL
#define FIXTURE_HANG ((1ULL << 50) + 1) /* an allocation of so much never returns */
#define FIXTURE_SLOW 1048577            /* cudaMalloc of so much takes its time before it asks the driver */
#define FIXTURE_SLOW_US 1000000
#define CUDA_INVALID_VALUE 1
#define CUDA_OUT_OF_MEMORY 2

int cuMemAlloc_v2(uint64_t *address, size_t size_bytes);
int cuMemFree_v2(uint64_t address);
int cudaMalloc(void **address, size_t size_bytes);
int cudaFree(void *address);
uint64_t fixture_take_unseen(void);
void fixture_refuse_frees(int refuse);
int fixture_give_back_unseen(uint64_t address);

#endif
