/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CUDA program that does what the test tells it, line by line on stdin:
 *
 *     <id> <verb> <arguments>       answered by "<id> <result>"
 *     <id> &<verb> <arguments>      the same in a thread of its own
 *
 * Driver functions come from the way named by `resolve`; built with -DLINKED the program is linked against libcuda.
 * `call <name> <arguments>` calls any function of libcuda with up to eleven words: a number, `@` for a cell (`@n`: of n
 * words, `@=n`: that holds n) to be filled, or `{1,2,3}` for a structure of 64-bit words; it answers the result and
 * what the last cell then holds.
 *
 * With `fork` the child takes over the conversation until its `quit`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "wrapper_files.h"
#include "wrapper_raw.h"

typedef int result_t;
struct functions {
    result_t (*init)(unsigned int);
    result_t (*alloc)(unsigned long long *, size_t);
    result_t (*release)(unsigned long long);
    result_t (*info)(size_t *, size_t *);
    result_t (*retain)(void **, int);
    result_t (*create)(void **, unsigned int, int);
    result_t (*set_current)(void *);
};

static struct functions cuda;
static void *library, *nvml;
static void *context;
static pthread_mutex_t print_lock = PTHREAD_MUTEX_INITIALIZER;

struct command {
    char id[16];
    char verb[32];
    char arguments[200];
};

#ifdef LINKED
result_t cuInit(unsigned int);
result_t cuMemAlloc_v2(unsigned long long *, size_t);
result_t cuMemFree_v2(unsigned long long);
result_t cuMemGetInfo_v2(size_t *, size_t *);
result_t cuDevicePrimaryCtxRetain(void **, int);
result_t cuCtxCreate_v2(void **, unsigned int, int);
result_t cuCtxSetCurrent(void *);
#endif

typedef void *(*finder)(const char *base, const char *name, int version);

static void *by_dlsym(const char *base, const char *name, int version) {
    (void)base, (void)version;
    return dlsym(library, name);
}

static void *by_dlvsym(const char *base, const char *name, int version) {
    (void)base, (void)version;
    return dlvsym(library, name, "FAKE_1");
}

static void *by_default(const char *base, const char *name, int version) {
    (void)base, (void)version;
    return dlsym(RTLD_DEFAULT, name);
}

static void *by_next(const char *base, const char *name, int version) {
    (void)base, (void)version;
    void *(*find_next)(const char *) = (void *(*)(const char *))dlsym(RTLD_DEFAULT, "probe_next");
    return find_next(name);
}

static void *by_proc_address_1(const char *base, const char *name, int version) {
    (void)name;
    result_t (*get)(const char *, void **, int, uint64_t) = dlsym(library, "cuGetProcAddress");
    void *found = NULL;
    return get(base, &found, version, 0) == 0 ? found : NULL;
}

static void *by_proc_address_2(const char *base, const char *name, int version) {
    (void)name;
    result_t (*get)(const char *, void **, int, uint64_t, int *) = dlsym(library, "cuGetProcAddress_v2");
    void *again = NULL, *found = NULL;
    int status = 77;
    if (get("cuGetProcAddress", &again, 12000, 0, &status) != 0 || status != 0)
        return NULL;
    get = again;
    return get(base, &found, version, 0, &status) == 0 && status == 0 ? found : NULL;
}

static finder finder_of(const char *mode) {
    if (strcmp(mode, "dlsym") == 0)
        return by_dlsym;
    if (strcmp(mode, "dlvsym") == 0)
        return by_dlvsym;
    if (strcmp(mode, "default") == 0)
        return by_default;
    if (strcmp(mode, "next") == 0)
        return by_next;
    return strcmp(mode, "proc1") == 0 ? by_proc_address_1 : by_proc_address_2;
}

