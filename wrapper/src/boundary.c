/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The boundary: every ioctl of this process passes here, and those of the NVIDIA resource manager are read. Physical
 * memory is charged here and nowhere else, whatever call of CUDA asked for it.
 *
 * The driver holds locks around these calls, so nobody waits for memory here: bytes that no reservation and no credit
 * cover are asked for now or never. "No" is what the resource manager itself says when memory is out: the call
 * succeeds and its status is NV_ERR_NO_MEMORY. (An errno would reach the program as CUDA_ERROR_OPERATING_SYSTEM.)
 */
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "client.h"
#include "clock.h"
#include "descriptor.h"
#include "device.h"
#include "driver.h"
#include "file.h"
#include "heap.h"
#include "libc.h"
#include "log.h"
#include "objects.h"
#include "rm.h"
#include "sharing.h"
#include "tally.h"
#include "thread.h"

/* How long the boundary waits for the daemon (not for memory) before it says no. */
#define DAEMON_WAIT_NS (10 * NS_PER_S)

/* The call as it goes on to the driver. */
struct call {
    int descriptor;
    unsigned long request;
    void *argument;
    int program_errno;
};

/* What was set aside for one allocation before the driver is asked; all of it counts as reserved in the page. */
struct cover {
    bool charged; /* false: nobody counts this device */
    uint32_t slot;
    uint64_t reservation_bytes; /* out of the reservation of the thread's driver call */
    uint64_t credit_bytes;      /* out of credit, or granted for this allocation */
};

static int forward(const struct call *call) {
    errno = call->program_errno;
    return libc_calls()->ioctl(call->descriptor, call->request, call->argument);
}

static struct cvg_device_account *account_of(uint32_t slot) {
    return &client_page()->device[slot];
}

static enum client_answer ask(uint32_t slot, uint64_t size_bytes, uint32_t flags) {
    const struct client_request request = {.slot = slot, .flags = flags, .size_bytes = size_bytes};
    uint32_t reason;
    const enum client_answer answer = client_acquire(&request, clock_now_ns() + DAEMON_WAIT_NS, &reason);
    if (answer == CLIENT_DENIED)
        log_debug("boundary: %llu bytes denied, reason %u", (unsigned long long)size_bytes, reason);
    return answer;
}

/* ---- Before the driver is asked ---- */

static bool refuse(uint32_t slot, uint64_t size_bytes) {
    if (slot != CVG_SLOT_NONE)
        account_refuse(account_of(slot));
    if (size_bytes > thread_state.refused_bytes) {
        thread_state.refused_bytes = size_bytes;
        thread_state.refused_slot = slot;
    }
    return false;
}

/* The slot of an object's device; false if it is not one that is counted. */
static bool find_slot(struct object_name parent, uint32_t *slot) {
    uint32_t instance = 0;
    const bool known = objects_device_instance(parent, &instance);
    switch (device_slot_of_instance(known, instance, slot)) {
    case DEVICE_FOUND:
        return true;
    case DEVICE_UNGUARDED:
        return false;
    default: /* charged to the device that the program is using, rather than not at all */
        *slot = thread_state.depth > 0 && thread_state.slot != CVG_SLOT_NONE ? thread_state.slot : 0;
        log_debug("boundary: device of object %x:%x not known, charged to slot %u", parent.client, parent.handle,
                  *slot);
        return true;
    }
}

static void cover_return(struct cover *cover) {
    if (!cover->charged)
        return;
    thread_state.reserved_bytes += cover->reservation_bytes;
    if (cover->credit_bytes != 0) {
        account_give_back(account_of(cover->slot), cover->credit_bytes);
        client_credit_grew(cover->slot);
    }
}

