/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asks the CUDA runtime how it behaves at the edges: see cuda_behaviour.c. Linked to one libcudart or the other, static
 * or shared. Parts: plain; none (run with CUDA_VISIBLE_DEVICES empty, or where there is no libcuda); errors.
 */
#include <cuda_runtime_api.h>

#include <stdio.h>
#include <string.h>

#define MIB (1024ull * 1024)

static void part_plain(void) {
    void *pointer = (void *)1, *second = NULL;
    size_t free_bytes = 0, total_bytes = 0;
    int number = -1, host = 0;

    printf("runtime-version %d", cudaRuntimeGetVersion(&number));
    printf(" %d\n", number);
    printf("driver-version %d\n", cudaDriverGetVersion(&number));
    printf("device %d", cudaGetDevice(&number));
    printf(" %d\n", number);
    printf("count %d\n", cudaGetDeviceCount(&number));
    printf("malloc-0 %d", cudaMalloc(&pointer, 0));
    printf(" null %d\n", pointer == NULL);
    printf("malloc-null %d", cudaMalloc(NULL, 1));
    printf(" last %d", cudaGetLastError());
    printf(" last %d\n", cudaGetLastError());
    printf("malloc-null-0 %d", cudaMalloc(NULL, 0));
    printf(" last %d\n", cudaGetLastError());
    pointer = (void *)1;
    printf("malloc-2^62 %d", cudaMalloc(&pointer, 1ull << 62));
    printf(" untouched %d", pointer == (void *)1);
    printf(" null %d", pointer == NULL);
    printf(" peek %d", cudaPeekAtLastError());
    printf(" peek %d", cudaPeekAtLastError());
    printf(" malloc-after %d", cudaMalloc(&second, 1));
    printf(" last %d", cudaGetLastError());
    printf(" last %d\n", cudaGetLastError());
    printf("free-null %d\n", cudaFree(NULL));
    printf("free-unknown %d", cudaFree((void *)0x12345));
    printf(" last %d\n", cudaGetLastError());
    printf("free-host %d", cudaFree(&host));
    printf(" last %d\n", cudaGetLastError());
    printf("free %d", cudaFree(second));
    printf(" free-twice %d", cudaFree(second));
    printf(" last %d\n", cudaGetLastError());
    printf("info %d", cudaMemGetInfo(&free_bytes, &total_bytes));
    printf(" positive %d\n", free_bytes > 0 && total_bytes > free_bytes);
    printf("info-null %d", cudaMemGetInfo(NULL, NULL));
    printf(" last %d\n", cudaGetLastError());
    printf("set-device-99 %d", cudaSetDevice(99));
    printf(" last %d\n", cudaGetLastError());
    printf("set-device-minus %d", cudaSetDevice(-1));
    printf(" last %d\n", cudaGetLastError());
    printf("set-device %d\n", cudaSetDevice(0));
    printf("get-device-null %d", cudaGetDevice(NULL));
    printf(" last %d\n", cudaGetLastError());
    printf("count-null %d", cudaGetDeviceCount(NULL));
    printf(" last %d\n", cudaGetLastError());
    printf("synchronize %d\n", cudaDeviceSynchronize());
    printf("malloc %d", cudaMalloc(&pointer, 4 * MIB));
    printf(" reset %d", cudaDeviceReset());
    printf(" free-of-reset %d", cudaFree(pointer));
    printf(" last %d", cudaGetLastError());
    printf(" malloc-after-reset %d\n", cudaMalloc(&pointer, 4 * MIB));
    printf("reset %d", cudaDeviceReset());
    printf(" reset-again %d", cudaDeviceReset());
    printf(" synchronize %d\n", cudaDeviceSynchronize());
    printf("malloc %d\n", cudaMalloc(&pointer, 4 * MIB));
}

static void part_none(void) {
    void *pointer = NULL;
    int number = -1;

    printf("driver-version %d", cudaDriverGetVersion(&number));
    printf(" positive %d\n", number > 0);
    number = -1;
    printf("count %d", cudaGetDeviceCount(&number));
    printf(" %d last %d\n", number, cudaGetLastError());
    printf("malloc %d", cudaMalloc(&pointer, 1));
    printf(" last %d", cudaGetLastError());
    printf(" last %d\n", cudaGetLastError());
    printf("malloc-again %d\n", cudaMalloc(&pointer, 1));
    printf("free-null %d\n", cudaFree(NULL));
    number = -1;
    printf("device %d", cudaGetDevice(&number));
    printf(" %d\n", number);
    printf("set-device %d\n", cudaSetDevice(0));
    printf("reset %d\n", cudaDeviceReset());
}

static void part_errors(void) {
    static const int codes[] = {0,   1,   2,   3,   4,   34,  35,  46,  100, 101,  201,
                                302, 304, 400, 500, 708, 709, 800, 801, 999, 12345};

    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        printf("error %d %s", codes[i], cudaGetErrorName((cudaError_t)codes[i]));
        printf(": %s\n", cudaGetErrorString((cudaError_t)codes[i]));
    }
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 2 && strcmp(argv[1], "plain") == 0)
        part_plain();
    else if (argc == 2 && strcmp(argv[1], "none") == 0)
        part_none();
    else if (argc == 2 && strcmp(argv[1], "errors") == 0)
        part_errors();
    else
        return fprintf(stderr, "usage: cudart_behaviour PART\n"), 2;
    return 0;
}
