/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asks libcuda.so.1 how it behaves at the edges and prints one `question answer...` line each. The same program was
 * run against a real driver; its answers are in measured_driver.txt, and test_cuda.py wants them from the simulated
 * one.
 *
 * The first argument names a part (see main). Numbers are CUresult codes unless the question says otherwise; amounts
 * are what cuMemGetInfo loses, in KiB. What crashes the real driver (a NULL name, for one) is not asked.
 */
#define _GNU_SOURCE

#include <cuda.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB 1024ull
#define MIB (1024 * KIB)
#define NAME_OF(symbol) #symbol
#define STRING_OF(symbol) NAME_OF(symbol)

#define GET(symbol) ((__typeof__(&symbol))find(STRING_OF(symbol)))

static void *find(const char *name) {
    static void *library;
    void *address;

    if (!library)
        library = dlopen("libcuda.so.1", RTLD_NOW);
    address = library ? dlsym(library, name) : NULL;
    if (!address) {
        printf("missing %s\n", name);
        exit(1);
    }
    return address;
}

/* Variants that have no declaration in NVIDIA's header. */
typedef CUresult (*create_v2)(CUcontext *, unsigned int, CUdevice);
typedef CUresult (*get_v1)(const char *, void **, int, cuuint64_t);

static CUdevice device;
static CUcontext context;

static void start(void) {
    if (GET(cuInit)(0) || GET(cuDeviceGet)(&device, 0)) {
        printf("cannot start\n");
        exit(1);
    }
}

static void start_context(void) {
    start();
    if (GET(cuDevicePrimaryCtxRetain)(&context, device) || GET(cuCtxSetCurrent)(context)) {
        printf("no context\n");
        exit(1);
    }
}

static long long free_kib(void) {
    size_t free_bytes = 0;

    GET(cuMemGetInfo)(&free_bytes, NULL);
    return (long long)(free_bytes / KIB);
}

static void part_before(void) {
    CUcontext current = (CUcontext)1;
    CUdeviceptr pointer = 0;
    const char *text = NULL;
    void *function = NULL;
    int number = -1;
    size_t size;

    printf("driver-version %d\n", GET(cuDriverGetVersion)(&number));
    printf("device-count %d\n", GET(cuDeviceGetCount)(&number));
    printf("device-get %d\n", GET(cuDeviceGet)(&device, 0));
    printf("mem-alloc %d\n", GET(cuMemAlloc)(&pointer, 1));
    printf("mem-free-0 %d\n", GET(cuMemFree)(0));
    printf("mem-info %d\n", GET(cuMemGetInfo)(&size, &size));
    printf("current %d\n", GET(cuCtxGetCurrent)(&current));
    printf("synchronize %d\n", GET(cuCtxSynchronize)());
    printf("retain %d\n", GET(cuDevicePrimaryCtxRetain)(&current, 0));
    printf("error-name %d\n", GET(cuGetErrorName)(CUDA_ERROR_OUT_OF_MEMORY, &text));
    printf("proc-address %d\n", GET(cuGetProcAddress)("cuMemAlloc", &function, 12000, 0, NULL));
    printf("init-flags-1 %d\n", GET(cuInit)(1));
    printf("init %d\n", GET(cuInit)(0));
    printf("init-again %d\n", GET(cuInit)(0));
}

