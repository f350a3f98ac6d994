/* SPDX-License-Identifier: Apache-2.0 */
#include "libc.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What a library's dynamic section says about its symbols. */
struct symbol_table {
    const ElfW(Sym) * symbols;
    const char *strings;
    const ElfW(Half) * versions;
    const uint32_t *gnu_hash;
    const ElfW(Word) * sysv_hash;
    const char *soname;
};

static struct libc_functions functions;
static atomic_bool has_calls; /* what libc itself has */
static atomic_bool complete;  /* what libdl has as well */

static uint32_t gnu_hash_of(const char *name) {
    uint32_t hash = 5381;
    for (; *name != '\0'; name++)
        hash = hash * 33 + (unsigned char)*name;
    return hash;
}

/* The loader relocates the addresses in the dynamic section on most machines, not on all. */
static const void *address_in(const struct dl_phdr_info *library, ElfW(Addr) address) {
    return (const void *)(address < library->dlpi_addr ? library->dlpi_addr + address : address);
}

static bool read_table(const struct dl_phdr_info *library, struct symbol_table *table) {
    const ElfW(Dyn) *entry = NULL;
    for (int index = 0; index < library->dlpi_phnum; index++)
        if (library->dlpi_phdr[index].p_type == PT_DYNAMIC)
            entry = (const ElfW(Dyn) *)(library->dlpi_addr + library->dlpi_phdr[index].p_vaddr);
    if (entry == NULL)
        return false;
    memset(table, 0, sizeof(*table));
    ElfW(Xword) soname_offset = 0;
    for (; entry->d_tag != DT_NULL; entry++) {
        const void *address = address_in(library, entry->d_un.d_ptr);
        switch (entry->d_tag) {
        case DT_SYMTAB:
            table->symbols = address;
            break;
        case DT_STRTAB:
            table->strings = address;
            break;
        case DT_VERSYM:
            table->versions = address;
            break;
        case DT_GNU_HASH:
            table->gnu_hash = address;
            break;
        case DT_HASH:
            table->sysv_hash = address;
            break;
        case DT_SONAME:
            soname_offset = entry->d_un.d_val;
            break;
        default:
            break;
        }
    }
    if (table->symbols == NULL || table->strings == NULL || soname_offset == 0)
        return false;
    table->soname = table->strings + soname_offset;
    return true;
}

/* Of several versions of a name the default one is meant: the others have the hidden bit. */
static bool is_wanted(const struct symbol_table *table, uint32_t index, const char *name) {
    const ElfW(Sym) *symbol = &table->symbols[index];
    return symbol->st_shndx != SHN_UNDEF && strcmp(table->strings + symbol->st_name, name) == 0 &&
           (table->versions == NULL || (table->versions[index] & 0x8000) == 0);
}

static const ElfW(Sym) * find_gnu(const struct symbol_table *table, const char *name) {
    const uint32_t bucket_count = table->gnu_hash[0];
    const uint32_t first_symbol = table->gnu_hash[1];
    const uint32_t bloom_words = table->gnu_hash[2];
    const ElfW(Addr) *bloom = (const ElfW(Addr) *)&table->gnu_hash[4];
    const uint32_t *buckets = (const uint32_t *)&bloom[bloom_words];
    const uint32_t *chain = &buckets[bucket_count];
    const uint32_t hash = gnu_hash_of(name);
    if (bucket_count == 0)
        return NULL;
    uint32_t index = buckets[hash % bucket_count];
    if (index < first_symbol)
        return NULL;
    for (;; index++) {
        const uint32_t entry = chain[index - first_symbol];
        if ((entry | 1) == (hash | 1) && is_wanted(table, index, name))
            return &table->symbols[index];
        if ((entry & 1) != 0) /* the end of the chain */
            return NULL;
    }
}

static const ElfW(Sym) * find_sysv(const struct symbol_table *table, const char *name) {
    const uint32_t symbol_count = table->sysv_hash[1]; /* the number of chain entries is that of symbols */
    for (uint32_t index = 1; index < symbol_count; index++)
        if (is_wanted(table, index, name))
            return &table->symbols[index];
    return NULL;
}