static void resolve(const char *mode, char *out) {
#ifdef LINKED
    cuda = (struct functions){cuInit,         cuMemAlloc_v2,  cuMemFree_v2, cuMemGetInfo_v2, cuDevicePrimaryCtxRetain,
                              cuCtxCreate_v2, cuCtxSetCurrent};
    (void)mode, (void)finder_of;
    strcpy(out, "0");
#else
    const int global = strcmp(mode, "default") == 0 || strcmp(mode, "next") == 0;
    library = dlopen("libcuda.so.1", RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL));
    if (library == NULL) {
        snprintf(out, 300, "%s", dlerror());
        return;
    }
    finder find = finder_of(mode);
    cuda.init = find("cuInit", "cuInit", 12000);
    cuda.alloc = find("cuMemAlloc", "cuMemAlloc_v2", 12000);
    cuda.release = find("cuMemFree", "cuMemFree_v2", 12000);
    cuda.info = find("cuMemGetInfo", "cuMemGetInfo_v2", 12000);
    cuda.retain = find("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRetain", 12000);
    cuda.create = find("cuCtxCreate", "cuCtxCreate_v2", 3020);
    cuda.set_current = find("cuCtxSetCurrent", "cuCtxSetCurrent", 12000);
    Dl_info where;
    snprintf(out, 300, "%d %s", cuda.alloc == NULL,
             cuda.alloc != NULL && dladdr((void *)cuda.alloc, &where) != 0 ? strrchr(where.dli_fname, '/') + 1 : "-");
#endif
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

struct stress {
    unsigned int seed;
    double end_s;
    unsigned long pairs, failures;
};

static void *stress_thread(void *argument) {
    struct stress *stress = argument;
    cuda.set_current(context);
    while (now_s() < stress->end_s) {
        unsigned long long pointer;
        const size_t size_bytes = (size_t)(rand_r(&stress->seed) % 4096 + 1) << 10;
        if (cuda.alloc(&pointer, size_bytes) != 0) {
            stress->failures++;
            continue;
        }
        stress->failures += cuda.release(pointer) != 0;
        stress->pairs++;
    }
    return NULL;
}

static void stress(unsigned int threads, double seconds, char *out) {
    pthread_t thread[256];
    struct stress state[256];
    unsigned long pairs = 0, failures = 0;
    for (unsigned int index = 0; index < threads; index++) {
        state[index] = (struct stress){index + 1, now_s() + seconds, 0, 0};
        pthread_create(&thread[index], NULL, stress_thread, &state[index]);
    }
    for (unsigned int index = 0; index < threads; index++) {
        pthread_join(thread[index], NULL);
        pairs += state[index].pairs;
        failures += state[index].failures;
    }
    snprintf(out, 300, "%lu %lu", pairs, failures);
}

static void time_pairs(size_t size_bytes, unsigned int pairs, char *out) {
    const double start_s = now_s();
    for (unsigned int index = 0; index < pairs; index++) {
        unsigned long long pointer = 0;
        if (cuda.alloc(&pointer, size_bytes) != 0 || cuda.release(pointer) != 0) {
            strcpy(out, "failed");
            return;
        }
    }
    snprintf(out, 300, "%.3f", (now_s() - start_s) / pairs * 1e6);
}

static void call(char *arguments, char *out) {
    enum { WORDS_MAX = 11 };
    static __thread unsigned long long structure[2][16];
    unsigned long long words[WORDS_MAX] = {0}, cell[WORDS_MAX][16] = {{0}};
    int count = 0, structures = 0, last_cell = 0, cell_words = 1;
    char *rest = NULL;
    const char *name = strtok_r(arguments, " ", &rest);
    for (char *word; count < WORDS_MAX && (word = strtok_r(NULL, " ", &rest)) != NULL; count++) {
        if (*word == '@') {
            last_cell = count;
            cell_words = word[1] >= '0' && word[1] <= '9' ? atoi(word + 1) : 1;
            cell[count][0] = word[1] == '=' ? strtoull(word + 2, NULL, 0) : 0;
            words[count] = (unsigned long long)(uintptr_t)cell[count];
        } else if (*word == '\'') { /* a text */
            words[count] = (unsigned long long)(uintptr_t)(word + 1);
        } else if (*word == '{') {
            words[count] = (unsigned long long)(uintptr_t)structure[structures];
            for (int index = 0; *word != '}' && *word != '\0'; index++)
                structure[structures][index] = strtoull(word + 1, &word, 0);
            structures++;
        } else {
            words[count] = strtoull(word, NULL, 0);
        }
    }
    typedef unsigned long long word_t;
    result_t (*function)(word_t, word_t, word_t, word_t, word_t, word_t, word_t, word_t, word_t, word_t, word_t) =
        dlsym(nvml != NULL && name[0] == 'n' ? nvml : library, name);
    if (function == NULL)
        return;
    const result_t result = function(words[0], words[1], words[2], words[3], words[4], words[5], words[6], words[7],
                                     words[8], words[9], words[10]);
    int length = snprintf(out, 300, "%d", result);
    for (int index = 0; index < cell_words; index++)
        length += snprintf(out + length, 300 - (size_t)length, " %llu", cell[last_cell][index]);
}

