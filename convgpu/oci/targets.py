# SPDX-License-Identifier: Apache-2.0
"""Where a guarded container sees ConvGPU's files. Plain texts: the runtime shim has no time to load more."""

from __future__ import annotations

LIBRARY = "/usr/local/lib/convgpu/libconvgpu.so"
LIBRARY_ASIDE = "/.convgpu/libconvgpu.so"
"""Used where a folder of the host is mounted over `/usr` or a part of it: the runtime could not create the usual place
there (read-only), or would create it on the host (writable)."""
PRELOAD = "/etc/ld.so.preload"
CLIENT = "/run/convgpu"
