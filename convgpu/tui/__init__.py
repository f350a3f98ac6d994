# SPDX-License-Identifier: Apache-2.0
"""The monitor: a snapshot becomes a view (`view`), a key new choices (`controls`), both pure; `monitor` is the rest.

The room talks to the daemon through `convgpu.api` only; it knows nothing of Docker, NVML or BPF. `convgpu top` uses
it, and scripts may use `view` and `export_svg` with a snapshot of their own.
"""
