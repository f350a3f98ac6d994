/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One client process that asks the daemon for memory as fast as it is answered.
 *
 * Usage: asker SOCKET CGROUP SECONDS SIZE PAUSE_US
 *
 * It moves itself into the cgroup (the daemon knows it by that), says HELLO, prints "ready", waits for a line, asks for
 * SIZE bytes again and again, with PAUSE_US microseconds between an answer and the next question, and prints one line:
 * the number of answers of each kind and the sum of the bytes granted, then one latency in nanoseconds on each line.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "convgpu_abi.h"

#define SAMPLES_MAX 4000000

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void join_cgroup(const char *folder) {
    char path[4096];
    (void)snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
    int descriptor = open(path, O_WRONLY | O_CLOEXEC);
    if (descriptor < 0 || write(descriptor, "0", 1) != 1)
        fail(path);
    close(descriptor);
}

static int connect_to(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    int descriptor = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, sizeof(address)) != 0)
        fail(path);
    return descriptor;
}

static void ask(int descriptor, struct cvg_message *message) {
    message->abi_version = CVG_ABI_VERSION;
    if (send(descriptor, message, sizeof(*message), MSG_NOSIGNAL) != (ssize_t)sizeof(*message))
        fail("send");
    /* The page's descriptor that comes with WELCOME is not wanted here: without room for it the kernel drops it. */
    if (recv(descriptor, message, sizeof(*message), 0) != (ssize_t)sizeof(*message))
        fail("recv");
}

int main(int argc, char **argv) {
    if (argc != 6) {
        (void)fprintf(stderr, "usage: asker SOCKET CGROUP SECONDS SIZE PAUSE_US\n");
        return 2;
    }
    const double seconds = strtod(argv[3], NULL);
    const uint64_t size_bytes = strtoull(argv[4], NULL, 10);
    const useconds_t pause_us = (useconds_t)strtoul(argv[5], NULL, 10);
    join_cgroup(argv[2]);
    int descriptor = connect_to(argv[1]);
    struct cvg_message message = {.type = CVG_HELLO};
    ask(descriptor, &message);
    if (message.type != CVG_WELCOME) {
        (void)fprintf(stderr, "HELLO was answered with message type %u, reason %u\n", message.type, message.reason);
        return 1;
    }
    uint64_t *samples = malloc(SAMPLES_MAX * sizeof(*samples));
    if (samples == NULL)
        fail("malloc");
    puts("ready");
    (void)fflush(stdout);
    (void)getchar();
    uint64_t count = 0, granted = 0, denied = 0, granted_bytes = 0;
    const uint64_t end_ns = now_ns() + (uint64_t)(seconds * 1e9);
    for (uint64_t begin_ns = now_ns(); begin_ns < end_ns && count < SAMPLES_MAX; begin_ns = now_ns()) {
        message = (struct cvg_message){
            .type = CVG_ACQUIRE, .request = count + 1, .size_bytes = size_bytes, .flags = CVG_FLAG_NOWAIT};
        ask(descriptor, &message);
        samples[count++] = now_ns() - begin_ns;
        granted += message.type == CVG_GRANTED;
        denied += message.type == CVG_DENIED;
        granted_bytes += message.type == CVG_GRANTED ? message.size_bytes : 0;
        if (pause_us != 0)
            usleep(pause_us);
    }
    printf("done %llu %llu %llu %llu\n", (unsigned long long)count, (unsigned long long)granted,
           (unsigned long long)denied, (unsigned long long)granted_bytes);
    for (uint64_t i = 0; i < count; i++)
        printf("%llu\n", (unsigned long long)samples[i]);
    return 0;
}
