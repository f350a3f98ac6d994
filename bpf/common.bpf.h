/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What all programs of the witness share: identities, balances, losses, events.
 *
 * The loader (convgpu/sources/ebpf.py) compiles all *.bpf.h and *.bpf.c as one text, so that they
 * share these maps. It reads the three enums below from this file: they are the only definition of those words, and a
 * member's name in lower case, less its prefix, is the word that people see.
 *
 * No program touches a structure of the kernel, so headers of another kernel version will do.
 *
 * The truth is `balances`. It is a hash, not an LRU, and it is changed by atomic adds only. `events` is the story: an
 * event that does not fit is dropped and counted, and no balance depends on it.
 */
#ifndef CONVGPU_COMMON_BPF_H
#define CONVGPU_COMMON_BPF_H

#include <uapi/linux/ptrace.h>

/* Sizes of the maps; the loader may override each (-D). Kernel memory with these: about 45 MiB, taken at start. */
#ifndef CVG_MAX_OBJECTS
#define CVG_MAX_OBJECTS 131072 /* live video-memory objects of all processes: 256 GiB in granules of 2 MiB */
#endif
#ifndef CVG_MAX_LIVE
#define CVG_MAX_LIVE 131072 /* live pointers that cuMemAlloc_v2 or cudaMalloc returned, all processes */
#endif
#ifndef CVG_MAX_CLIENTS
#define CVG_MAX_CLIENTS 16384 /* resource-manager clients, their parents and totals */
#endif
#ifndef CVG_MAX_BALANCES
#define CVG_MAX_BALANCES 16384 /* processes x (devices + layers) */
#endif
#ifndef CVG_MAX_CALLS
#define CVG_MAX_CALLS 16384 /* threads inside a watched call at one moment */
#endif
#ifndef CVG_RING_PAGES
#define CVG_RING_PAGES 1024 /* 4 MiB, 58,254 events; a power of 2 */
#endif

#define CVG_MAX_DEVICES 32 /* NV_MAX_DEVICES of NVIDIA's open kernel modules: device instances are 0 to 31 */
#define CVG_UNKNOWN_DEVICE (-1)

/*
 * With CVG_PIN_DIR, a folder of a bpf file system, every map is kept there: it outlives the daemon that loaded it, and
 * the next one goes on with it (convgpu/sources/bpf_pins.py). All of them, or none: the programs of two daemons share
 * calls in flight too, so that one call is counted by exactly one of them.
 */
