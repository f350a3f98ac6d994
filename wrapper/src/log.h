/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debugging and messages. Never on stdout, never through stdio: a hook may run inside the program's own printf.
 * CONVGPU_LOG=stderr or CONVGPU_LOG=<path> (appended to) turns debugging on.
 */
#ifndef CVG_LOG_H
#define CVG_LOG_H

#include <stdatomic.h>

void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* To stderr, once for each `said`: what the person at the program has to know. */
void log_once(atomic_flag *said, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
