/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CUDA program that does what its arguments say, one step after the other, and reports every step on a line:
 *
 *   <ms since boot> name=<name> step=<step> key=value ...
 *
 * It uses the CUDA runtime API only, so the same source is built with nvcc for a real GPU and with a C compiler for
 * the simulated one. Steps:
 *
 *   name=NAME           what the lines say from now on
 *   alloc=SIZE          cudaMalloc; anything but success ends the program
 *   try=SIZE            cudaMalloc; cudaErrorMemoryAllocation is reported and the story goes on
 *   until=SIZE:SECONDS  try every SECONDS until it succeeds
 *   free                cudaFree of everything held
 *   info                cudaMemGetInfo
 *   hold=SECONDS        sleep
 *   wait-file=PATH      sleep until PATH exists
 *   exit=N              end at once with status N, without freeing
 *   kill                end with SIGKILL, without freeing
 *
 * SIZE is bytes, or a number with KiB, MiB or GiB; SECONDS may have a fraction. Exit status: 0 when all steps were
 * done, 1 when CUDA failed unexpectedly, 2 for a step that cannot be read.
 */
#define _POSIX_C_SOURCE 200809L

#include <cuda_runtime_api.h>

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FILE_POLL_S 0.01
#define ALLOCATIONS_MAX 4096

static const char *story_name = "story";
static struct {
    void *pointer;
    size_t size_bytes;
} held[ALLOCATIONS_MAX];
static size_t held_count;

static long long now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

__attribute__((format(printf, 2, 3))) static void report(const char *step, const char *format, ...) {
    va_list arguments;

    printf("%lld name=%s step=%s", now_ns() / 1000000, story_name, step);
    if (*format)
        putchar(' ');
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

__attribute__((format(printf, 2, 3), noreturn)) static void fail(int status, const char *format, ...) {
    va_list arguments;

    fprintf(stderr, "story %s: ", story_name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(status);
}

/* Reads a size at the start of text; *end is left at the first character behind it. */
static size_t parse_size_bytes(const char *text, char **end) {
    static const struct {
        const char *unit;
        unsigned shift;
    } units[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
    unsigned long long value;

    errno = 0;
    value = strtoull(text, end, 10);
    if (*end == text || errno || *text == '-')
        fail(2, "'%s' is not a size: write bytes, KiB, MiB or GiB", text);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strncmp(*end, units[i].unit, 3) == 0) {
            *end += 3;
            return (size_t)(value << units[i].shift);
        }
    }
    return (size_t)value;
}

static double parse_seconds(const char *text) {
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end || !(seconds >= 0 && seconds < 1e6))
        fail(2, "'%s' is not a number of seconds", text);
    return seconds;
}

static void sleep_seconds(double seconds) {
    struct timespec rest = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};

    while (nanosleep(&rest, &rest) && errno == EINTR)
        ;
}

static cudaError_t allocate(const char *step, size_t size_bytes) {
    long long begin_ns = now_ns();
    void *pointer = NULL;
    cudaError_t code;

    if (held_count == ALLOCATIONS_MAX)
        fail(2, "more than %d allocations held", ALLOCATIONS_MAX);
    code = cudaMalloc(&pointer, size_bytes);
    report(step, "size_bytes=%zu code=%s took_ms=%.3f", size_bytes, cudaGetErrorName(code),
           (double)(now_ns() - begin_ns) / 1e6);
    if (code == cudaSuccess) {
        held[held_count].pointer = pointer;
        held[held_count].size_bytes = size_bytes;
        held_count++;
    } else if (code == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* not sticky: what comes next starts clean */
    } else {
        fail(1, "cudaMalloc(%zu): %s", size_bytes, cudaGetErrorString(code));
    }
    return code;
}

static void free_all(void) {
    size_t freed_bytes = 0, count = held_count;

    while (held_count) {
        cudaError_t code = cudaFree(held[--held_count].pointer);

        if (code != cudaSuccess)
            fail(1, "cudaFree: %s", cudaGetErrorString(code));
        freed_bytes += held[held_count].size_bytes;
    }
    report("free", "count=%zu size_bytes=%zu code=cudaSuccess", count, freed_bytes);
}

static void show_info(void) {
    size_t free_bytes = 0, total_bytes = 0;
    cudaError_t code = cudaMemGetInfo(&free_bytes, &total_bytes);

    report("info", "free_bytes=%zu total_bytes=%zu code=%s", free_bytes, total_bytes, cudaGetErrorName(code));
    if (code != cudaSuccess)
        fail(1, "cudaMemGetInfo: %s", cudaGetErrorString(code));
}

static void run_alloc(const char *step, const char *value) {
    char *end;
    size_t size_bytes = parse_size_bytes(value, &end);

    if (strcmp(step, "until") == 0) {
        double every_s =
            *end == ':' ? parse_seconds(end + 1) : (fail(2, "until=%s: write until=SIZE:SECONDS", value), 0);

        while (allocate(step, size_bytes) != cudaSuccess)
            sleep_seconds(every_s);
        return;
    }
    if (*end)
        fail(2, "%s=%s: '%s' behind the size is not understood", step, value, end);
    if (allocate(step, size_bytes) != cudaSuccess && strcmp(step, "alloc") == 0)
        fail(1, "cudaMalloc(%zu): out of memory", size_bytes);
}

static void run_wait_file(const char *path) {
    long long begin_ns = now_ns();

    while (access(path, F_OK) != 0)
        sleep_seconds(FILE_POLL_S);
    report("wait-file", "path=%s waited_ms=%.3f", path, (double)(now_ns() - begin_ns) / 1e6);
}

static void run_step(const char *argument) {
    char step[32];
    const char *equals = strchr(argument, '=');
    const char *value = equals ? equals + 1 : NULL;
    size_t length = equals ? (size_t)(equals - argument) : strlen(argument);

    if (length >= sizeof(step))
        fail(2, "'%s' is not a step", argument);
    memcpy(step, argument, length);
    step[length] = '\0';

    if (!value && strcmp(step, "free") == 0) {
        free_all();
    } else if (!value && strcmp(step, "info") == 0) {
        show_info();
    } else if (!value && strcmp(step, "kill") == 0) {
        report("kill", "signal=9");
        raise(SIGKILL);
    } else if (value && strcmp(step, "name") == 0) {
        story_name = value;
        report("start", "pid=%ld", (long)getpid());
    } else if (value && (strcmp(step, "alloc") == 0 || strcmp(step, "try") == 0 || strcmp(step, "until") == 0)) {
        run_alloc(step, value);
    } else if (value && strcmp(step, "hold") == 0) {
        sleep_seconds(parse_seconds(value));
        report("hold", "seconds=%s", value);
    } else if (value && strcmp(step, "wait-file") == 0) {
        run_wait_file(value);
    } else if (value && strcmp(step, "exit") == 0) {
        char *end;
        long status = strtol(value, &end, 10);

        if (end == value || *end || status < 0 || status > 255)
            fail(2, "exit=%s: write a status from 0 to 255", value);
        report("exit", "status=%ld", status);
        _exit((int)status); /* no destructor of CUDA runs: what is held goes back through the kernel */
    } else {
        fail(2, "'%s' is not a step; the steps are listed at the top of story.c", argument);
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        run_step(argv[i]);
    report("end", "held=%zu", held_count);
    return 0;
}