#ifdef CVG_PIN_DIR
#define CVG_HASH(name, key, leaf, size) BPF_TABLE_PINNED("hash", key, leaf, name, size, CVG_PIN_DIR "/" #name)
#define CVG_ARRAY(name, leaf, size) BPF_TABLE_PINNED("array", int, leaf, name, size, CVG_PIN_DIR "/" #name)
/* bcc has no pinned ring buffer: this is its own BPF_RINGBUF_OUTPUT with the pin's path in the section's name. */
#define CVG_RING(name, pages)                                                                                          \
    struct name##_table_t {                                                                                            \
        int key;                                                                                                       \
        u32 leaf;                                                                                                      \
        int (*ringbuf_output)(void *, u64, u64);                                                                       \
        void *(*ringbuf_reserve)(u64);                                                                                 \
        void (*ringbuf_discard)(void *, u64);                                                                          \
        void (*ringbuf_submit)(void *, u64);                                                                           \
        u32 max_entries;                                                                                               \
    };                                                                                                                 \
    __attribute__((section("maps/ringbuf:" CVG_PIN_DIR "/" #name))) struct name##_table_t name = {                     \
        .max_entries = (pages)*PAGE_SIZE}
#else
#define CVG_HASH(name, key, leaf, size) BPF_HASH(name, key, leaf, size)
#define CVG_ARRAY(name, leaf, size) BPF_ARRAY(name, leaf, size)
#define CVG_RING(name, pages) BPF_RINGBUF_OUTPUT(name, pages)
#endif

/* Who says so. Figures of different sources describe the same memory and are never added up. */
enum source {
    SOURCE_BOUNDARY, /* resource-manager ioctls: physical bytes */
    SOURCE_DRIVER,   /* libcuda: bytes as the driver was asked */
    SOURCE_RUNTIME,  /* libcudart: bytes as the program asked */
    SOURCE_PROCESS,  /* the kernel's scheduler */
};

enum kind {
    KIND_ALLOC,
    KIND_FREE,
    KIND_FAIL,
    KIND_EXIT,
};

/* Everything that can be lost, counted where it happens. */
enum loss {
    LOSS_RING_FULL,       /* an event did not fit; balances are not affected */
    LOSS_CALLS_FULL,      /* a call could not be remembered between entry and return */
    LOSS_LIVE_FULL,       /* an API allocation could not be remembered: it is in no balance */
    LOSS_OBJECTS_FULL,    /* a video-memory object could not be remembered: it is in no balance */
    LOSS_CLIENTS_FULL,    /* a client, a device or a total could not be remembered */
    LOSS_BALANCES_FULL,   /* a process could not be remembered: its allocation is in no balance */
    LOSS_READ_FAILED,     /* user memory could not be read */
    LOSS_UNDECODED,       /* a serialised parameter block: this version does not read it */
    LOSS_UNKNOWN_FREE,    /* an API free of a pointer that was not seen allocated */
    LOSS_MISSED_FREE,     /* a pointer was returned again whose free was not seen; put right when noticed */
    LOSS_UNKNOWN_CLIENT,  /* an object of a client that was made before the witness came */
    LOSS_UNKNOWN_PARENT,  /* an object below no known device: its bytes count for the unknown device */
    LOSS_FOREIGN_CLIENT,  /* a call on a client of another process in another cgroup: not believed */
    LOSS_REPLACED_CLIENT, /* a client's number came again while its last owner was not known to have ended */
    LOSS_KINDS,
};

CVG_ARRAY(losses, u64, LOSS_KINDS);

static __always_inline void lost(int kind) {
    u64 *count = losses.lookup(&kind);
    if (count)
        __sync_fetch_and_add(count, 1);
}

struct event {
    u64 mono_ns; /* CLOCK_MONOTONIC, at the return of the call */
    u64 cgroup_id;
    u64 size_bytes;
    u64 latency_ns;
    u32 pid; /* tgid that is charged */
    u32 tid; /* thread that called */
    s32 device;
    u16 source;
    u16 kind;
    char comm[16];
};

CVG_RING(events, CVG_RING_PAGES);

/* NO_WAKEUP: user space polls on a timer; waking it for each event would cost more than the event. */
static __always_inline void emit(u64 cgroup_id, u32 pid, u16 source, u16 kind, u64 size_bytes, u64 latency_ns,
                                 s32 device) {
    struct event event = {};
    event.mono_ns = bpf_ktime_get_ns();
    event.cgroup_id = cgroup_id;
    event.size_bytes = size_bytes;
    event.latency_ns = latency_ns;
    event.pid = pid;
    event.tid = (u32)bpf_get_current_pid_tgid();
    event.device = device;
    event.source = source;
    event.kind = kind;
    bpf_get_current_comm(event.comm, sizeof(event.comm));
    if (events.ringbuf_output(&event, sizeof(event), BPF_RB_NO_WAKEUP))
        lost(LOSS_RING_FULL);
}

/* A process with an account. Kept until user space has seen its end and forgets it. */
struct process {
    u64 first_seen_ns;
    u64 cgroup_id;
};

CVG_HASH(processes, u32, struct process, CVG_MAX_BALANCES);

static __always_inline void note_process(u32 tgid, u64 cgroup_id) {
    struct process fresh = {};
    fresh.first_seen_ns = bpf_ktime_get_ns();
    fresh.cgroup_id = cgroup_id;
    processes.insert(&tgid, &fresh);
}

struct balance_key {
    u64 cgroup_id;
    u32 tgid;
    s16 device; /* CVG_UNKNOWN_DEVICE for the API sources: a CUDA call does not name its device */
    u16 source;
};

struct balance {
    u64 bytes;       /* live now */
    u64 peak_bytes;  /* best effort: two adds at one moment may hide the higher of their sums */
    u64 allocations; /* successful ones, ever */
    u64 frees;       /* ended ones, ever; allocations - frees are alive */
    u64 failures;    /* refused allocations */
};

CVG_HASH(balances, struct balance_key, struct balance, CVG_MAX_BALANCES);

static __always_inline struct balance *balance_of(u64 cgroup_id, u32 tgid, u16 source, s16 device) {
    struct balance_key key = {};
    key.cgroup_id = cgroup_id;
    key.tgid = tgid;
    key.device = device;
    key.source = source;
    struct balance *balance = balances.lookup(&key);
    if (balance)
        return balance;
    struct balance zero = {};
    balances.insert(&key, &zero); /* another thread may be first; both find the same entry */
    note_process(tgid, cgroup_id);
    balance = balances.lookup(&key);
    if (!balance)
        lost(LOSS_BALANCES_FULL);
    return balance;
}

static __always_inline void balance_add(struct balance *balance, u64 size_bytes) {
    __sync_fetch_and_add(&balance->bytes, size_bytes);
    __sync_fetch_and_add(&balance->allocations, 1);
    u64 now_bytes = balance->bytes;
    if (now_bytes > balance->peak_bytes)
        balance->peak_bytes = now_bytes;
}

/* Never makes an entry: what is freed was added before, or is forgotten by now. */
static __always_inline void balance_subtract(u64 cgroup_id, u32 tgid, u16 source, s16 device, u64 size_bytes,
                                             u64 count) {
    struct balance_key key = {};
    key.cgroup_id = cgroup_id;
    key.tgid = tgid;
    key.device = device;
    key.source = source;
    struct balance *balance = balances.lookup(&key);
    if (!balance)
        return;
    __sync_fetch_and_add(&balance->bytes, -size_bytes);
    __sync_fetch_and_add(&balance->frees, count);
}

#endif
