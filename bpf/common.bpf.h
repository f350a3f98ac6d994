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
 * The truth is `balances` and, for how often and how long, `latencies`. These are hashes, not LRUs, and are changed by
 * atomic adds only. `events` is the story: a process may tell so many a second, an event that does not fit is dropped,
 * both are counted, and no balance depends on it.
 */
#ifndef CONVGPU_COMMON_BPF_H
#define CONVGPU_COMMON_BPF_H

#include <uapi/linux/ptrace.h>

/* Sizes of the maps; the loader may override each (-D). Kernel memory with these: 74 MiB, taken at start. */
#ifndef CVG_MAX_OBJECTS
#define CVG_MAX_OBJECTS 131072 /* live video-memory objects of all processes: 256 GiB in granules of 2 MiB */
#endif
#ifndef CVG_MAX_LIVE
#define CVG_MAX_LIVE 262144 /* live pointers and handles of both API layers, all processes */
#endif
#ifndef CVG_MAX_CLIENTS
#define CVG_MAX_CLIENTS 16384 /* resource-manager clients, their parents and totals */
#endif
#ifndef CVG_MAX_BALANCES
#define CVG_MAX_BALANCES 32768 /* processes x (devices + layers x kinds of memory in use) */
#endif
#ifndef CVG_MAX_CALLS
#define CVG_MAX_CALLS 16384 /* threads inside an ioctl of the driver at one moment */
#endif
#ifndef CVG_MAX_THREADS
#define CVG_MAX_THREADS 32768 /* living threads that have made a watched call of a library */
#endif
#ifndef CVG_MAX_LATENCIES
#define CVG_MAX_LATENCIES 4096 /* cgroups x calls that they made */
#endif
#ifndef CVG_RING_PAGES
#define CVG_RING_PAGES 1024 /* 4 MiB, 47,662 events; a power of 2 */
#endif
#ifndef CVG_NOTICE_PAGES
#define CVG_NOTICE_PAGES 16 /* 64 KiB, 1,638 notices */
#endif
#ifndef CVG_STACK_PAGES
#define CVG_STACK_PAGES 256 /* 1 MiB, 2,570 stacks; a power of 2 */
#endif
#ifndef CVG_TOLD_A_SECOND
#define CVG_TOLD_A_SECOND 2048 /* events of one balance; twice as many with those that are large or failures */
#endif
#ifndef CVG_LARGE_BYTES
#define CVG_LARGE_BYTES (64ULL << 20) /* the daemon writes a record of its own for each of these */
#endif
#define CVG_SECOND_NS 1000000000ULL
#define CVG_NOTICE_NS 100000000ULL /* between two notices about one process */
#define CVG_LATENCY_SLOTS 40       /* powers of two in nanoseconds; the last is 9 minutes and all above */

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
#define CVG_CPU_ARRAY(name, leaf, size) BPF_TABLE_PINNED("percpu_array", int, leaf, name, size, CVG_PIN_DIR "/" #name)
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
#define CVG_CPU_ARRAY(name, leaf, size) BPF_PERCPU_ARRAY(name, leaf, size)
#define CVG_RING(name, pages) BPF_RINGBUF_OUTPUT(name, pages)
#endif

/* Who says so. Figures of different sources describe the same memory and are never added up. */
enum source {
    SOURCE_BOUNDARY, /* resource-manager ioctls: physical bytes */
    SOURCE_DRIVER,   /* libcuda: bytes as the driver was asked */
    SOURCE_RUNTIME,  /* libcudart: bytes as the program asked */
    SOURCE_PROCESS,  /* the kernel's scheduler */
};

/* What an API call takes; a layer's balances of several kinds may be added up. */
enum memory {
    MEMORY_PHYSICAL, /* at the boundary, where there is no kind */
    MEMORY_LINEAR,
    MEMORY_POOL, /* stream-ordered */
    MEMORY_MANAGED,
    MEMORY_ARRAY,
    MEMORY_VMM,
    MEMORY_HOST, /* pinned memory of the host: never part of a sum of device memory */
    MEMORY_KINDS,
};

/* Which call an event is about: those at the boundary, then the lines of symbols.def in their order. */
enum api {
    API_NONE,
    API_RM_ALLOC,
    API_RM_FREE,
#define CVG_PROBE(name, layer, action, memory, size) API_##name,
#include "symbols.def"
#undef CVG_PROBE
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
    LOSS_SUPPRESSED,      /* more events of one balance than are told in a second; balances are not affected */
    LOSS_STACKS_FULL,     /* a stack did not fit: its event is told without */
    LOSS_NOTICES_FULL,    /* a newcomer could not be announced; the next look at all processes finds it */
    LOSS_CALLS_FULL,      /* no room for a thread: its calls could not be remembered between entry and return */
    LOSS_LIVE_FULL,       /* an API allocation could not be remembered: it is in no balance */
    LOSS_OBJECTS_FULL,    /* a video-memory object could not be remembered: it is in no balance */
    LOSS_CLIENTS_FULL,    /* a client, a device or a total could not be remembered */
    LOSS_BALANCES_FULL,   /* a process could not be remembered: its allocation is in no balance */
    LOSS_LATENCIES_FULL,  /* a call could not be timed: no room for one more cgroup and call */
    LOSS_READ_FAILED,     /* user memory could not be read */
    LOSS_UNDECODED,       /* a serialised parameter block: this version does not read it */
    LOSS_UNKNOWN_FREE,    /* an API free of a pointer that was not seen allocated */
    LOSS_MISSED_FREE,     /* a pointer was returned again whose free was not seen; put right when noticed */
    LOSS_UNMAPPED_MORE,   /* one cuMemUnmap ended more mappings than the program can look at */
    LOSS_CONTEXT_UNSURE,  /* a context ended beside others: what it held by the API counts until the process ends */
    LOSS_UNKNOWN_CLIENT,  /* an object of a client that was made before the witness came */
    LOSS_UNKNOWN_PARENT,  /* an object below no known device: its bytes count for the unknown device */
    LOSS_FOREIGN_CLIENT,  /* a call on a client of another process in another cgroup: not believed */
    LOSS_REPLACED_CLIENT, /* a client's number came again while its last owner was not known to have ended */
    LOSS_KINDS,
};