static void part_nocontext(void) {
    CUcontext current = (CUcontext)1;
    CUdeviceptr pointer = 0;
    unsigned flags = 7;
    size_t size = 0;
    int number = -1;
    CUuuid uuid;
    char name[64];

    start();
    printf("mem-alloc %d\n", GET(cuMemAlloc)(&pointer, 1));
    printf("mem-alloc-0 %d\n", GET(cuMemAlloc)(&pointer, 0));
    printf("mem-alloc-null %d\n", GET(cuMemAlloc)(NULL, 1));
    printf("mem-free-0 %d\n", GET(cuMemFree)(0));
    printf("mem-free-unknown %d\n", GET(cuMemFree)(0x12345));
    printf("mem-info %d\n", GET(cuMemGetInfo)(&size, &size));
    printf("mem-info-null %d\n", GET(cuMemGetInfo)(NULL, NULL));
    printf("range %d\n", GET(cuMemGetAddressRange)(&pointer, &size, 0x12345));
    printf("pointer-attribute %d\n", GET(cuPointerGetAttribute)(&number, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 0x12345));
    printf("current %d", GET(cuCtxGetCurrent)(&current));
    printf(" %s\n", current ? "set" : "null");
    printf("current-null %d\n", GET(cuCtxGetCurrent)(NULL));
    printf("context-device %d\n", GET(cuCtxGetDevice)(&device));
    printf("synchronize %d\n", GET(cuCtxSynchronize)());
    printf("pop %d\n", GET(cuCtxPopCurrent)(&current));
    printf("push-null %d\n", GET(cuCtxPushCurrent)(NULL));
    printf("set-null %d\n", GET(cuCtxSetCurrent)(NULL));
    printf("destroy-null %d\n", GET(cuCtxDestroy)(NULL));
    printf("state %d", GET(cuDevicePrimaryCtxGetState)(device, &flags, &number));
    printf(" flags %u active %d\n", flags, number);
    printf("release-unretained %d\n", GET(cuDevicePrimaryCtxRelease)(device));
    printf("reset-unretained %d\n", GET(cuDevicePrimaryCtxReset)(device));
    printf("device-get-negative %d\n", GET(cuDeviceGet)(&device, -1));
    printf("device-get-99 %d\n", GET(cuDeviceGet)(&device, 99));
    printf("device-get-null %d\n", GET(cuDeviceGet)(NULL, 0));
    printf("count-null %d\n", GET(cuDeviceGetCount)(NULL));
    printf("retain-99 %d\n", GET(cuDevicePrimaryCtxRetain)(&current, 99));
    printf("retain-null %d\n", GET(cuDevicePrimaryCtxRetain)(NULL, 0));
    printf("total-99 %d\n", GET(cuDeviceTotalMem)(&size, 99));
    printf("total-null %d\n", GET(cuDeviceTotalMem)(NULL, 0));
    printf("uuid-null %d", GET(cuDeviceGetUuid)(NULL, 0));
    printf(" uuid-99 %d\n", GET(cuDeviceGetUuid)(&uuid, 99));
    memset(name, 'x', sizeof(name));
    printf("name-len-4 %d", GET(cuDeviceGetName)(name, 4, 0));
    printf(" length %zu\n", strnlen(name, sizeof(name)));
    printf("attribute-0 %d\n", GET(cuDeviceGetAttribute)(&number, (CUdevice_attribute)0, 0));
    printf("attribute-9999 %d\n", GET(cuDeviceGetAttribute)(&number, (CUdevice_attribute)9999, 0));
    printf("attribute-null %d\n", GET(cuDeviceGetAttribute)(NULL, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0));
    printf("version-null %d\n", GET(cuDriverGetVersion)(NULL));
}

