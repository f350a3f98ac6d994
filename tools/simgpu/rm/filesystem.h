/* SPDX-License-Identifier: Apache-2.0 */
/* The folder of device files: nvidiactl, nvidia-uvm, nvidia0 ... and a readable `status`. */
#ifndef CONVGPU_SIM_RM_FILESYSTEM_H
#define CONVGPU_SIM_RM_FILESYSTEM_H

#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>

extern const struct fuse_lowlevel_ops filesystem_operations;

#endif
