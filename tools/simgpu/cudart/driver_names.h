/* SPDX-License-Identifier: Apache-2.0 */
/* Base names are macros in cuda.h; in the table of the driver's functions they mean themselves. */
#undef cuArray3DCreate
#undef cuDevicePrimaryCtxRelease
#undef cuDevicePrimaryCtxReset
#undef cuIpcOpenMemHandle
#undef cuMemAlloc
#undef cuMemAllocPitch
#undef cuMemFree
#undef cuMemGetInfo
#undef cuStreamDestroy
