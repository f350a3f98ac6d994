# SPDX-License-Identifier: Apache-2.0
"""A process that calls libcuda and libcudart as it is told: one Python expression a line in, one number a line out.

Started as `python cuda_process.py LIBCUDA LIBCUDART`. Layouts: cuda.h and cuda_runtime_api.h of CUDA 13.0.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

NAMES: dict[str, ctypes.CDLL] = {}


def library(name: str) -> ctypes.CDLL:
    path = sys.argv[2 if name.startswith("cuda") else 1]
    if path not in NAMES:
        NAMES[path] = ctypes.CDLL(path)
    return NAMES[path]


def call(name: str, *arguments: object) -> int:
    """Call a function; whole numbers are 64 bits wide."""
    wide = [ctypes.c_uint64(value) if isinstance(value, int) else value for value in arguments]
    return getattr(library(name), name)(*wide)


def must(name: str, *arguments: object) -> None:
    result = call(name, *arguments)
    if result:
        raise SystemExit(f"{name}: error {result}")


def take(name: str, *arguments: object) -> int:
    """Call a function that writes a pointer or handle to where its first argument points; return that."""
    out = (ctypes.c_uint64 * 2)()
    must(name, out, *arguments)
    return out[0]


def pitch(name: str, width: int, height: int, *more: int) -> int:
    return take(name, ctypes.byref(ctypes.c_uint64()), width, height, *more)


class Extent(ctypes.Structure):
    _fields_ = (("width", ctypes.c_size_t), ("height", ctypes.c_size_t), ("depth", ctypes.c_size_t))


def pitched(width: int, height: int, depth: int) -> int:
    """cudaMalloc3D; the pointer is the first field of cudaPitchedPtr."""
    out = (ctypes.c_uint64 * 4)()
    must("cudaMalloc3D", out, Extent(width, height, depth))
    return out[0]


def floats() -> ctypes.Array[ctypes.c_char]:
    """cudaChannelFormatDesc of one float."""
    return ctypes.create_string_buffer(struct.pack("<iiiii", 32, 0, 0, 0, 2))


def levels(width: int, height: int, count: int) -> int:
    out = (ctypes.c_uint64 * 2)()
    must("cudaMallocMipmappedArray", out, floats(), Extent(width, height, 0), count, 0)
    return out[0]


def array(width: int, height: int, depth: int = 0, flags: int = 0) -> ctypes.Array[ctypes.c_char]:
    """CUDA_ARRAY3D_DESCRIPTOR of one float; the flat one, CUDA_ARRAY_DESCRIPTOR, where the depth is -1."""
    if depth == -1:
        return ctypes.create_string_buffer(struct.pack("<QQII", width, height, 0x20, 1))
    return ctypes.create_string_buffer(struct.pack("<QQQIII4x", width, height, depth, 0x20, 1, flags))


def prop(device: int = 0) -> ctypes.Array[ctypes.c_char]:
    """CUmemAllocationProp: pinned memory of a device."""
    return ctypes.create_string_buffer(struct.pack("<iiii16x", 1, 0, 1, device))


def context() -> int:
    """The primary context, retained and current."""
    must("cuInit", 0)
    handle = take("cuDevicePrimaryCtxRetain", 0)
    must("cuCtxSetCurrent", handle)
    return handle


def replace_program() -> None:
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


HELD: list[int] = []

for line in sys.stdin:
    result = eval(line)  # the test's own words
    print(result if isinstance(result, int) else 0, flush=True)
