# SPDX-License-Identifier: Apache-2.0
"""ConvGPU: Docker containers share the memory of an NVIDIA GPU, each within a limit that can be changed live."""

__version__ = "0.1.0"
