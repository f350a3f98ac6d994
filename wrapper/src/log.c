/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LINE_BYTES = 512 };
enum { UNDECIDED = -2, OFF = -1 };

static atomic_int descriptor = UNDECIDED;

static int open_log(void) {
    const char *target = secure_getenv("CONVGPU_LOG");
    int opened = OFF;
    if (target != NULL && strcmp(target, "stderr") == 0)
        opened = STDERR_FILENO;
    else if (target != NULL && target[0] == '/')
        opened = (int)syscall(SYS_openat, AT_FDCWD, target, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int expected = UNDECIDED;
    if (!atomic_compare_exchange_strong(&descriptor, &expected, opened)) {
        if (opened > STDERR_FILENO)
            (void)syscall(SYS_close, opened);
        return expected;
    }
    return opened;
}

/* One write for each line, so that lines of several threads and processes do not mix. */
static void write_line(int target, const char *format, va_list arguments) {
    char line[LINE_BYTES];
    int prefix = snprintf(line, sizeof(line), "convgpu: ");
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): started by both callers */
    int length = vsnprintf(line + prefix, sizeof(line) - (size_t)prefix - 1, format, arguments);
    if (length < 0)
        return;
    size_t end = (size_t)prefix + (size_t)length;
    if (end > sizeof(line) - 2)
        end = sizeof(line) - 2;
    line[end] = '\n';
    (void)syscall(SYS_write, target, line, end + 1);
}

void log_debug(const char *format, ...) {
    int target = atomic_load_explicit(&descriptor, memory_order_relaxed);
    if (target == OFF)
        return;
    const int program_errno = errno;
    if (target == UNDECIDED)
        target = open_log();
    if (target >= 0) {
        va_list arguments;
        va_start(arguments, format);
        write_line(target, format, arguments);
        va_end(arguments);
    }
    errno = program_errno;
}

void log_once(atomic_flag *said, const char *format, ...) {
    if (atomic_flag_test_and_set(said))
        return;
    const int program_errno = errno;
    va_list arguments;
    va_start(arguments, format);
    write_line(STDERR_FILENO, format, arguments);
    va_end(arguments);
    errno = program_errno;
}
