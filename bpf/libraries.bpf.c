/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs on libcuda and libcudart: two for each CVG_PROBE line of symbols.def, of which there is no second list.
 * A program's name binds it: uprobe__SYMBOL at the entry, uretprobe__SYMBOL at the return of that function.
 *
 * The loader puts the CVG_PROBE lines in the place of each #include: bcc looks for programs in its main text only. A
 * line must make exactly one program, because bcc writes the program's section in front of the line.
 */
#include "api.bpf.h"
#include "context.bpf.h"
#include "vmm.bpf.h"

static __always_inline int enter(struct pt_regs *ctx, u32 source, u32 api, u64 pointer, u64 size_bytes) {
    api_enter(ctx, source, api, pointer, size_bytes);
    return 0;
}

#define ENTER_TAKE(ctx, source, api, memory, size) enter(ctx, source, api, PT_REGS_PARM1(ctx), asked_bytes(ctx, size))
#define ENTER_GIVE(ctx, source, api, memory, size) give_enter(ctx, source, api, memory)
#define ENTER_TIME(ctx, source, api, memory, size) enter(ctx, source, api, 0, 0)
#define ENTER_RETAIN(ctx, source, api, memory, size) enter(ctx, source, api, PT_REGS_PARM1(ctx), 0)
#define ENTER_MAP(ctx, source, api, memory, size) map_enter(ctx, api)
#define ENTER_UNMAP(ctx, source, api, memory, size) enter(ctx, source, api, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx))
#define ENTER_CONTEXT(ctx, source, api, memory, size) context_enter(ctx, api, 0)
#define ENTER_CONTEXT_END(ctx, source, api, memory, size) enter(ctx, source, api, 0, 0)
#define ENTER_PRIMARY(ctx, source, api, memory, size) context_enter(ctx, api, PT_REGS_PARM2(ctx))
#define ENTER_PRIMARY_RELEASE(ctx, source, api, memory, size) enter(ctx, source, api, PT_REGS_PARM1(ctx), 0)
#define ENTER_PRIMARY_RESET(ctx, source, api, memory, size) enter(ctx, source, api, PT_REGS_PARM1(ctx), 0)

#define RETURN_TAKE(source, api, memory, result) take_return(ctx, source, api, memory)
#define RETURN_GIVE(source, api, memory, result) give_return(ctx, source, api, memory, result)
#define RETURN_TIME(source, api, memory, result) time_return(source, api, result)
#define RETURN_RETAIN(source, api, memory, result) retain_return(api, result)
#define RETURN_MAP(source, api, memory, result) map_return(api, result)
#define RETURN_UNMAP(source, api, memory, result) unmap_return(api, result)
#define RETURN_CONTEXT(source, api, memory, result) context_return(api, result)
#define RETURN_CONTEXT_END(source, api, memory, result) context_end_return(api, result)
#define RETURN_PRIMARY(source, api, memory, result) primary_return(api, result)
#define RETURN_PRIMARY_RELEASE(source, api, memory, result) primary_end_return(api, result, 0)
#define RETURN_PRIMARY_RESET(source, api, memory, result) primary_end_return(api, result, 1)

#define CVG_PROBE(name, layer, action, memory, size)                                                                   \
    int uprobe__##name(struct pt_regs *ctx) {                                                                          \
        return ENTER_##action(ctx, SOURCE_##layer, API_##name, MEMORY_##memory, SIZE_##size);                          \
    }
#include "symbols.def"
#undef CVG_PROBE

#define CVG_PROBE(name, layer, action, memory, size)                                                                   \
    int uretprobe__##name(struct pt_regs *ctx) {                                                                       \
        return RETURN_##action(SOURCE_##layer, API_##name, MEMORY_##memory, (int)PT_REGS_RC(ctx));                     \
    }
#include "symbols.def"
#undef CVG_PROBE
