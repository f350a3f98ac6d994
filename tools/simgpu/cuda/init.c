/* SPDX-License-Identifier: Apache-2.0 */
/* cuInit, versions, and the door that every other function goes through. */
#include "sim.h"

#include <pthread.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t owner;          /* the process that called cuInit first; 0: none */
static CUresult init_result; /* of that first call */

static bool started(void) {
    return owner == getpid() && init_result == CUDA_SUCCESS;
}

CUresult sim_enter(void) {
    pthread_mutex_lock(&lock);
    if (started())
        return CUDA_SUCCESS;
    pthread_mutex_unlock(&lock);
    return CUDA_ERROR_NOT_INITIALIZED; /* also in a child of fork, as measured */
}

void sim_leave(void) {
    pthread_mutex_unlock(&lock);
}

CUresult sim_leave_with(CUresult result) {
    sim_leave();
    return result;
}

SIM_EXPORT CUresult cuInit(unsigned int flags) {
    CUresult result;

    if (flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    if (owner == 0) {
        init_result = rm_start();
        if (init_result == CUDA_SUCCESS)
            init_result = devices_start();
        owner = getpid();
    }
    result = owner == getpid() ? init_result : CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_unlock(&lock);
    return result;
}

SIM_EXPORT CUresult cuDriverGetVersion(int *driverVersion) {
    if (!driverVersion)
        return CUDA_ERROR_INVALID_VALUE;
    *driverVersion = SIM_CUDA_VERSION;
    return CUDA_SUCCESS;
}