static void part_memory(void) {
    CUdeviceptr pointer = 0, second = 0, base = 0;
    size_t size = 0, total = 0, device_total = 0;
    unsigned type = 0;
    int host = 0, ordinal = -1;
    CUcontext owner = NULL;

    start_context();
    printf("alloc-0 %d\n", GET(cuMemAlloc)(&pointer, 0));
    printf("alloc-null %d\n", GET(cuMemAlloc)(NULL, 1));
    printf("alloc-2^62 %d\n", GET(cuMemAlloc)(&pointer, 1ull << 62));
    printf("alloc-all-ones %d\n", GET(cuMemAlloc)(&pointer, ~0ull));
    GET(cuMemGetInfo)(&size, &total);
    GET(cuDeviceTotalMem)(&device_total, device);
    printf("totals-equal %d\n", total == device_total);
    printf("alloc-total %d\n", GET(cuMemAlloc)(&pointer, total));
    printf("info-null %d\n", GET(cuMemGetInfo)(NULL, NULL));
    printf("info-free-only %d\n", GET(cuMemGetInfo)(&size, NULL));
    printf("info-total-only %d\n", GET(cuMemGetInfo)(NULL, &size));
    printf("free-0 %d\n", GET(cuMemFree)(0));
    printf("free-unknown %d\n", GET(cuMemFree)(0x12345));
    printf("free-host %d\n", GET(cuMemFree)((CUdeviceptr)(uintptr_t)&host));

    printf("alloc-1000 %d", GET(cuMemAlloc)(&pointer, 1000));
    printf(" aligned-512 %d\n", pointer % 512 == 0);
    printf("alloc-100 %d", GET(cuMemAlloc)(&second, 100));
    printf(" distance %lld\n", (long long)(second - pointer));
    printf("range %d", GET(cuMemGetAddressRange)(&base, &size, pointer));
    printf(" base-equal %d size %zu\n", base == pointer, size);
    printf("range-inside %d", GET(cuMemGetAddressRange)(&base, &size, pointer + 999));
    printf(" base-equal %d size %zu\n", base == pointer, size);
    printf("range-padding %d\n", GET(cuMemGetAddressRange)(&base, &size, pointer + 1001));
    printf("range-nulls %d", GET(cuMemGetAddressRange)(NULL, &size, pointer));
    printf(" %d", GET(cuMemGetAddressRange)(&base, NULL, pointer));
    printf(" %d\n", GET(cuMemGetAddressRange)(NULL, NULL, pointer));
    printf("range-unknown %d\n", GET(cuMemGetAddressRange)(&base, &size, 0x12345));
    printf("range-0 %d\n", GET(cuMemGetAddressRange)(&base, &size, 0));
    printf("attribute-type %d", GET(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer));
    printf(" %u\n", type);
    printf("attribute-ordinal %d", GET(cuPointerGetAttribute)(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer));
    printf(" %d\n", ordinal);
    printf("attribute-context %d", GET(cuPointerGetAttribute)(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, pointer));
    printf(" own %d\n", owner == context);
    printf("attribute-range-size %d", GET(cuPointerGetAttribute)(&size, CU_POINTER_ATTRIBUTE_RANGE_SIZE, pointer));
    printf(" %zu\n", size);
    printf("attribute-inside %d\n", GET(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer + 10));
    printf("attribute-host %d\n",
           GET(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)&host));
    printf("attribute-null %d\n", GET(cuPointerGetAttribute)(NULL, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer));
    printf("free-inside %d\n", GET(cuMemFree)(pointer + 512));
    printf("free %d\n", GET(cuMemFree)(pointer));
    printf("free-twice %d\n", GET(cuMemFree)(pointer));
    printf("range-freed %d\n", GET(cuMemGetAddressRange)(&base, &size, pointer));
    GET(cuMemFree)(second);

    GET(cuMemAlloc)(&pointer, 3 * MIB + 1);
    printf("large aligned-2MiB %d aligned-512 %d\n", pointer % (2 * MIB) == 0, pointer % 512 == 0);
    printf("large-range %d", GET(cuMemGetAddressRange)(&base, &size, pointer + MIB));
    printf(" base-equal %d size %zu\n", base == pointer, size);
    printf("large-free-inside %d\n", GET(cuMemFree)(pointer + 2 * MIB));
    printf("large-free %d\n", GET(cuMemFree)(pointer));
    printf("large-free-twice %d\n", GET(cuMemFree)(pointer));
}

/* Allocates `count` of `size_bytes`, says what the device lost, frees all, says what is still lost. */
static void amount(const char *name, unsigned count, size_t size_bytes) {
    CUdeviceptr *pointers = calloc(count, sizeof(*pointers));
    long long before_kib = free_kib();
    unsigned failed = 0;

    for (unsigned i = 0; i < count; i++)
        failed += GET(cuMemAlloc)(&pointers[i], size_bytes) != CUDA_SUCCESS;
    printf("amount %s failed %u took %lld", name, failed, before_kib - free_kib());
    for (unsigned i = 0; i < count; i++)
        GET(cuMemFree)(pointers[i]);
    printf(" left %lld\n", before_kib - free_kib());
    free(pointers);
}

static void part_amounts(void) {
    CUdeviceptr pointers[3];
    long long before_kib;

    start_context();
    amount("1x1B", 1, 1);
    amount("1x512KiB", 1, 512 * KIB);
    amount("1x1MiB", 1, MIB);
    amount("2x1MiB", 2, MIB);
    amount("3x1MiB", 3, MIB);
    amount("1x(1MiB+1)", 1, MIB + 1);
    amount("1x2MiB", 1, 2 * MIB);
    amount("1x(2MiB+1)", 1, 2 * MIB + 1);
    amount("2x700KiB", 2, 700 * KIB);
    amount("3x700KiB", 3, 700 * KIB);
    amount("4096x512B", 4096, 512);
    amount("4097x512B", 4097, 512);
    amount("4096x1B", 4096, 1);
    amount("4096x513B", 4096, 513);
    amount("1000x64KiB", 1000, 64 * KIB);
    amount("1000x1025KiB", 1000, 1025 * KIB);
    amount("1x1GiB", 1, 1024 * MIB);

    before_kib = free_kib();
    for (int i = 0; i < 3; i++)
        GET(cuMemAlloc)(&pointers[i], MIB);
    GET(cuMemFree)(pointers[0]);
    printf("reuse three-take %lld", before_kib - free_kib());
    GET(cuMemAlloc)(&pointers[0], MIB);
    printf(" hole-filled %lld", before_kib - free_kib());
    GET(cuMemFree)(pointers[2]);
    printf(" last-freed %lld", before_kib - free_kib());
    GET(cuMemFree)(pointers[0]);
    GET(cuMemFree)(pointers[1]);
    printf(" all-freed %lld\n", before_kib - free_kib());
}

