/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two processes and 1 GiB: `ipc owner` exports it and prints its handle, `ipc opener HANDLE` opens it. Each does its
 * next step when it is given a line, and stays until it is killed.
 */
#define _GNU_SOURCE

#include "ways.h"

#include <string.h>
#include <unistd.h>

static void print_handle(const CUipcMemHandle *handle) {
    for (size_t i = 0; i < sizeof(*handle); i++)
        printf("%02x", (unsigned char)handle->reserved[i]);
    printf("\n");
}

/* Exports 1 GiB, then does one thing per line of its input: free. */
static void own(void) {
    CUipcMemHandle handle;
    CUdeviceptr pointer, opened;
    char line[16];

    GET(cuMemAlloc)(&pointer, 1024 * MIB);
    printf("export %d", GET(cuIpcGetMemHandle)(&handle, pointer));
    printf(" host %d", GET(cuIpcGetMemHandle)(&handle, 1));
    printf(" open-own %d\n", GET(cuIpcOpenMemHandle)(&opened, handle, 1));
    print_handle(&handle);
    if (fgets(line, sizeof(line), stdin))
        printf("free %d\n", GET(cuMemFree)(pointer));
    pause();
}

static void open_other(const char *text) {
    CUdeviceptr first = 0, second = 0;
    CUipcMemHandle handle;
    char line[16];

    for (size_t i = 0; i < sizeof(handle); i++) {
        unsigned byte;

        sscanf(text + 2 * i, "%2x", &byte);
        handle.reserved[i] = (char)byte;
    }
    printf("open %d", GET(cuIpcOpenMemHandle)(&first, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    printf(" again %d", GET(cuIpcOpenMemHandle)(&second, handle, 1));
    printf(" same %d", first == second);
    printf(" free %d\n", GET(cuMemFree)(first));
    if (fgets(line, sizeof(line), stdin))
        printf("close %d", GET(cuIpcCloseMemHandle)(first));
    printf(" %d", GET(cuIpcCloseMemHandle)(first));
    printf(" thrice %d\n", GET(cuIpcCloseMemHandle)(first));
    if (fgets(line, sizeof(line), stdin))
        printf("open-gone %d\n", GET(cuIpcOpenMemHandle)(&first, handle, 1));
    pause();
}

int main(int argc, char **argv) {
    start();
    if (argc == 2 && strcmp(argv[1], "owner") == 0)
        own();
    else if (argc == 3 && strcmp(argv[1], "opener") == 0 && strlen(argv[2]) == 2 * CU_IPC_HANDLE_SIZE)
        open_other(argv[2]);
    else
        return fprintf(stderr, "usage: ipc owner, or ipc opener HANDLE\n"), 2;
    return 0;
}