/* False: the boundary says no. */
static bool cover_take(struct cover *cover, const struct rm_alloc *block, uint64_t size_bytes) {
    *cover = (struct cover){.charged = false};
    const enum client_mode mode = client_join(clock_now_ns() + DAEMON_WAIT_NS);
    if (mode == CLIENT_PASSIVE)
        return true;
    if (mode != CLIENT_ACTIVE)
        return refuse(CVG_SLOT_NONE, size_bytes);
    if (!find_slot((struct object_name){block->client, block->parent}, &cover->slot))
        return true;
    cover->charged = true;
    if (thread_state.slot == cover->slot) {
        cover->reservation_bytes = size_bytes < thread_state.reserved_bytes ? size_bytes : thread_state.reserved_bytes;
        thread_state.reserved_bytes -= cover->reservation_bytes;
    }
    const uint64_t missing_bytes = size_bytes - cover->reservation_bytes;
    if (missing_bytes == 0)
        return true;
    if (!account_take(account_of(cover->slot), missing_bytes) &&
        !(file_collect() && account_take(account_of(cover->slot), missing_bytes))) {
        switch (ask(cover->slot, missing_bytes, CVG_FLAG_NOWAIT)) {
        case CLIENT_GRANTED:
            break;
        case CLIENT_UNGUARDED:
            cover_return(cover);
            cover->charged = false;
            return true;
        default:
            cover_return(cover);
            return refuse(cover->slot, size_bytes);
        }
    }
    cover->credit_bytes = missing_bytes;
    return true;
}

/* ---- After the driver answered ---- */

/* The driver took `size_bytes`, more or less than was covered: the cover becomes exactly that, and then use. */
static void settle(struct cover *cover, uint64_t size_bytes) {
    struct cvg_device_account *account = account_of(cover->slot);
    const uint64_t covered_bytes = cover->reservation_bytes + cover->credit_bytes;
    if (size_bytes > covered_bytes) {
        const uint64_t more_bytes = size_bytes - covered_bytes;
        if (!account_take(account, more_bytes) && ask(cover->slot, more_bytes, CVG_FLAG_FORCE) != CLIENT_GRANTED) {
            account_receive(account, more_bytes); /* the driver has it: the truth goes before the invariant */
            log_debug("boundary: %llu bytes in use that nobody granted", (unsigned long long)more_bytes);
        }
    } else {
        struct cover surplus = *cover;
        const uint64_t less_bytes = covered_bytes - size_bytes;
        surplus.credit_bytes = less_bytes < cover->credit_bytes ? less_bytes : cover->credit_bytes;
        surplus.reservation_bytes = less_bytes - surplus.credit_bytes;
        cover_return(&surplus);
    }
    tally_made(cover->slot, size_bytes);
}

static bool is_client_class(uint32_t class_id) {
    return class_id == RM_CLASS_ROOT || class_id == RM_CLASS_ROOT_NON_PRIVILEGED || class_id == RM_CLASS_ROOT_CLIENT;
}

static void note_object(const struct call *call, const struct rm_alloc *block, struct object_made *made) {
    struct object_bytes ended = {0};
    const bool is_client = is_client_class(block->class_id);
    made->name.client = is_client ? block->object : block->client;
    made->name.handle = block->object;
    made->parent = block->parent;
    if (block->class_id == RM_CLASS_DEVICE) {
        made->has_instance = true;
        if (block->parameters != 0)
            made->instance = *(const uint32_t *)(uintptr_t)block->parameters;
    }
    client_watch_fork();
    if (objects_insert(made, &ended) && is_client)
        file_watch(call->descriptor, block->object);
    (void)tally_ended(&ended);
}

/* ---- The commands ---- */

/* Once such a layout was seen, the API's estimates are charged for what the boundary lets pass (memory.c). */
static void cannot_read(const char *what) {
    static atomic_flag said = ATOMIC_FLAG_INIT;
    struct cvg_page *page = client_page();
    if (page == NULL)
        return;
    __atomic_store_n(&page->estimated, 1, __ATOMIC_RELAXED);
    log_once(&said, "this driver allocates in a way that is not understood (%s): GPU memory is estimated", what);
}

