/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many processes start CUDA at once: herd PROCESSES SLOTS SIZE. All are forked, then released together; each starts the
 * driver (with the wrapper: says hello to the daemon), and at most SLOTS at a time make a context, take SIZE bytes and
 * ask what the device has. They end without freeing, so that giving back is the kernel's. Prints when all have ended:
 *
 *   done wall_ns succeeded failed timed_out slowest_hello_ns slowest_start_ns smallest_total_bytes largest_total_bytes
 *
 * A place is free again when its process has been waited for: until then its memory may be held.
 */
#include "common.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define PATIENCE_S 120
#define PROCESSES_MAX 4096

struct member {
    bool done;
    long long hello_ns; /* cuInit */
    long long start_ns; /* context, memory, question; without the wait for a slot, which is the gate's */
    size_t total_bytes;
};

struct shared {
    sem_t slots;
    sem_t ready;
    sem_t start;
    struct member members[PROCESSES_MAX];
};

static void down(sem_t *semaphore) {
    while (sem_wait(semaphore) != 0 && errno == EINTR)
        ;
}

static void run_member(struct shared *shared, struct member *member, size_t size_bytes) {
    size_t free_bytes = 0;
    void *pointer = NULL;
    int count = 0;

    sem_post(&shared->ready);
    down(&shared->start);
    alarm(PATIENCE_S);
    long long begin_ns = now_ns();
    CHECK(cudaGetDeviceCount(&count));
    member->hello_ns = now_ns() - begin_ns;
    down(&shared->slots);
    begin_ns = now_ns();
    CHECK(cudaMalloc(&pointer, size_bytes));
    CHECK(cudaMemGetInfo(&free_bytes, &member->total_bytes));
    member->start_ns = now_ns() - begin_ns;
    member->done = true;
    _exit(0);
}

int main(int argc, char **argv) {
    const int processes = argc == 4 ? atoi(argv[1]) : 0;
    int failed = 0, succeeded = 0, timed_out = 0;
    long long slowest_hello_ns = 0, slowest_start_ns = 0;
    size_t smallest_bytes = ~(size_t)0, largest_bytes = 0;
    struct shared *shared =
        (struct shared *)mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (processes <= 0 || processes > PROCESSES_MAX || shared == MAP_FAILED) {
        say("error usage: herd PROCESSES SLOTS SIZE");
        return 2;
    }
    sem_init(&shared->slots, 1, (unsigned)atoi(argv[2]));
    sem_init(&shared->ready, 1, 0);
    sem_init(&shared->start, 1, 0);
    for (int i = 0; i < processes; i++) {
        const pid_t pid = fork();

        if (pid == 0)
            run_member(shared, &shared->members[i], strtoull(argv[3], NULL, 10));
        if (pid < 0) {
            say("error fork");
            return 1;
        }
    }
    for (int i = 0; i < processes; i++)
        down(&shared->ready);
    const long long begin_ns = now_ns();
    for (int i = 0; i < processes; i++)
        sem_post(&shared->start);
    for (int i = 0; i < processes; i++) {
        int status;

        wait(&status);
        sem_post(&shared->slots);
        succeeded += WIFEXITED(status) && WEXITSTATUS(status) == 0;
        failed += WIFEXITED(status) && WEXITSTATUS(status) != 0;
        timed_out += WIFSIGNALED(status);
    }
    const long long wall_ns = now_ns() - begin_ns;
    for (int i = 0; i < processes; i++) {
        const struct member *member = &shared->members[i];

        if (!member->done)
            continue;
        slowest_hello_ns = member->hello_ns > slowest_hello_ns ? member->hello_ns : slowest_hello_ns;
        slowest_start_ns = member->start_ns > slowest_start_ns ? member->start_ns : slowest_start_ns;
        smallest_bytes = member->total_bytes < smallest_bytes ? member->total_bytes : smallest_bytes;
        largest_bytes = member->total_bytes > largest_bytes ? member->total_bytes : largest_bytes;
    }
    printf("done %lld %d %d %d %lld %lld %zu %zu\n", wall_ns, succeeded, failed, timed_out, slowest_hello_ns,
           slowest_start_ns, smallest_bytes, largest_bytes);
    fflush(stdout);
    return 0;
}