static void find(const struct dl_phdr_info *library, const struct symbol_table *table, const char *name, void *out) {
    const ElfW(Sym) *symbol = NULL;
    if (table->gnu_hash != NULL)
        symbol = find_gnu(table, name);
    else if (table->sysv_hash != NULL)
        symbol = find_sysv(table, name);
    if (symbol == NULL)
        return;
    const ElfW(Addr) address = library->dlpi_addr + symbol->st_value;
    memcpy(out, &address, sizeof(address));
}

static int visit(struct dl_phdr_info *library, size_t size, void *out) {
    (void)size;
    struct libc_functions *found = out;
    struct symbol_table table;
    if (!read_table(library, &table))
        return 0;
    const bool is_libc = strcmp(table.soname, "libc.so.6") == 0;
    if (!is_libc && strcmp(table.soname, "libdl.so.2") != 0)
        return 0;
    find(library, &table, "dlopen", &found->dlopen);
    find(library, &table, "dlsym", &found->dlsym);
    find(library, &table, "dlvsym", &found->dlvsym);
    find(library, &table, "dlerror", &found->dlerror);
    if (is_libc) {
        find(library, &table, "ioctl", &found->ioctl);
        find(library, &table, "close", &found->close);
        find(library, &table, "dup2", &found->dup2);
        find(library, &table, "dup3", &found->dup3);
    }
    return 0;
}

static int ioctl_by_number(int descriptor, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return (int)syscall(SYS_ioctl, descriptor, request, argument);
}

static int close_by_number(int descriptor) {
    return (int)syscall(SYS_close, descriptor);
}

static int dup2_by_number(int from, int to) { /* not every machine has the system call dup2 */
    if (from == to)
        return syscall(SYS_fcntl, from, F_GETFD) < 0 ? -1 : to;
    return (int)syscall(SYS_dup3, from, to, 0);
}

static int dup3_by_number(int from, int to, int flags) {
    return (int)syscall(SYS_dup3, from, to, flags);
}

/* Threads that come at the same time store the same values. */
static void publish(const struct libc_functions *found) {
    __atomic_store_n(&functions.dlopen, found->dlopen, __ATOMIC_RELAXED);
    __atomic_store_n(&functions.dlsym, found->dlsym, __ATOMIC_RELAXED);
    __atomic_store_n(&functions.dlvsym, found->dlvsym, __ATOMIC_RELAXED);
    __atomic_store_n(&functions.dlerror, found->dlerror, __ATOMIC_RELAXED);
    __atomic_store_n(&functions.ioctl, found->ioctl, __ATOMIC_RELAXED);
    __atomic_store_n(&functions.close, found->close, __ATOMIC_RELAXED);
    __atomic_store_n(&functions.dup2, found->dup2, __ATOMIC_RELAXED);
    __atomic_store_n(&functions.dup3, found->dup3, __ATOMIC_RELAXED);
    atomic_store_explicit(&has_calls, true, memory_order_release);
    if (found->dlopen != NULL && found->dlsym != NULL && found->dlvsym != NULL && found->dlerror != NULL)
        atomic_store_explicit(&complete, true, memory_order_release);
}

/* In place of libc's: that of a library which is preloaded behind this one. */
static void find_next(const struct libc_functions *found, const char *name, void *out) {
    void *next = found->dlsym != NULL ? found->dlsym(RTLD_NEXT, name) : NULL;
    if (next != NULL)
        memcpy(out, &next, sizeof(next));
}

static void find_all(void) {
    struct libc_functions found = {
        .ioctl = ioctl_by_number, .close = close_by_number, .dup2 = dup2_by_number, .dup3 = dup3_by_number};
    dl_iterate_phdr(visit, &found);
    find_next(&found, "ioctl", &found.ioctl);
    find_next(&found, "close", &found.close);
    find_next(&found, "dup2", &found.dup2);
    find_next(&found, "dup3", &found.dup3);
    publish(&found);
}

const struct libc_functions *libc_calls(void) {
    if (!atomic_load_explicit(&has_calls, memory_order_acquire))
        find_all();
    return &functions;
}

const struct libc_functions *libc_functions(void) {
    if (!atomic_load_explicit(&complete, memory_order_acquire))
        find_all();
    return &functions;
}

/*
 * At the start of the process and not at the first call: that one may come in the child of a fork, where another
 * thread may have held the loader's lock, or in a signal handler.
 */
__attribute__((constructor)) static void find_at_start(void) {
    (void)libc_functions();
}
