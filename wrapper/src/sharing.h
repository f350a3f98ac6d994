/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that is shared goes on living when the object that took it ends: in duplicates, and in open files to which it
 * was exported (cuMemExportToShareableHandle; measured on an H100: NVML then shows it with no process, and the device
 * is as full as before). So what this process shared stays charged to it until its last own part ends.
 *
 * Others' memory is charged to nobody here, since its size is not known. When its owner ends, the driver charges it to
 * a process that has a duplicate; that process is not told.
 */
#ifndef CVG_SHARING_H
#define CVG_SHARING_H

#include "rm.h"

/* After the driver did what is said there. */
void sharing_duplicated(const struct rm_duplicate *block);
void sharing_controlled(const struct rm_control *block);

#endif
