/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What wrapper_program.c does with descriptors: `file <verb> <arguments>`, answered by the result and errno.
 *
 *     open <path>, use <fd>            `raw` goes through the descriptor that was used last (at first 0)
 *     close, fclose, close_by_number <fd>, close_range <first> <last>
 *     dup <fd>, dup2, dup3 <from> <to>
 *     map <fd> (answered by the address), unmap <address>
 *     vfork_close, clone_close <fd>    in a child that libc's handlers of fork know nothing of
 *     hold, clone_hold <fd>            a child of fork, or of neither, that has every descriptor until `release`; the
 *                                      second closes its own by the same hook as its parent
 *     register <fd> <control fd>       NV_ESC_REGISTER_FD
 *     churn <path> <rounds>            8 threads open, take 1 MiB each and close; answered by the failures
 *     storm <path> <rounds>            the same in one thread, with a duplicate, while a signal handler closes as well
 *     time <closes>                    nanoseconds for one close of a descriptor that is not open
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int raw_descriptor;
static int held_pipe[2] = {-1, -1};
static pid_t holder;

static long in_child(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
}

static long hold(int descriptor) {
    char byte;
    if (pipe(held_pipe) != 0)
        return -1;
    holder = descriptor < 0 ? fork() : (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (holder == 0) {
        (void)syscall(SYS_close, held_pipe[1]);
        const int failed = read(held_pipe[0], &byte, 1) != 0;
        _exit(descriptor >= 0 ? close(descriptor) : failed);
    }
    (void)syscall(SYS_close, held_pipe[0]);
    return holder;
}

static long release_holder(void) {
    (void)syscall(SYS_close, held_pipe[1]);
    return in_child(holder);
}

static long time_closes(unsigned int closes) {
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (unsigned int index = 0; index < closes; index++)
        (void)close(-1);
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((end.tv_sec - begin.tv_sec) * 1000000000L + end.tv_nsec - begin.tv_nsec) / closes;
}

static uint32_t make_object(int descriptor, uint32_t client, uint32_t parent, uint32_t class_id, uint64_t *parameters) {
    uint32_t block[12] = {client, parent, 0, class_id};
    const uint64_t address = (uint64_t)(uintptr_t)parameters;
    memcpy(&block[4], &address, sizeof(address));
    return ioctl(descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0x2B, sizeof(block)), block) == 0 && block[10] == 0
               ? block[2]
               : 0;
}

struct churn {
    const char *path;
    long rounds;
};

static void *churn_thread(void *argument) {
    const struct churn *churn = argument;
    long failures = 0;
    for (long round = 0; round < churn->rounds; round++) {
        uint64_t none[16] = {0}, memory[16] = {[8] = 1 << 20};
        const int descriptor = open(churn->path, O_RDWR | O_CLOEXEC);
        const uint32_t client = make_object(descriptor, 0, 0, 0x41, none);
        const uint32_t device = make_object(descriptor, client, client, 0x80, none);
        failures += make_object(descriptor, client, device, 0x40, memory) == 0;
        failures += close(descriptor) != 0;
    }
    return (void *)failures;
}

static long churn(const char *path, long rounds) {
    struct churn shared = {path, rounds};
    pthread_t threads[8];
    long failures = 0;
    for (int index = 0; index < 8; index++)
        pthread_create(&threads[index], NULL, churn_thread, &shared);
    for (int index = 0; index < 8; index++) {
        void *result;
        pthread_join(threads[index], &result);
        failures += (long)result;
    }
    return failures;
}

static void close_in_handler(int number) {
    const int program_errno = errno;
    (void)number;
    (void)close(dup(STDIN_FILENO));
    errno = program_errno;
}

static long storm(const char *path, long rounds) {
    const struct sigaction action = {.sa_handler = close_in_handler, .sa_flags = SA_RESTART};
    const struct itimerval often = {{0, 100}, {0, 100}}, never = {{0, 0}, {0, 0}};
    long failures = 0;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (long round = 0; round < rounds; round++) {
        uint64_t none[16] = {0};
        const int descriptor = open(path, O_RDWR | O_CLOEXEC);
        failures += make_object(descriptor, 0, 0, 0x41, none) == 0;
        const int duplicate = dup(descriptor);
        failures += close(descriptor) != 0;
        for (int close_others = 0; close_others < 20; close_others++)
            failures += close(dup(STDIN_FILENO)) != 0;
        failures += close(duplicate) != 0;
    }
    setitimer(ITIMER_REAL, &never, NULL);
    return failures;
}

static long file_result(const char *verb, const char *text, long first, long second) {
    if (strcmp(verb, "open") == 0)
        return open(text, O_RDWR | O_CLOEXEC);
    if (strcmp(verb, "use") == 0)
        return raw_descriptor = (int)first;
    if (strcmp(verb, "close") == 0)
        return close((int)first);
    if (strcmp(verb, "fclose") == 0)
        return fclose(fdopen((int)first, "r+"));
    if (strcmp(verb, "close_by_number") == 0)
        return syscall(SYS_close, (int)first);
    if (strcmp(verb, "close_range") == 0)
        return syscall(SYS_close_range, (unsigned int)first, (unsigned int)second, 0);
    if (strcmp(verb, "dup") == 0)
        return dup((int)first);
    if (strcmp(verb, "dup2") == 0)
        return dup2((int)first, (int)second);
    if (strcmp(verb, "dup3") == 0)
        return dup3((int)first, (int)second, O_CLOEXEC);
    if (strcmp(verb, "map") == 0)
        return (long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, (int)first, 0);
    if (strcmp(verb, "unmap") == 0)
        return munmap((void *)first, 4096);
    if (strcmp(verb, "hold") == 0)
        return hold(-1);
    if (strcmp(verb, "clone_hold") == 0)
        return hold((int)first);
    if (strcmp(verb, "release") == 0)
        return release_holder();
    if (strcmp(verb, "churn") == 0)
        return churn(text, second);
    if (strcmp(verb, "storm") == 0)
        return storm(text, second);
    if (strcmp(verb, "time") == 0)
        return time_closes((unsigned int)first);
    if (strcmp(verb, "register") == 0) {
        int control = (int)second;
        return ioctl((int)first, _IOC(_IOC_READ | _IOC_WRITE, 'F', 201, sizeof(control)), &control);
    }
    if (strcmp(verb, "vfork_close") == 0) {
        const pid_t child = vfork();
        if (child == 0)
            _exit(close((int)first) == 0 ? 0 : 1);
        return in_child(child);
    }
    if (strcmp(verb, "clone_close") == 0) {
        const pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        if (child == 0)
            _exit(close((int)first) == 0 ? 0 : 1);
        return in_child(child);
    }
    return -2;
}

static void file_perform(const char *arguments, char *out) {
    char verb[32] = "", text[160] = "";
    long second = 0;
    sscanf(arguments, "%31s %159s %ld", verb, text, &second);
    errno = 0;
    const long result = file_result(verb, text, strtol(text, NULL, 0), second);
    snprintf(out, 300, "%ld %d", result, errno);
}