/* The memory that an allocation asks for, or null if it asks for something else. */
static struct rm_memory *memory_of(const struct rm_alloc *block, bool serialised) {
    struct rm_memory *memory = (struct rm_memory *)(uintptr_t)block->parameters;
    if (block->class_id != RM_CLASS_VIDEO_MEMORY || memory == NULL)
        return NULL;
    if (serialised) {
        cannot_read("serialised parameters");
        return NULL;
    }
    return (memory->flags & RM_ALLOC_FLAG_VIRTUAL) != 0 ? NULL : memory;
}

/*
 * What the driver will make of the size: it rounds up to the alignment (measured on an H100: 4,325,376 bytes asked with
 * an alignment of 2 MiB become 6,291,456). Covered beforehand, so that a limit cannot be passed by a fraction.
 */
static uint64_t expected_bytes(uint64_t size_bytes, uint64_t alignment) {
    const uint64_t mask = alignment - 1;
    if (alignment == 0 || (alignment & mask) != 0 || size_bytes > UINT64_MAX - mask)
        return size_bytes;
    return (size_bytes + mask) & ~mask;
}

/* `block` is what is asked for; its object is filled in from the driver's answer. */
static int allocate(const struct call *call, struct rm_alloc block, const struct allocation *asked) {
    struct cover cover = {.charged = false};
    uint32_t *status = asked->status;
    if (asked->size_bytes != NULL &&
        !cover_take(&cover, &block, expected_bytes(asked->asked_bytes, asked->alignment))) {
        log_debug("boundary: %llu bytes refused", (unsigned long long)asked->asked_bytes);
        *status = RM_ERR_NO_MEMORY;
        errno = call->program_errno;
        return 0;
    }
    const int result = forward(call);
    const int driver_errno = errno;
    if (result != 0 || *status != RM_OK) {
        cover_return(&cover);
    } else {
        struct object_made made = {.holding = NULL};
        if (cover.charged && !allocation_is_on_host(asked)) {
            made.holding = holding_new(cover.slot, *asked->size_bytes);
            settle(&cover, *asked->size_bytes);
        } else {
            cover_return(&cover);
        }
        block.object = *asked->object;
        note_object(call, &block, &made);
    }
    errno = driver_errno;
    return result;
}

static int on_alloc(const struct call *call, const struct rm_alloc *block, uint32_t *status, bool serialised) {
    const struct rm_memory *memory = memory_of(block, serialised);
    const struct allocation asked = {.size_bytes = memory != NULL ? &memory->size_bytes : NULL,
                                     .asked_bytes = memory != NULL ? memory->size_bytes : 0,
                                     .alignment = memory != NULL ? memory->alignment : 0,
                                     .object = &block->object,
                                     .status = status};
    return allocate(call, *block, &asked);
}

static int release(const struct call *call, struct object_name name, const uint32_t *status) {
    struct object *tree = objects_detach(name);
    const int result = forward(call);
    if (tree == NULL)
        return result;
    const int driver_errno = errno;
    if (result == 0 && *status == RM_OK) {
        struct object_bytes ended = {0};
        objects_destroy(tree, &ended);
        (void)tally_ended(&ended);
        if (name.client == name.handle)
            file_forget(call->descriptor, name.client);
        if (atomic_load_explicit(&file_suspects, memory_order_relaxed) != 0)
            (void)file_collect(); /* a file that another process has closed may have kept it */
    } else {
        objects_restore(tree);
    }
    errno = driver_errno;
    return result;
}

static int on_free(const struct call *call, const struct rm_free *block) {
    return release(call, (struct object_name){block->client, block->object}, &block->status);
}

/* The older way to video memory: the same in other words. */
static int on_heap(const struct call *call, struct rm_heap *heap) {
    const struct rm_alloc block = {.client = heap->client, .parent = heap->parent, .class_id = RM_CLASS_VIDEO_MEMORY};
    struct allocation asked;
    uint32_t freed;
    if (heap_allocates(heap, &asked))
        return allocate(call, block, &asked);
    if (heap_frees(heap, &freed))
        return release(call, (struct object_name){heap->client, freed}, &heap->status);
    return forward(call);
}

