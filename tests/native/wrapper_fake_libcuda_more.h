/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The second half of wrapper_fake_libcuda.c: the allocating calls beside cuMemAlloc, each as simple as the wrapper's
 * tests allow. Included by it.
 *
 * FAKE_MODULE_BYTES  what a module takes when it is loaded (default 4 MiB)
 */
enum { CAPTURE_ILLEGAL = 401, STREAMS = 16, ATTRIBUTE_PROCESSORS = 16, ATTRIBUTE_THREADS = 39 };
#define POOL_CHUNK (32ULL << 20)

/* ---- Objects of their own: VMM, arrays, modules, graphs, stack ---- */

static CUresult take(uint64_t size_bytes, CUdevice device, uint64_t *handle) {
    uint32_t made = 0;
    pthread_mutex_lock(&lock);
    const uint32_t status = rm_memory(device, (size_bytes + GRANULE - 1) / GRANULE * GRANULE, &made);
    pthread_mutex_unlock(&lock);
    *handle = made;
    return status == 0 ? OK : OUT_OF_MEMORY;
}

static CUresult give(uint64_t handle) {
    pthread_mutex_lock(&lock);
    rm_free((uint32_t)handle);
    pthread_mutex_unlock(&lock);
    return OK;
}

CUresult cuMemCreate(uint64_t *handle, size_t size_bytes, const int *prop, unsigned long long flags) {
    (void)flags;
    if (prop[2] != 1) { /* on the host */
        *handle = 1;
        return OK;
    }
    return take(size_bytes, prop[3], handle);
}

CUresult cuMemRelease(uint64_t handle) {
    return give(handle);
}

CUresult cuArrayCreate_v2(uint64_t *handle, const size_t *descriptor) {
    return take(descriptor[0] * (descriptor[1] != 0 ? descriptor[1] : 1) * 4, current->device, handle);
}

CUresult cuArray3DCreate_v2(uint64_t *handle, const size_t *descriptor) {
    return take(descriptor[0] * descriptor[1] * (descriptor[2] != 0 ? descriptor[2] : 1) * 4, current->device, handle);
}

CUresult cuMipmappedArrayCreate(uint64_t *handle, const size_t *descriptor, unsigned int levels) {
    uint64_t total_bytes = 0;
    for (unsigned int level = 0; level < levels; level++)
        total_bytes += (descriptor[0] >> level) * (descriptor[1] >> level) * 4;
    return take(total_bytes, current->device, handle);
}

CUresult cuArrayDestroy(uint64_t handle) {
    return give(handle);
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *pointer, size_t *pitch, size_t width, size_t height, unsigned int element) {
    (void)element;
    *pitch = (width + 511) / 512 * 512;
    return cuMemAlloc_v2(pointer, *pitch * height);
}

CUresult cuModuleLoadData(uint64_t *module, const void *image) {
    const char *text = getenv("FAKE_MODULE_BYTES");
    (void)image;
    return take(text != NULL ? strtoull(text, NULL, 0) : 4ULL << 20, current->device, module);
}

CUresult cuModuleUnload(uint64_t module) {
    return give(module);
}

/* A graph takes its memory when it is launched the first time. */
CUresult cuGraphLaunch(uint64_t *graph, void *stream) {
    (void)stream;
    return *graph != 0 ? OK : take(16ULL << 20, current->device, graph);
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    (void)device;
    if (attribute != ATTRIBUTE_PROCESSORS && attribute != ATTRIBUTE_THREADS)
        return INVALID;
    *value = attribute == ATTRIBUTE_PROCESSORS ? 4 : 2048;
    return OK;
}

static size_t stack_bytes = 1024;
static uint64_t stack_handle;

CUresult cuCtxGetLimit(size_t *value, int limit) {
    *value = stack_bytes;
    return limit == 0 ? OK : INVALID;
}

CUresult cuCtxSetLimit(int limit, size_t value) {
    if (limit != 0)
        return OK;
    if (value > stack_bytes && take(4 * 2048 * (value - stack_bytes), current->device, &stack_handle) != OK)
        return OUT_OF_MEMORY;
    stack_bytes = value;
    return OK;
}

/* ---- Managed memory: no ioctl ---- */

static CUdeviceptr managed[64];
static struct context *managed_in[64];

CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t size_bytes, unsigned int flags) {
    if (size_bytes == 0 || flags == 0)
        return INVALID;
    pthread_mutex_lock(&lock);
    int index = 0;
    while (managed[index] != 0)
        index++;
    *pointer = managed[index] = 0x600000000000ULL + ((uint64_t)index << 36);
    managed_in[index] = current;
    pthread_mutex_unlock(&lock);
    return OK;
}

