/* SPDX-License-Identifier: Apache-2.0 */
/* Deadlines: nanoseconds of CLOCK_MONOTONIC, the same in every container of a host. */
#ifndef CVG_CLOCK_H
#define CVG_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define NS_PER_S 1000000000ULL
#define NS_PER_MS 1000000ULL
#define DEADLINE_NEVER UINT64_MAX

static inline uint64_t clock_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static inline struct timespec clock_timespec(uint64_t duration_ns) {
    return (struct timespec){.tv_sec = (time_t)(duration_ns / NS_PER_S), .tv_nsec = (long)(duration_ns % NS_PER_S)};
}

/* Time left, 0 if the deadline is over. */
static inline uint64_t clock_left_ns(uint64_t deadline_ns) {
    if (deadline_ns == DEADLINE_NEVER)
        return DEADLINE_NEVER;
    const uint64_t now_ns = clock_now_ns();
    return deadline_ns > now_ns ? deadline_ns - now_ns : 0;
}

#endif
