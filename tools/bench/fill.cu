/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes all it can get: fill PROCESSES SIZE. Every process makes its context; when all stand, all allocate SIZE bytes
 * again and again until they are told that there is no more. Prints "full ALLOCATIONS", holds everything until standard
 * input is closed, and ends.
 */
#include "common.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define ALLOCATIONS_MAX 1000000

struct shared {
    sem_t ready;
    sem_t start;
    sem_t full;
    sem_t leave;
    int allocations;
    int broken; /* processes that met another error than out of memory */
};

static void down(sem_t *semaphore) {
    while (sem_wait(semaphore) != 0 && errno == EINTR)
        ;
}

static void run_member(struct shared *shared, size_t size_bytes) {
    void *pointer = NULL;
    cudaError_t code = cudaFree(0);
    int held = 0;

    sem_post(&shared->ready);
    down(&shared->start);
    while (code == cudaSuccess && held < ALLOCATIONS_MAX) {
        code = cudaMalloc(&pointer, size_bytes);
        held += code == cudaSuccess;
    }
    __atomic_fetch_add(&shared->allocations, held, __ATOMIC_SEQ_CST);
    if (code != cudaErrorMemoryAllocation)
        __atomic_fetch_add(&shared->broken, 1, __ATOMIC_SEQ_CST);
    sem_post(&shared->full);
    down(&shared->leave);
    _exit(0);
}

int main(int argc, char **argv) {
    const int processes = argc == 3 ? atoi(argv[1]) : 0;
    char line[16];
    struct shared *shared =
        (struct shared *)mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (processes <= 0 || shared == MAP_FAILED) {
        say("error usage: fill PROCESSES SIZE");
        return 2;
    }
    sem_init(&shared->ready, 1, 0);
    sem_init(&shared->start, 1, 0);
    sem_init(&shared->full, 1, 0);
    sem_init(&shared->leave, 1, 0);
    for (int i = 0; i < processes; i++)
        if (fork() == 0)
            run_member(shared, strtoull(argv[2], NULL, 10));
    for (int i = 0; i < processes; i++)
        down(&shared->ready);
    for (int i = 0; i < processes; i++)
        sem_post(&shared->start);
    for (int i = 0; i < processes; i++)
        down(&shared->full);
    if (shared->broken)
        printf("error %d of %d processes met something other than out of memory\n", shared->broken, processes);
    else
        printf("full %d\n", shared->allocations);
    fflush(stdout);
    while (next_line(line, sizeof(line)))
        ;
    for (int i = 0; i < processes; i++)
        sem_post(&shared->leave);
    while (wait(NULL) > 0)
        ;
    return 0;
}