static int on_control(const struct call *call, const struct rm_control *block) {
    const int result = forward(call);
    const void *parameters = (const void *)(uintptr_t)block->parameters;
    if (result != 0 || block->status != RM_OK || parameters == NULL)
        return result;
    const int driver_errno = errno;
    if ((block->command == RM_CONTROL_GPU_ID_INFO || block->command == RM_CONTROL_GPU_ID_INFO_V2) &&
        block->parameters_bytes >= sizeof(struct rm_gpu_id_info)) {
        const struct rm_gpu_id_info *info = parameters;
        device_learn_instance(info->device_instance, info->gpu_id);
    } else if (block->command == RM_CONTROL_GPU_PCI_INFO && block->parameters_bytes >= sizeof(struct rm_gpu_pci_info)) {
        const struct rm_gpu_pci_info *info = parameters;
        device_learn_pci(info->gpu_id, info->domain, info->bus, info->slot);
    } else {
        sharing_controlled(block);
    }
    errno = driver_errno;
    return result;
}

static int on_duplicate(const struct call *call, const struct rm_duplicate *block) {
    const int result = forward(call);
    const int driver_errno = errno;
    if (result == 0 && block->status == RM_OK)
        sharing_duplicated(block);
    errno = driver_errno;
    return result;
}

static int dispatch(const struct call *call, uint32_t number, uint32_t size_bytes, void *block) {
    if (block == NULL)
        return forward(call);
    if (number == RM_ESC_ALLOC && size_bytes == sizeof(struct rm_alloc_long)) {
        struct rm_alloc_long *alloc = block;
        return on_alloc(call, &alloc->common, &alloc->status, (alloc->flags & RM_ALLOC_FLAG_SERIALISED) != 0);
    }
    if (number == RM_ESC_ALLOC && size_bytes == sizeof(struct rm_alloc_short)) {
        struct rm_alloc_short *alloc = block;
        return on_alloc(call, &alloc->common, &alloc->status, false);
    }
    if (number == RM_ESC_FREE && size_bytes == sizeof(struct rm_free))
        return on_free(call, block);
    if (number == RM_ESC_CONTROL && size_bytes == sizeof(struct rm_control))
        return on_control(call, block);
    if (number == RM_ESC_DUP_OBJECT && size_bytes == sizeof(struct rm_duplicate))
        return on_duplicate(call, block);
    if (number == RM_ESC_VID_HEAP_CONTROL && size_bytes == sizeof(struct rm_heap))
        return on_heap(call, block);
    if (number == RM_ESC_REGISTER_FD && size_bytes == sizeof(int32_t)) {
        const int result = forward(call);
        if (result == 0)
            descriptor_add_role(call->descriptor, DESCRIPTOR_REGISTERED);
        return result;
    }
    /* Of another size, the class is where it has always been; what it returns is not known. */
    if (number == RM_ESC_ALLOC && size_bytes > sizeof(struct rm_alloc) &&
        ((const struct rm_alloc *)block)->class_id == RM_CLASS_VIDEO_MEMORY)
        cannot_read("another form of RM_ALLOC");
    return forward(call);
}

CVG_EXPORT int ioctl(int descriptor, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (((request >> 8) & 0xFF) != RM_IOCTL_TYPE || client_is_passive())
        return libc_calls()->ioctl(descriptor, request, argument);
    const struct call call = {descriptor, request, argument, errno};
    uint32_t number = request & 0xFF;
    uint32_t size_bytes = (request >> 16) & 0x3FFF;
    if (number == RM_ESC_XFER_CMD && size_bytes == sizeof(struct rm_xfer) && argument != NULL) {
        const struct rm_xfer *xfer = argument;
        return dispatch(&call, xfer->number, xfer->size_bytes, (void *)(uintptr_t)xfer->block);
    }
    return dispatch(&call, number, size_bytes, argument);
}
