/* SPDX-License-Identifier: Apache-2.0 */
/* simgpu-rm: a FUSE server that plays the resource manager of simulated NVIDIA GPUs. */
#define _GNU_SOURCE

#include "device.h"
#include "filesystem.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define GIB (1024ull * 1024 * 1024)

static const char usage[] =
    "usage: simgpu-rm [options] MOUNTPOINT\n"
    "Plays the resource manager of simulated GPUs: nvidiactl, nvidia-uvm, nvidia0 ... in the folder MOUNTPOINT.\n"
    "  --gpus N             number of GPUs, 1 to 16 (1)\n"
    "  --memory-bytes N     memory of each (10737418240)\n"
    "  --context-bytes N    what a context costs (536870912)\n"
    "  --uuid I=GPU-...     UUID of GPU I, lower case\n"
    "  --pci I=DDDD:BB:SS.0 PCI address of GPU I\n"
    "  --pid-file PATH      written when ready: pid and start time in clock ticks (field 22 of /proc/PID/stat)\n"
    "  --background         return when ready; without it stay in the foreground\n";

struct options {
    unsigned gpus;
    uint64_t memory_bytes;
    uint64_t context_bytes;
    const char *uuids[SIM_GPUS_MAX];
    const char *pcis[SIM_GPUS_MAX];
    const char *pid_file;
    const char *mountpoint;
    bool background;
};

__attribute__((format(printf, 1, 2), noreturn)) static void refuse(const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    fputs("simgpu-rm: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static uint64_t parse_number(const char *option, const char *text, uint64_t least, uint64_t most) {
    unsigned long long value;
    char *end;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || value < least || value > most)
        refuse("--%s: '%s' is not a number from %llu to %llu", option, text, (unsigned long long)least,
               (unsigned long long)most);
    return value;
}

/* "I=VALUE": stores VALUE at I. */
static void parse_indexed(const char *option, const char *text, const char *values[SIM_GPUS_MAX]) {
    char *end;
    unsigned long index = strtoul(text, &end, 10);

    if (end == text || *end != '=' || index >= SIM_GPUS_MAX)
        refuse("--%s: '%s' is not INDEX=VALUE", option, text);
    values[index] = end + 1;
}

static struct options parse_options(int argc, char **argv) {
    static const struct option known[] = {
        {"gpus", required_argument, NULL, 'g'},          {"memory-bytes", required_argument, NULL, 'm'},
        {"context-bytes", required_argument, NULL, 'c'}, {"uuid", required_argument, NULL, 'u'},
        {"pci", required_argument, NULL, 'p'},           {"pid-file", required_argument, NULL, 'f'},
        {"background", no_argument, NULL, 'b'},          {NULL, 0, NULL, 0},
    };
    struct options options = {.gpus = 1, .memory_bytes = 10 * GIB, .context_bytes = GIB / 2};
    int option;

    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 'g':
            options.gpus = (unsigned)parse_number("gpus", optarg, 1, SIM_GPUS_MAX);
            break;
        case 'm':
            options.memory_bytes = parse_number("memory-bytes", optarg, 1, INT64_MAX);
            break;
        case 'c':
            options.context_bytes = parse_number("context-bytes", optarg, 0, INT64_MAX);
            break;
        case 'u':
            parse_indexed("uuid", optarg, options.uuids);
            break;
        case 'p':
            parse_indexed("pci", optarg, options.pcis);
            break;
        case 'f':
            options.pid_file = optarg;
            break;
        case 'b':
            options.background = true;
            break;
        default:
            fputs(usage, stderr);
            exit(2);
        }
    }
    if (optind != argc - 1) {
        fputs(usage, stderr);
        exit(2);
    }
    options.mountpoint = argv[optind];
    return options;
}

static void setup_devices(const struct options *options) {
    devices_setup(options->gpus, options->memory_bytes, options->context_bytes);
    for (unsigned i = 0; i < SIM_GPUS_MAX; i++) {
        if ((options->uuids[i] || options->pcis[i]) && i >= options->gpus)
            refuse("there is no GPU %u among %u", i, options->gpus);
        if (options->uuids[i] && !device_set_uuid(i, options->uuids[i]))
            refuse("'%s' is not a UUID of the form GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx, or used twice",
                   options->uuids[i]);
        if (options->pcis[i] && !device_set_pci(i, options->pcis[i]))
            refuse("'%s' is not a PCI address of the form DDDD:BB:SS.0, or used twice", options->pcis[i]);
    }
}

static unsigned long long own_start_ticks(void) {
    unsigned long long ticks = 0;
    FILE *stat = fopen("/proc/self/stat", "re");

    if (stat) {
        if (fscanf(stat, "%*d (%*[^)]) %*c%*d%*d%*d%*d%*d%*u%*u%*u%*u%*u%*u%*u%*d%*d%*d%*d%*d%*d%llu", &ticks) != 1)
            ticks = 0;
        fclose(stat);
    }
    return ticks;
}

static bool write_pid_file(const char *path) {
    FILE *file = path ? fopen(path, "we") : NULL;

    if (!path)
        return true;
    if (file)
        fprintf(file, "%d %llu\n", getpid(), own_start_ticks());
    if (!file || fclose(file) != 0) {
        fprintf(stderr, "simgpu-rm: cannot write %s: %s\n", path, strerror(errno));
        return false;
    }
    return true;
}

/* Mounts, says so on `ready` (a pipe, or -1), serves until a signal ends it, unmounts. Returns the exit status. */
static int serve(const struct options *options, int ready) {
    char *mount_argv[] = {(char *)"simgpu-rm", (char *)"-o", (char *)"allow_other,fsname=simgpu-rm,subtype=simgpu",
                          NULL};
    struct fuse_args mount_args = FUSE_ARGS_INIT(3, mount_argv);
    struct fuse_session *session =
        fuse_session_new(&mount_args, &filesystem_operations, sizeof(filesystem_operations), NULL);
    int result = 1;

    if (!session)
        return 1;
    if (fuse_set_signal_handlers(session) == 0) {
        if (fuse_session_mount(session, options->mountpoint) == 0) {
            if (write_pid_file(options->pid_file)) {
                if (ready >= 0 && write(ready, "r", 1) == 1)
                    close(ready);
                result = fuse_session_loop(session) < 0;
                if (options->pid_file)
                    unlink(options->pid_file);
            }
            fuse_session_unmount(session);
        }
        fuse_remove_signal_handlers(session);
    }
    fuse_session_destroy(session);
    return result;
}

/* Serves in a child of its own session; returns when it is ready or has failed. */
static int serve_in_background(const struct options *options) {
    int pipe_ends[2], status = 0;
    char byte;
    pid_t child;

    if (pipe2(pipe_ends, O_CLOEXEC) != 0)
        refuse("pipe: %s", strerror(errno));
    child = fork();
    if (child < 0)
        refuse("fork: %s", strerror(errno));
    if (child == 0) {
        close(pipe_ends[0]);
        setsid();
        exit(serve(options, pipe_ends[1]));
    }
    close(pipe_ends[1]);
    if (read(pipe_ends[0], &byte, 1) == 1)
        return 0;
    if (waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status))
        return WEXITSTATUS(status);
    return 1;
}

int main(int argc, char **argv) {
    struct options options = parse_options(argc, argv);

    setup_devices(&options);
    return options.background ? serve_in_background(&options) : serve(&options, -1);
}
