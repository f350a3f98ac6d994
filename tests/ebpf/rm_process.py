# SPDX-License-Identifier: Apache-2.0
"""A process that talks to the resource manager as it is told: one JSON object a line in, one number a line out.

Started as `python rm_process.py FOLDER`, with the folder of the echo device. Layouts: NVOS21, NVOS64, NVOS00, NVOS54
and nv_ioctl_xfer_t of NVIDIA's open kernel modules, written out here once more on purpose: the tests must not take
them from what they test.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
FILES = {name: os.open(f"{sys.argv[1]}/{name}", os.O_RDWR) for name in ("accept", "refuse")}


def iowr(number: int, size: int) -> int:
    return 3 << 30 | size << 16 | ord("F") << 8 | number


def issue(number: int, block: bytes, call: dict) -> None:
    held = ctypes.create_string_buffer(block, len(block))
    command = iowr(number, len(block))
    outer = held
    if call.get("transfer"):
        outer = ctypes.create_string_buffer(struct.pack("<IIQ", number, len(block), ctypes.addressof(held)), 16)
        command = iowr(211, 16)
    LIBC.ioctl(FILES[call.get("file", "accept")], ctypes.c_ulong(command), outer)


def alloc(call: dict) -> None:
    parameters = bytes.fromhex(call["parameters"])
    held = ctypes.create_string_buffer(parameters, len(parameters))
    address = 0x10 if call.get("bad_pointer") else ctypes.addressof(held)
    head = struct.pack("<IIIIQ", call["client"], call["parent"], call["object"], call["class"], address)
    if call.get("form", 48) == 48:
        block = head + struct.pack("<QIIII", 0, len(parameters), call.get("flags", 0), call.get("status", 0), 0)
    else:
        block = head + struct.pack("<II", len(parameters), call.get("status", 0))
    issue(0x2B, block, call)


def free(call: dict) -> None:
    issue(0x29, struct.pack("<IIII", call["client"], 0, call["object"], call.get("status", 0)), call)


def control(call: dict) -> None:
    parameters = bytes.fromhex(call["parameters"])
    held = ctypes.create_string_buffer(parameters, len(parameters))
    status = call.get("status", 0)
    block = struct.pack("<IIIIQII", 1, 1, call["command"], 0, ctypes.addressof(held), len(parameters), status)
    issue(0x2A, block, call)


def threads(call: dict) -> None:
    def work(index: int) -> None:
        handles = range(call["first"] + index * 1000, call["first"] + index * 1000 + call["allocations"])
        for handle in handles:
            alloc(call | {"object": handle})
        for handle in list(handles)[: call["frees"]]:
            free(call | {"object": handle})

    workers = [threading.Thread(target=work, args=(index,)) for index in range(call["threads"])]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def fork(call: dict) -> int:
    child = os.fork()
    if child == 0:
        for inner in call["calls"]:
            perform(inner)
        os._exit(0)
    os.waitpid(child, 0)
    return child


def perform(call: dict) -> int:
    return {"alloc": alloc, "free": free, "control": control, "threads": threads, "fork": fork}[call["op"]](call) or 0


for line in sys.stdin:
    print(perform(json.loads(line)), flush=True)
