/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* libcudart: bytes as the program asked for them. A program's name binds it: uprobe__SYMBOL, uretprobe__SYMBOL. */
#include "api.bpf.h"

/* cudaError_t cudaMalloc(void **devPtr, size_t size) */
int uprobe__cudaMalloc(struct pt_regs *ctx) {
    return api_alloc_enter(SOURCE_RUNTIME, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
}

int uretprobe__cudaMalloc(struct pt_regs *ctx) {
    return api_alloc_return(SOURCE_RUNTIME, (int)PT_REGS_RC(ctx));
}

/* cudaError_t cudaFree(void *devPtr) */
int uprobe__cudaFree(struct pt_regs *ctx) {
    return api_free_enter(SOURCE_RUNTIME, PT_REGS_PARM1(ctx));
}

int uretprobe__cudaFree(struct pt_regs *ctx) {
    return api_free_return(SOURCE_RUNTIME, (int)PT_REGS_RC(ctx));
}
