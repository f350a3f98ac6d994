# SPDX-License-Identifier: Apache-2.0
"""One question to the engine: may this process have so many more bytes of this device?"""

from __future__ import annotations

from typing import NamedTuple

from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey


class Request(NamedTuple):
    """A request for memory, as the daemon received it.

    Attributes:
        request_id: Names the request while it waits; unique among all waiting requests.
        process: Who asks, and who will hold the bytes.
        container: The container of that process, as the kernel says.
        gpu: On which device.
        size_bytes: How many more bytes; greater than zero.
        waitable: False: the asker cannot wait (it holds locks of the driver), so answer with a grant or a denial.
        forced: True: the driver already took the bytes. They are recorded, even above the limit.
        arrived_ns: When it was first made, CLOCK_MONOTONIC; a request asked again of a restarted daemon keeps it.
        api: The call that asks, for people and the log, such as `cuMemAlloc_v2`.
    """

    request_id: int | str
    process: ProcessKey
    container: ContainerId
    gpu: GpuUuid
    size_bytes: int
    waitable: bool
    forced: bool
    arrived_ns: int
    api: str
