/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ways in which a program gets the address of a driver function or of one of NVML: dlsym, dlvsym, cuGetProcAddress.
 * Each asks the real one first and then replaces a pointer to a hooked function by the hook. (The fourth way, linking
 * against libcuda, is decided by the loader: this library comes first.)
 */
#include <dlfcn.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "client.h"
#include "driver.h"
#include "libc.h"
#include "nvml.h"

/* Calls of the driver and of NVML start like this and hardly anything else does; other names take the short way. */
enum library { LIBRARY_OTHER, LIBRARY_DRIVER, LIBRARY_NVML };

static enum library library_of(const char *name) {
    if (name == NULL)
        return LIBRARY_OTHER;
    if (name[0] == 'c' && name[1] == 'u' && name[2] >= 'A' && name[2] <= 'Z')
        return LIBRARY_DRIVER;
    return name[0] == 'n' && strncmp(name, "nvmlDevice", 10) == 0 ? LIBRARY_NVML : LIBRARY_OTHER;
}

/* Before a lookup: learning uses dlopen, and the lookup's own dlerror has to be the last. */
static void learn(enum library library) {
    if (library == LIBRARY_NVML)
        (void)nvml_learn();
    else
        (void)driver();
}

static void *route(enum library library, void *found) {
    return library == LIBRARY_NVML ? nvml_route(found) : driver_route(found);
}

struct two_addresses {
    uintptr_t first;
    uintptr_t second;
    bool same;
};

static int holds_both(struct dl_phdr_info *library, size_t size, void *out) {
    (void)size;
    struct two_addresses *wanted = out;
    bool first = false;
    bool second = false;
    for (int index = 0; index < library->dlpi_phnum; index++) {
        const ElfW(Phdr) *segment = &library->dlpi_phdr[index];
        const uintptr_t start = library->dlpi_addr + segment->p_vaddr;
        if (segment->p_type == PT_LOAD) {
            first |= wanted->first - start < segment->p_memsz;
            second |= wanted->second - start < segment->p_memsz;
        }
    }
    wanted->same |= first && second;
    return first || second; /* found one of them: no need to go on */
}

static bool in_same_library(const void *first, const void *second) {
    struct two_addresses wanted = {(uintptr_t)first, (uintptr_t)second, false};
    dl_iterate_phdr(holds_both, &wanted);
    return wanted.same;
}

/*
 * RTLD_DEFAULT and RTLD_NEXT mean a place in the search order relative to the caller, which the real dlsym finds by its
 * return address; so it has to be entered by a jump, and then its answer cannot be looked at. For a hooked name the
 * answer is therefore decided beforehand, from what comes after this library in the global search order.
 *
 * Returns true with the answer, or false: jump to the real function.
 */
static bool answer_hooked_name(void *handle, const char *name, const void *caller, void **answer) {
    const struct libc_functions *libc = libc_functions();
    void *hook;
    void *real;
    if (!driver_hook_named(name, &hook, &real) && !nvml_hook_named(name, &hook, &real))
        return false;
    void *after_us = libc->dlsym(RTLD_NEXT, name);
    if (real == NULL) {
        *answer = after_us; /* a call that libcuda lacks stays missing, although this library exports the name */
        return true;
    }
    /*
     * Every definition after the caller is either the hook itself, or libcuda's and to be replaced by it. If a third
     * library defines the name as well, only its own lookup of the next one is known to mean libcuda's.
     */
    if (after_us == NULL || after_us == real || (handle == RTLD_NEXT && in_same_library(caller, after_us))) {
        if (after_us == NULL && libc->dlerror != NULL)
            (void)libc->dlerror(); /* this lookup succeeds: no error may be left behind */
        *answer = hook;
        return true;
    }
    return false;
}

static bool is_relative(const void *handle) {
    return handle == RTLD_DEFAULT || handle == RTLD_NEXT;
}

/*
 * RTLD_DEEPBIND would put a library's own dependencies before this one: its calls would go to libcuda directly, and
 * those of a libcuda that is loaded in this way past the boundary. The flag is dropped. Like dlsym, the real function
 * looks at its caller (for its search path), so it is entered by a jump.
 */
CVG_EXPORT void *dlopen(const char *file, int flags) {
    const struct libc_functions *libc = libc_functions();
    if (libc->dlopen == NULL)
        return NULL;
    return libc->dlopen(file, client_is_passive() ? flags : flags & ~RTLD_DEEPBIND);
}

CVG_EXPORT void *dlsym(void *handle, const char *name) {
    const struct libc_functions *libc = libc_functions();
    if (libc->dlsym == NULL)
        return NULL;
    const enum library library = library_of(name);
    if (library == LIBRARY_OTHER)
        return libc->dlsym(handle, name); /* a jump: the caller's return address stays on top */
    learn(library);
    if (!is_relative(handle))
        return route(library, libc->dlsym(handle, name));
    void *answer;
    if (answer_hooked_name(handle, name, __builtin_return_address(0), &answer))
        return answer;
    return libc->dlsym(handle, name); /* a jump */
}

CVG_EXPORT void *dlvsym(void *handle, const char *name, const char *version) {
    const struct libc_functions *libc = libc_functions();
    if (libc->dlvsym == NULL)
        return NULL;
    const enum library library = library_of(name);
    if (library == LIBRARY_OTHER)
        return libc->dlvsym(handle, name, version); /* a jump */
    learn(library);
    if (!is_relative(handle))
        return route(library, libc->dlvsym(handle, name, version));
    /* The hooks carry no version, so a lookup with one never meets them: only libcuda's own are to be replaced. */
    void *after_us = libc->dlvsym(RTLD_NEXT, name, version);
    void *answer = route(library, after_us);
    if (answer != after_us)
        return answer;
    return libc->dlvsym(handle, name, version); /* a jump */
}

static void route_answer(CUresult result, void **pfn) {
    if (result == CUDA_SUCCESS && pfn != NULL)
        *pfn = driver_route(*pfn);
}

CUresult cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags) {
    const CUresult result = driver()->cuGetProcAddress(symbol, pfn, cudaVersion, flags);
    route_answer(result, pfn);
    return result;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags, int *symbolStatus) {
    const CUresult result = driver()->cuGetProcAddress_v2(symbol, pfn, cudaVersion, flags, symbolStatus);
    route_answer(result, pfn);
    return result;
}
