/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* libcuda: bytes as the driver was asked for them. A program's name binds it: uprobe__SYMBOL, uretprobe__SYMBOL. */
#include "api.bpf.h"

/* CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize) */
int uprobe__cuMemAlloc_v2(struct pt_regs *ctx) {
    return api_alloc_enter(SOURCE_DRIVER, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
}

int uretprobe__cuMemAlloc_v2(struct pt_regs *ctx) {
    return api_alloc_return(SOURCE_DRIVER, (int)PT_REGS_RC(ctx));
}

/* CUresult cuMemFree_v2(CUdeviceptr dptr) */
int uprobe__cuMemFree_v2(struct pt_regs *ctx) {
    return api_free_enter(SOURCE_DRIVER, PT_REGS_PARM1(ctx));
}

int uretprobe__cuMemFree_v2(struct pt_regs *ctx) {
    return api_free_return(SOURCE_DRIVER, (int)PT_REGS_RC(ctx));
}