static void *other_thread(void *unused) {
    CUcontext current = (CUcontext)1;
    CUdeviceptr pointer = 0;

    printf("thread-current %d", GET(cuCtxGetCurrent)(&current));
    printf(" %s alloc %d\n", current ? "set" : "null", GET(cuMemAlloc)(&pointer, 1));
    return unused;
}

static void part_contexts(void) {
    CUcontext first, second, third, current;
    CUdeviceptr in_first, in_second, in_third;
    unsigned flags = 0;
    CUdevice of = -1;
    pthread_t thread;
    int active = -1;
    long long before_kib;

    start();
    GET(cuDevicePrimaryCtxRetain)(&first, device);
    GET(cuDevicePrimaryCtxRetain)(&second, device);
    printf("retain-same %d\n", first == second);
    GET(cuCtxGetCurrent)(&current);
    printf("retain-makes-current %d\n", current != NULL);
    printf("destroy-primary %d\n", GET(cuCtxDestroy)(first));
    GET(cuCtxSetCurrent)(first);
    printf("context-device %d", GET(cuCtxGetDevice)(&of));
    printf(" %d\n", of);
    GET(cuDevicePrimaryCtxGetState)(device, &flags, &active);
    printf("active %d flags %u\n", active, flags);
    pthread_create(&thread, NULL, other_thread, NULL);
    pthread_join(thread, NULL);
    GET(cuMemAlloc)(&in_first, 4 * MIB);

    before_kib = free_kib();
    printf("create-v4 %d\n", GET(cuCtxCreate)(&second, NULL, 0, device));
    GET(cuCtxGetCurrent)(&current);
    printf("created-is-current %d\n", current == second);
    printf("create-null %d", GET(cuCtxCreate)(NULL, NULL, 0, device));
    printf(" create-99 %d\n", GET(cuCtxCreate)(&third, NULL, 0, 99));
    printf("create-v2 %d\n", ((create_v2)find("cuCtxCreate_v2"))(&third, 0, device));
    printf("alloc-third %d\n", GET(cuMemAlloc)(&in_third, 4 * MIB));
    printf("pop %d", GET(cuCtxPopCurrent)(&current));
    printf(" third %d", current == third);
    GET(cuCtxGetCurrent)(&current);
    printf(" now-second %d\n", current == second);
    GET(cuMemAlloc)(&in_second, 4 * MIB);
    printf("free-of-other-context %d\n", GET(cuMemFree)(in_third));
    GET(cuCtxPushCurrent)(third);
    GET(cuMemAlloc)(&in_third, 4 * MIB);
    printf("destroy-current %d", GET(cuCtxDestroy)(third));
    GET(cuCtxGetCurrent)(&current);
    printf(" now-second %d now-null %d\n", current == second, current == NULL);
    printf("free-of-destroyed %d\n", GET(cuMemFree)(in_third));
    GET(cuCtxPushCurrent)(first);
    printf("destroy-below %d\n", GET(cuCtxDestroy)(second));
    printf("pop-first %d", GET(cuCtxPopCurrent)(&current));
    printf(" first %d", current == first);
    current = (CUcontext)1;
    printf(" next-current %d", GET(cuCtxGetCurrent)(&current));
    printf(" second %d null %d first %d\n", current == second, current == NULL, current == first);
    printf("alloc-under-destroyed %d\n", GET(cuMemAlloc)(&in_second, 1));
    printf("info-under-destroyed %d\n", GET(cuMemGetInfo)(NULL, NULL));
    printf("pop-destroyed %d\n", GET(cuCtxPopCurrent)(&current));
    printf("next-current %d", GET(cuCtxGetCurrent)(&current));
    printf(" first %d null %d\n", current == first, current == NULL);
    GET(cuCtxSetCurrent)(first);
    printf("contexts-left-kib %lld\n", before_kib - free_kib());
    printf("first-pointer-lives %d\n", GET(cuMemFree)(in_first));
    printf("set-null %d", GET(cuCtxSetCurrent)(NULL));
    GET(cuCtxGetCurrent)(&current);
    printf(" null %d\n", current == NULL);
    printf("depth-after-set-null %d\n", GET(cuCtxPopCurrent)(&current));
}

