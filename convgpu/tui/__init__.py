# SPDX-License-Identifier: Apache-2.0
"""The monitor: a snapshot becomes a view (a pure function), a view becomes a screen (rich).

The room talks to the daemon through `convgpu.api` only; it knows nothing of Docker, NVML or BPF. `convgpu top` uses
it, and scripts may use `view` and `export_svg` with a snapshot of their own.
"""