/*
 * One for each processor: threads that lose events all the time would wait for each other at a common one. A program
 * may be preempted by another on the same processor, so adding is atomic all the same.
 */
CVG_CPU_ARRAY(losses, u64, LOSS_KINDS);

static __always_inline void lost(int kind) {
    u64 *count = losses.lookup(&kind);
    if (count)
        __sync_fetch_and_add(count, 1);
}

/* A process with an account. Kept until user space has seen its end and forgets it. */
struct process {
    u64 first_seen_ns;
    u64 cgroup_id;
    u64 renewed_ns; /* exec, or another process of the same number: what is older is over */
    s64 contexts;   /* made by cuCtxCreate and alive */
    s64 primaries;  /* devices whose primary context is alive */
    u64 noticed_ns;
};

CVG_HASH(processes, u32, struct process, CVG_MAX_BALANCES);

static __always_inline struct process *note_process(u32 tgid, u64 cgroup_id) {
    struct process *known = processes.lookup(&tgid);
    if (known)
        return known;
    struct process fresh = {};
    fresh.first_seen_ns = bpf_ktime_get_ns();
    fresh.cgroup_id = cgroup_id;
    processes.insert(&tgid, &fresh); /* another thread may be first; both find the same entry */
    return processes.lookup(&tgid);
}

/* A process begins to use the driver: user space learns of it at once, and looks what libraries it has mapped. */
struct notice {
    u64 mono_ns;
    u64 cgroup_id;
    u32 pid;
    u32 tid;
    u64 unused;
};

CVG_RING(notices, CVG_NOTICE_PAGES);

static __always_inline void announce(void) {
    u64 pid_tgid = bpf_get_current_pid_tgid();
    struct notice notice = {};
    notice.mono_ns = bpf_ktime_get_ns();
    notice.cgroup_id = bpf_get_current_cgroup_id();
    notice.pid = pid_tgid >> 32;
    notice.tid = (u32)pid_tgid;
    struct process *process = note_process(notice.pid, notice.cgroup_id);
    if (process) {
        if (notice.mono_ns - process->noticed_ns < CVG_NOTICE_NS)
            return;
        process->noticed_ns = notice.mono_ns;
    }
    if (notices.ringbuf_output(&notice, sizeof(notice), BPF_RB_FORCE_WAKEUP))
        lost(LOSS_NOTICES_FULL);
}

struct balance_key {
    u64 cgroup_id;
    u32 tgid;
    s16 device; /* CVG_UNKNOWN_DEVICE for the API sources: a CUDA call does not name its device */
    u8 source;
    u8 memory;
};

struct balance {
    u64 bytes;       /* live now */
    u64 peak_bytes;  /* best effort: two adds at one moment may hide the higher of their sums */
    u64 allocations; /* successful ones, ever */
    u64 frees;       /* ended ones, ever; allocations - frees are alive */
    u64 failures;    /* refused allocations */
    u64 ended_ns;    /* when all of it ended at once: allocations that are older are over */
    u64 window_ns;   /* of the second in which `told` events were told */
    u64 told;
};

CVG_HASH(balances, struct balance_key, struct balance, CVG_MAX_BALANCES);

static __always_inline struct balance *balance_of(struct balance_key *key) {
    struct balance *balance = balances.lookup(key);
    if (balance)
        return balance;
    struct balance zero = {};
    balances.insert(key, &zero); /* another thread may be first; both find the same entry */
    note_process(key->tgid, key->cgroup_id);
    balance = balances.lookup(key);
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
static __always_inline struct balance *balance_subtract(struct balance_key *key, u64 size_bytes, u64 count) {
    struct balance *balance = balances.lookup(key);
    if (!balance)
        return 0;
    __sync_fetch_and_add(&balance->bytes, -size_bytes);
    __sync_fetch_and_add(&balance->frees, count);
    return balance;
}

/* All of it has ended. Nobody allocates for this key at this moment: that is for the caller to know. */
static __always_inline void balance_end(struct balance_key *key) {
    struct balance *balance = balances.lookup(key);
    if (!balance)
        return;
    balance->ended_ns = bpf_ktime_get_ns();
    u64 size_bytes = balance->bytes, alive = balance->allocations - balance->frees;
    __sync_fetch_and_add(&balance->bytes, -size_bytes);
    __sync_fetch_and_add(&balance->frees, alive);
}

#endif