static void part_reset(void) {
    CUcontext again = NULL, current = NULL;
    CUdeviceptr pointer = 0, later = 0;
    unsigned flags = 0;
    int active = -1;

    start_context();
    GET(cuMemAlloc)(&pointer, 4 * MIB);
    printf("reset %d\n", GET(cuDevicePrimaryCtxReset)(device));
    GET(cuDevicePrimaryCtxGetState)(device, &flags, &active);
    printf("reset-active %d\n", active);
    printf("reset-current %d", GET(cuCtxGetCurrent)(&current));
    printf(" same %d null %d\n", current == context, current == NULL);
    printf("reset-alloc %d\n", GET(cuMemAlloc)(&later, 1));
    printf("reset-free %d\n", GET(cuMemFree)(pointer));
    printf("reset-retain %d", GET(cuDevicePrimaryCtxRetain)(&again, device));
    printf(" same %d\n", again == context);
    printf("reset-retain-alloc %d\n", GET(cuMemAlloc)(&later, 1));
    printf("reset-set %d", GET(cuCtxSetCurrent)(again));
    printf(" alloc %d\n", GET(cuMemAlloc)(&later, 1));
    printf("release %d", GET(cuDevicePrimaryCtxRelease)(device));
    GET(cuDevicePrimaryCtxGetState)(device, &flags, &active);
    printf(" active %d\n", active);
    printf("release-2 %d", GET(cuDevicePrimaryCtxRelease)(device));
    GET(cuDevicePrimaryCtxGetState)(device, &flags, &active);
    printf(" active %d\n", active);
    printf("release-3 %d\n", GET(cuDevicePrimaryCtxRelease)(device));
    printf("released-current %d", GET(cuCtxGetCurrent)(&current));
    printf(" same %d null %d\n", current == again, current == NULL);
    printf("released-alloc %d\n", GET(cuMemAlloc)(&later, 1));
    printf("released-info %d\n", GET(cuMemGetInfo)(NULL, NULL));
    printf("released-synchronize %d\n", GET(cuCtxSynchronize)());
    printf("released-set %d\n", GET(cuCtxSetCurrent)(again));
    printf("retain-3 %d", GET(cuDevicePrimaryCtxRetain)(&current, device));
    printf(" same %d\n", current == again);
    printf("retain-3-alloc %d\n", GET(cuMemAlloc)(&later, 1));
}

static void resolve(const char *name, int version, cuuint64_t flags) {
    CUdriverProcAddressQueryResult status = 9;
    void *function = (void *)1;
    Dl_info info = {0};
    int result = GET(cuGetProcAddress)(name, &function, version, flags, &status);
    int v1_result;

    if (function && function != (void *)1)
        dladdr(function, &info);
    printf("resolve %s %d %d: %d status %d %s", name, version, (int)flags, result, (int)status,
           function == (void *)1 ? "untouched"
           : !function           ? "null"
           : info.dli_sname      ? info.dli_sname
                                 : "nameless");
    function = (void *)1;
    v1_result = ((get_v1)find("cuGetProcAddress"))(name, &function, version, flags);
    printf(" v1 %d %s\n", v1_result, function == (void *)1 ? "untouched" : function ? "found" : "null");
}

