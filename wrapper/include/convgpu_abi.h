/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one definition of what wrapper and daemon share: the credit page and the messages of the client socket.
 *
 * Python reads this very file (convgpu/daemon/abi.py), so it keeps to what cffi's declaration parser understands:
 * fixed-width types, `#define NAME integer-or-string`, structs and enums. Preprocessor lines other than such
 * defines, and static assertions, are skipped by the reader.
 *
 * Compatibility: any change of layout or meaning raises CVG_ABI_VERSION. Both sides refuse another version.
 */
#ifndef CONVGPU_ABI_H
#define CONVGPU_ABI_H

#include <stdint.h>

#define CVG_ABI_VERSION 2
#define CVG_PAGE_MAGIC 0x31475643 /* "CVG1", little endian */
#define CVG_PAGE_BYTES 4096
#define CVG_DEVICES_MAX 16
#define CVG_MESSAGE_BYTES 64
#define CVG_GRANULE_BYTES 2097152 /* granule of a physical allocation, 2 MiB: measured on an H200 */

/* Where the wrapper looks for the daemon inside a container; CONVGPU_SOCKET overrides it (tests). */
#define CVG_CLIENT_SOCKET "/run/convgpu/client.sock"

/*
 * One device's account of one process. Two cache lines: the first is written by the daemon only, the second by the
 * process (and, for credit_bytes, by both). All 64-bit fields are read and written atomically.
 *
 *   granted = credit + used + reserved + managed      at rest
 *   granted >= credit + used + reserved + managed     always: each side raises the left before the right
 *
 * `managed` is apart from `used` because NVML shows managed memory with no process: used is what NVML has to agree
 * with.
 */
struct cvg_device_account {
    uint8_t uuid[16];       /* GPU UUID, binary; all zero: the slot is not in use */
    uint64_t limit_bytes;   /* the container's limit on this device, for display only */
    uint64_t granted_bytes; /* all that the daemon ever granted minus all it took back */
    uint32_t pci_domain;    /* PCI address of the device, as NVML gives it */
    uint32_t pci_bus;
    uint32_t pci_device;
    uint32_t nvml_index;
    uint64_t context_hint_bytes; /* what a context costs on this device, from another process; 0: not known */
    uint64_t managed_bytes;      /* managed memory, as asked for; written by the process, here for want of room below */

    uint64_t credit_bytes;   /* may be taken without asking. client: compare-and-swap down, add; daemon: exchange 0 */
    uint64_t used_bytes;     /* physical bytes of live video-memory objects */
    uint64_t reserved_bytes; /* taken from credit or granted by message, not settled yet: calls in flight */
    uint64_t peak_bytes;     /* highest used_bytes */
    uint64_t allocations;    /* settled video-memory objects, ever */
    uint64_t frees;          /* ended video-memory objects, ever */
    uint64_t refusals;       /* times the boundary answered NV_ERR_NO_MEMORY itself */
    uint64_t context_bytes;  /* largest cost of a context that this process made; the daemon hints it to others */
};

struct cvg_page {
    uint32_t magic;
    uint32_t abi_version;
    uint64_t instance;     /* random, never 0: names this account across daemon restarts */
    int32_t pid;           /* host pid */
    uint32_t device_count; /* slots in use, from 0 */
    uint64_t start_ticks;  /* field 22 of /proc/<pid>/stat */
    uint32_t wanted;       /* not 0: somebody waits; announce every free with CVG_RELEASED */
    uint32_t fail_open;    /* not 0: while the daemon is away, memory is not refused; written by the daemon */
    uint32_t estimated;    /* not 0: the boundary met a layout it cannot read; written by the process */
    uint32_t padding0;
    uint64_t padding[10];
    struct cvg_device_account device[CVG_DEVICES_MAX];
};

/* Messages: both directions, SOCK_SEQPACKET, one fixed size. Direction and meaning of the fields: */
enum cvg_message_type {
    CVG_HELLO = 1,     /* -> request: instance of the page the client holds, 0 for none */
    CVG_WELCOME = 2,   /* <- with the page's descriptor (SCM_RIGHTS); request: its instance */
    CVG_UNMANAGED = 3, /* <- answer to HELLO: not a container ConvGPU guards; the wrapper goes passive */
    CVG_ACQUIRE = 4,   /* -> size_bytes on device; waits unless CVG_FLAG_NOWAIT; api: what asks */
    CVG_GRANTED = 5,   /* <- size_bytes are the asker's: reserved, not added to credit */
    CVG_DENIED = 6,    /* <- reason */
    CVG_RELEASED = 7,  /* -> credit grew while `wanted` was set; no answer */
    CVG_QUERY = 8,     /* -> device */
    CVG_INFO = 9,      /* <- total_bytes: limit; free_bytes: limit minus what the container uses, not below 0 */
    CVG_REFUSED = 10,  /* <- answer to HELLO: reason says why; the client must not allocate */
    /*
     * -> device, size_bytes: a number from 0. <- the container's process of that number on the device: total_bytes: its
     * pid in its own pid namespace, free_bytes: its used_bytes. CVG_REASON_DEVICE: there are not so many.
     */
    CVG_PROCESS = 11
};

enum cvg_flag {
    CVG_FLAG_NOWAIT = 1, /* answer at once: grant or deny */
    CVG_FLAG_FORCE = 2,  /* the driver already took it: record it, even above the limit */
    CVG_FLAG_AGAIN = 4   /* asked before, of a daemon that has died since: keep since_ns as the arrival */
};

enum cvg_reason {
    CVG_REASON_NONE = 0,
    CVG_REASON_LIMIT = 1,        /* used + asked > limit */
    CVG_REASON_NOT_NOW = 2,      /* would have had to wait, but CVG_FLAG_NOWAIT */
    CVG_REASON_WAIT_TIMEOUT = 3, /* the container's wait time is over */
    CVG_REASON_DEVICE = 4,       /* no such device slot */
    CVG_REASON_VERSION = 5,      /* another CVG_ABI_VERSION */
    CVG_REASON_UNKNOWN = 6       /* the daemon cannot tell who asks */
};

struct cvg_message {
    uint32_t type; /* enum cvg_message_type */
    uint32_t abi_version;
    uint64_t request; /* chosen by the client, unique within the process; echoed */
    uint64_t size_bytes;
    uint64_t since_ns; /* CLOCK_MONOTONIC when this request was first made */
    uint32_t device;   /* slot in the page */
    uint32_t flags;    /* enum cvg_flag */
    uint32_t reason;   /* enum cvg_reason */
    uint32_t api;      /* line in symbols.def, from 1; 0: the driver boundary */
    uint64_t total_bytes;
    uint64_t free_bytes;
};

_Static_assert(sizeof(struct cvg_device_account) == 128, "two cache lines");
_Static_assert(sizeof(struct cvg_page) == 128 + CVG_DEVICES_MAX * 128, "header and slots");
_Static_assert(sizeof(struct cvg_page) <= CVG_PAGE_BYTES, "one page");
_Static_assert(sizeof(struct cvg_message) == CVG_MESSAGE_BYTES, "fixed size");

#endif
