# SPDX-License-Identifier: Apache-2.0
"""Doors to the outside, one file each: Docker, cgroups, /proc, NVML, eBPF, the simulated GPU.

Each is a small Protocol or a set of functions with the real thing behind it; fakes that behave are in
`convgpu.testing`. A source knows the core's words and nothing of the daemon.
"""