static CUresult free_managed(CUdeviceptr pointer, const struct context *context) {
    CUresult result = INVALID;
    for (int index = 0; index < 64; index++)
        if (managed[index] != 0 && (managed[index] == pointer || managed_in[index] == context)) {
            managed[index] = 0;
            result = OK;
        }
    return result;
}

/* ---- The end of contexts ---- */

CUresult cuCtxGetCurrent(struct context **context) {
    *context = current;
    return OK;
}

static void demolish(struct context *context) {
    for (int part = 0; part < 3; part++)
        rm_free(context->parts[part]);
    free_managed(0, context);
    current = current == context ? NULL : current;
}

CUresult cuCtxDestroy_v2(struct context *context) {
    pthread_mutex_lock(&lock);
    demolish(context);
    pthread_mutex_unlock(&lock);
    return OK;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    pthread_mutex_lock(&lock);
    if (--primary[device].references == 0)
        demolish(&primary[device]);
    pthread_mutex_unlock(&lock);
    return OK;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
    pthread_mutex_lock(&lock);
    primary[device].references = 0;
    demolish(&primary[device]);
    pthread_mutex_unlock(&lock);
    return OK;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    const char *capacity = getenv("FAKE_RM_CAPACITY");
    (void)device;
    *bytes = capacity != NULL ? strtoull(capacity, NULL, 0) : 1ULL << 30;
    return OK;
}

/* ---- Streams: one pool of chunks that are kept; a capture takes no memory ---- */

static int capturing[STREAMS];
static uint64_t pool_bytes, pool_used_bytes;
static uint32_t pool_handles[64];
static int pool_chunks;
static struct {
    CUdeviceptr pointer;
    uint64_t size_bytes;
} pieces[1024];

CUresult cuStreamBeginCapture_v2(uintptr_t stream, int mode) {
    (void)mode;
    capturing[stream] = 1;
    return OK;
}

/* A capture that begins without the call for it, as through a table of cuGetExportTable. */
CUresult cuFakeCapture(uintptr_t stream) {
    capturing[stream] = 1;
    return OK;
}

CUresult cuStreamEndCapture(uintptr_t stream, void **graph) {
    *graph = NULL;
    if (!capturing[stream])
        return CAPTURE_ILLEGAL;
    capturing[stream] = 0;
    return OK;
}

CUresult cuStreamIsCapturing(uintptr_t stream, int *status) {
    *status = capturing[stream];
    return OK;
}

CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t size_bytes, uintptr_t stream) {
    CUresult result = OK;
    (void)stream;
    pthread_mutex_lock(&lock);
    while (pool_used_bytes + size_bytes > pool_bytes && result == OK) {
        if (rm_memory(current->device, POOL_CHUNK, &pool_handles[pool_chunks]) != 0) {
            result = OUT_OF_MEMORY;
        } else {
            pool_chunks++;
            pool_bytes += POOL_CHUNK;
        }
    }
    if (result == OK) {
        int index = 0;
        while (pieces[index].pointer != 0)
            index++;
        *pointer = pieces[index].pointer = 0x500000000000ULL + (uint64_t)index * 4096;
        pieces[index].size_bytes = size_bytes;
        pool_used_bytes += size_bytes;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult cuMemAllocAsync_ptsz(CUdeviceptr *pointer, size_t size_bytes, uintptr_t stream) {
    return cuMemAllocAsync(pointer, size_bytes, stream);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t size_bytes, uint64_t pool, uintptr_t stream) {
    (void)pool;
    return cuMemAllocAsync(pointer, size_bytes, stream);
}

CUresult cuMemFreeAsync(CUdeviceptr pointer, uintptr_t stream) {
    (void)stream;
    pthread_mutex_lock(&lock);
    pool_used_bytes -= pieces[(pointer - 0x500000000000ULL) / 4096].size_bytes;
    pieces[(pointer - 0x500000000000ULL) / 4096].pointer = 0;
    pthread_mutex_unlock(&lock);
    return OK;
}

CUresult cuMemPoolTrimTo(uint64_t pool, size_t keep_bytes) {
    (void)pool;
    pthread_mutex_lock(&lock);
    while (pool_chunks > 0 && pool_bytes - POOL_CHUNK >= keep_bytes && pool_bytes - POOL_CHUNK >= pool_used_bytes) {
        rm_free(pool_handles[--pool_chunks]);
        pool_bytes -= POOL_CHUNK;
    }
    pthread_mutex_unlock(&lock);
    return OK;
}