static void time_calls(char *arguments, char *out) { /* <pairs> <size>: cuMemAllocAsync and cuMemFreeAsync */
    unsigned int pairs = 0;
    size_t size_bytes = 0;
    result_t (*alloc)(unsigned long long *, size_t, void *) = dlsym(library, "cuMemAllocAsync");
    result_t (*release)(unsigned long long, void *) = dlsym(library, "cuMemFreeAsync");
    sscanf(arguments, "%u %zu", &pairs, &size_bytes);
    const double start_s = now_s();
    for (unsigned int index = 0; index < pairs; index++) {
        unsigned long long pointer = 0;
        if (alloc(&pointer, size_bytes, NULL) != 0 || release(pointer, NULL) != 0)
            return;
    }
    snprintf(out, 300, "%.1f", (now_s() - start_s) / pairs * 1e9);
}

static void on_signal(int number) {
    (void)number;
}

static void perform(const struct command *command, char *out) {
    const char *verb = command->verb;
    unsigned long long number = strtoull(command->arguments, NULL, 0);
    strcpy(out, "?");
    if (strcmp(verb, "nvml") == 0) { /* load it, and it alone */
        nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
        snprintf(out, 300, "%d", nvml == NULL);
    } else if (strcmp(verb, "resolve") == 0) {
        resolve(command->arguments, out);
    } else if (strcmp(verb, "init") == 0) {
        snprintf(out, 300, "%d", cuda.init((unsigned int)number));
    } else if (strcmp(verb, "retain") == 0) {
        const int result = cuda.retain(&context, (int)number);
        if (result == 0)
            cuda.set_current(context);
        snprintf(out, 300, "%d", result);
    } else if (strcmp(verb, "create") == 0) {
        snprintf(out, 300, "%d", cuda.create(&context, 0, (int)number));
    } else if (strcmp(verb, "alloc") == 0) {
        unsigned long long pointer = 0;
        const int result = cuda.alloc(&pointer, number);
        snprintf(out, 300, "%d %llu", result, pointer);
    } else if (strcmp(verb, "alloc_null") == 0) {
        snprintf(out, 300, "%d", cuda.alloc(NULL, number));
    } else if (strcmp(verb, "free") == 0) {
        snprintf(out, 300, "%d", cuda.release(number));
    } else if (strcmp(verb, "info") == 0) {
        size_t free_bytes = 0, total_bytes = 0;
        const int result = cuda.info(&free_bytes, &total_bytes);
        snprintf(out, 300, "%d %zu %zu", result, free_bytes, total_bytes);
    } else if (strcmp(verb, "info_null") == 0) {
        snprintf(out, 300, "%d", cuda.info(NULL, NULL));
    } else if (strcmp(verb, "raw") == 0) {
        raw(command->arguments, out);
    } else if (strcmp(verb, "stress") == 0) {
        unsigned int threads = 1;
        double seconds = 1;
        sscanf(command->arguments, "%u %lf", &threads, &seconds);
        stress(threads, seconds, out);
    } else if (strcmp(verb, "time") == 0) {
        unsigned int pairs = 1;
        sscanf(command->arguments, "%llu %u", &number, &pairs);
        time_pairs(number, pairs, out);
    } else if (strcmp(verb, "dlsym") == 0) { /* dlsym <name>: is it missing, and does dlerror agree? */
        dlerror();
        void *found = dlsym(library, command->arguments);
        snprintf(out, 300, "%d %d", found != NULL, dlerror() != NULL);
    } else if (strcmp(verb, "default") == 0) {
        dlerror();
        void *found = dlsym(RTLD_DEFAULT, command->arguments);
        snprintf(out, 300, "%d %d", found != NULL, dlerror() != NULL);
    } else if (strcmp(verb, "plugin") == 0) { /* plugin <flags of dlopen> <size>: allocate by way of a plug-in */
        int flags = 0;
        size_t size_bytes = 0;
        unsigned long long pointer = 0;
        sscanf(command->arguments, "%d %zu", &flags, &size_bytes);
        void *plugin = dlopen("libplugin.so", flags);
        result_t (*plugin_alloc)(unsigned long long *, size_t) =
            plugin != NULL ? (result_t(*)(unsigned long long *, size_t))dlsym(plugin, "plugin_alloc") : NULL;
        snprintf(out, 300, "%d", plugin_alloc != NULL ? plugin_alloc(&pointer, size_bytes) : -1);
    } else if (strcmp(verb, "where") == 0) { /* the library that holds an address, and its name there */
        Dl_info where;
        if (dladdr((void *)(uintptr_t)number, &where) != 0)
            snprintf(out, 300, "%s %s", strrchr(where.dli_fname, '/') + 1,
                     where.dli_sname != NULL ? where.dli_sname : "-");
    } else if (strcmp(verb, "close") == 0) { /* the program has done with libcuda */
        snprintf(out, 300, "%d", library != NULL ? dlclose(library) : -1);
    } else if (strcmp(verb, "vfork") == 0) {
        const pid_t child = vfork();
        if (child == 0)
            _exit(7);
        int status = 0;
        waitpid(child, &status, 0);
        snprintf(out, 300, "%d", WEXITSTATUS(status));
    } else if (strcmp(verb, "clone") == 0) { /* a fork that libc and its handlers know nothing of */
        const pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        if (child == 0) {
            unsigned long long pointer = 0;
            (void)cuda.alloc(&pointer, number);
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        snprintf(out, 300, "%d", status);
    } else if (strcmp(verb, "exec") == 0) { /* the same process becomes a new program, of the same kind */
        dprintf(STDOUT_FILENO, "%s 0\n", command->id);
        execl("/proc/self/exe", "program", (char *)NULL);
    } else if (strcmp(verb, "order") == 0) { /* RTLD_NEXT from a library between two others */
        int (*second)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "probe_order");
        snprintf(out, 300, "%d", second != NULL ? second() : -1);
    } else if (strcmp(verb, "call") == 0) {
        char arguments[sizeof(command->arguments)];
        memcpy(arguments, command->arguments, sizeof(arguments));
        call(arguments, out);
    } else if (strcmp(verb, "time_async") == 0) {
        char arguments[sizeof(command->arguments)];
        memcpy(arguments, command->arguments, sizeof(arguments));
        time_calls(arguments, out);
    } else if (strcmp(verb, "file") == 0) {
        file_perform(command->arguments, out);
    } else if (strcmp(verb, "noise") == 0) { /* from now on SIGUSR1 interrupts a thread that runs already, not this */
        struct sigaction action = {.sa_handler = on_signal};
        sigset_t blocked;
        sigaction(SIGUSR1, &action, NULL);
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGUSR1);
        pthread_sigmask(SIG_BLOCK, &blocked, NULL);
        strcpy(out, "0");
    }
}