static void part_resolve(void) {
    static const struct {
        const char *name;
        int version;
        cuuint64_t flags;
    } questions[] = {
        {"cuMemAlloc", 13000, 0},
        {"cuMemAlloc", 12000, 0},
        {"cuMemAlloc", 3020, 0},
        {"cuMemAlloc", 1000, 0},
        {"cuMemAlloc", 0, 0},
        {"cuMemAlloc", 99000, 0},
        {"cuMemAlloc", 13010, 0},
        {"cuMemAlloc", -1, 0},
        {"cuMemAlloc_v2", 12000, 0},
        {"cuMemAlloc", 12000, 1},
        {"cuMemAlloc", 12000, 2},
        {"cuMemAlloc", 12000, 3},
        {"cuMemAlloc", 12000, 4},
        {"cuMemFree", 12000, 0},
        {"cuMemGetInfo", 12000, 0},
        {"cuCtxCreate", 13000, 0},
        {"cuCtxCreate", 12050, 0},
        {"cuCtxCreate", 12049, 0},
        {"cuCtxCreate", 12000, 0},
        {"cuCtxCreate", 11040, 0},
        {"cuCtxCreate", 11000, 0},
        {"cuCtxDestroy", 12000, 0},
        {"cuCtxPushCurrent", 12000, 0},
        {"cuDeviceGetUuid", 13000, 0},
        {"cuDeviceGetUuid", 11040, 0},
        {"cuDeviceGetUuid", 11030, 0},
        {"cuDeviceGetUuid", 9000, 0},
        {"cuDeviceTotalMem", 12000, 0},
        {"cuDevicePrimaryCtxRetain", 7000, 0},
        {"cuDevicePrimaryCtxRetain", 6050, 0},
        {"cuDevicePrimaryCtxRelease", 11000, 0},
        {"cuDevicePrimaryCtxRelease", 10000, 0},
        {"cuDevicePrimaryCtxReset", 12000, 0},
        {"cuGetProcAddress", 12000, 0},
        {"cuGetProcAddress", 11030, 0},
        {"cuGetProcAddress", 11000, 0},
        {"cuInit", 12000, 0},
        {"cuInit", 2000, 0},
        {"cuInit", 1999, 0},
        {"cuGetErrorName", 6000, 0},
        {"cuGetErrorName", 5050, 0},
        {"cuMemGetAddressRange", 12000, 0},
        {"cuCtxGetCurrent", 4000, 0},
        {"cuCtxGetCurrent", 3020, 0},
        {"cuPointerGetAttribute", 4000, 0},
        {"cuDriverGetVersion", 2020, 0},
        {"cuDriverGetVersion", 2010, 0},
        {"cuGetExportTable", 3000, 0},
        {"cuGetExportTable", 2000, 0},
        {"cuCtxSynchronize", 2000, 0},
        {"cuCtxSynchronize", 13000, 0},
        {"cuNoSuchFunction", 12000, 0},
        {"", 12000, 0},
    };
    void *function;

    start();
    for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++)
        resolve(questions[i].name, questions[i].version, questions[i].flags);
    printf("null-status %d\n", GET(cuGetProcAddress)("cuInit", &function, 12000, 0, NULL));
    function = (void *)1;
    printf("null-status-unknown %d", GET(cuGetProcAddress)("cuNoSuchFunction", &function, 12000, 0, NULL));
    printf(" untouched %d\n", function == (void *)1);
}

static void part_fork(void) {
    CUdeviceptr pointer = 0;
    CUcontext current;
    int count = -1;
    pid_t child;

    start_context();
    GET(cuMemAlloc)(&pointer, 4 * MIB);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        printf("child-init %d\n", GET(cuInit)(0));
        printf("child-count %d\n", GET(cuDeviceGetCount)(&count));
        printf("child-alloc %d\n", GET(cuMemAlloc)(&pointer, 1));
        printf("child-current %d\n", GET(cuCtxGetCurrent)(&current));
        printf("child-retain %d\n", GET(cuDevicePrimaryCtxRetain)(&current, 0));
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    printf("parent-free %d\n", GET(cuMemFree)(pointer));
}

static void part_visible(void) {
    int count = -1, result = GET(cuInit)(0);

    printf("init %d", result);
    result = GET(cuDeviceGetCount)(&count);
    printf(" count-result %d count %d\n", result, count);
}

static void part_errors(void) {
    static const int codes[] = {0, 1, 2, 3, 4, 34, 46, 100, 101, 201, 302, 304, 400, 500, 708, 709, 800, 801, 999};
    const char *name, *text;

    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        int code = codes[i];

        name = text = "untouched";
        int first = GET(cuGetErrorName)((CUresult)code, &name), second = GET(cuGetErrorString)((CUresult)code, &text);

        if (first == 0 || second == 0)
            printf("error %d %s: %s\n", code, name, text);
    }
    name = text = "untouched";
    printf("unknown-name %d", GET(cuGetErrorName)((CUresult)12345, &name));
    printf(" %s", name ? name : "null");
    printf(" unknown-string %d", GET(cuGetErrorString)((CUresult)12345, &text));
    printf(" %s\n", text ? text : "null");
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {
        {"before", part_before},   {"nocontext", part_nocontext}, {"memory", part_memory},
        {"amounts", part_amounts}, {"contexts", part_contexts},   {"reset", part_reset},
        {"resolve", part_resolve}, {"fork", part_fork},           {"visible", part_visible},
        {"errors", part_errors},
    };

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; argc == 2 && i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (strcmp(argv[1], parts[i].name) == 0) {
            parts[i].run();
            return 0;
        }
    }
    fprintf(stderr, "usage: cuda_behaviour PART\n");
    return 2;
}