static void answer(const struct command *command) {
    char out[400];
    perform(command, out);
    pthread_mutex_lock(&print_lock);
    dprintf(STDOUT_FILENO, "%s %s\n", command->id, out);
    pthread_mutex_unlock(&print_lock);
}

static void *answer_in_thread(void *argument) {
    if (context != NULL)
        cuda.set_current(context);
    answer(argument);
    free(argument);
    return NULL;
}

/* Byte by byte, so that nothing is left in a buffer when a fork's child takes over. */
static int read_line(char *line, size_t size) {
    size_t length = 0;
    while (length < size - 1) {
        const ssize_t got = read(STDIN_FILENO, &line[length], 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 0;
        if (line[length] == '\n')
            break;
        length++;
    }
    line[length] = '\0';
    return 1;
}

int main(void) {
    char line[256];
    while (read_line(line, sizeof(line))) {
        struct command command = {.arguments = ""};
        if (sscanf(line, "%15s %31s %199[^\n]", command.id, command.verb, command.arguments) < 2)
            return 2;
        if (strcmp(command.verb, "quit") == 0)
            return 0;
        if (strcmp(command.verb, "fork") == 0) {
            const pid_t child = fork();
            dprintf(STDOUT_FILENO, "%s %d\n", child == 0 ? "child" : command.id, child == 0 ? getpid() : child);
            int status;
            while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
                ;
            if (child > 0)
                dprintf(STDOUT_FILENO, "reaped %d\n", status);
        } else if (command.verb[0] == '&') {
            struct command *copy = malloc(sizeof(*copy));
            *copy = command;
            memmove(copy->verb, copy->verb + 1, strlen(copy->verb));
            pthread_t thread;
            pthread_create(&thread, NULL, answer_in_thread, copy);
            pthread_detach(thread);
        } else {
            answer(&command);
        }
    }
    return 0;
}
