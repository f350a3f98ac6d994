# SPDX-License-Identifier: Apache-2.0
"""Decisions as sentences: what the log, `convgpu events` and the monitor say of one. Values in, a sentence out.

The container comes first and the process last, so that a narrow screen cuts off what is needed least.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from convgpu.core.decision import Reason
from convgpu.core.units import format_size

_NS_PER_S: Final = 1_000_000_000

_REASONS: Final[Mapping[str, str]] = {
    Reason.GROUP_LIMIT: "more than its group may have",
    Reason.NOT_NOW: "it could not wait for it",
    Reason.WAIT_TIMEOUT: "that is as long as it may wait",
    Reason.UNKNOWN_CONTAINER: "no such container, or no such process in it",
    Reason.DEVICE: "the container has no share of this device",
    Reason.CONTAINER_GONE: "its container ended",
}
"""Why something was denied; `limit` is said with its numbers."""


def granted(fields: Mapping[str, Any]) -> str:
    """Say that a request was granted at once; the fields are those of `decision.granted`."""
    forced = f"took {asked(fields)} without asking"
    return _granted(fields, forced if fields.get("forced") else f"was granted {asked(fields)}")


def resumed(fields: Mapping[str, Any]) -> str:
    """Say that a request which waited was granted."""
    return _granted(fields, f"was granted {asked(fields)} after waiting {waited(fields['waited_ns'])}")


def denied(fields: Mapping[str, Any]) -> str:
    """Say that a request was denied, and by which numbers."""
    reason = str(fields.get("reason", ""))
    if reason == Reason.LIMIT:
        why = f"over its limit, holds {_held(fields)} of {format_size(fields.get('limit_bytes'))}"
    else:
        why = _REASONS.get(reason, reason)
        if fields.get("waited_ns"):
            why = f"after {waited(fields['waited_ns'])}, {why}" if why else f"after {waited(fields['waited_ns'])}"
        elif reason == Reason.NOT_NOW and fields.get("free_bytes") is not None:
            why = f"{why}, {format_size(fields['free_bytes'])} free"
    return f"{container_name(fields)} was denied {asked(fields)}: {why}{_process(fields)}"


def suspended(fields: Mapping[str, Any]) -> str:
    """Say that a request waits, and for what."""
    free = "" if fields.get("free_bytes") is None else f", {format_size(fields['free_bytes'])} free"
    group = f"group {fields['group']} has no room, " if fields.get("group") else ""
    return (
        f"{container_name(fields)} waits for {asked(fields)}: needs {format_size(fields['need_bytes'])} more{free}, "
        f"{group}position {fields['position']}{_process(fields)}"
    )


def withdrawn(fields: Mapping[str, Any]) -> str:
    """Say that a request which waited has nobody left to answer."""
    return f"{container_name(fields)} waits no more for {asked(fields)}: who asked is gone{_process(fields)}"


def start_suspended(fields: Mapping[str, Any]) -> str:
    """Say that a container waits for its start."""
    return f"{container_name(fields)} waits for {format_size(fields['guarantee_bytes'])}{where(fields)} to start"


def start_admitted(fields: Mapping[str, Any]) -> str:
    """Say that a container has all that it needs to start."""
    return _after(f"{container_name(fields)} may start", fields)


def start_denied(fields: Mapping[str, Any]) -> str:
    """Say that a container is not started."""
    reason = str(fields.get("reason", ""))
    return f"{_after(f'{container_name(fields)} was not started', fields)}: {_REASONS.get(reason, reason)}"


def waited(duration_ns: int) -> str:
    """Write how long something waited: `340 ms`, `12.3 s`, `5 min 7 s`, `3 h 20 min`."""
    seconds = duration_ns // _NS_PER_S
    if seconds < 1:
        return f"{duration_ns / 1e6:.3g} ms"
    if seconds < 60:
        return f"{duration_ns / _NS_PER_S:.1f} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds // 60 % 60} min"


def container_name(fields: Mapping[str, Any]) -> str:
    """Return what a person calls the container of a record; its short id where it has no name."""
    container = fields.get("container")
    if not container:
        return "a process outside"
    return str(container.get("name") or container["id"][:12])


def asked(fields: Mapping[str, Any]) -> str:
    """Return how much was asked for and where: `4GiB on GPU 0`."""
    return f"{format_size(fields.get('size_bytes'))}{where(fields)}"


def where(fields: Mapping[str, Any]) -> str:
    """Return ` on GPU 0`, or nothing where no device is named."""
    gpu = fields.get("gpu")
    if not gpu:
        return ""
    index = gpu.get("index")
    return f" on GPU {index}" if index is not None else f" on {gpu['id']}"


def _granted(fields: Mapping[str, Any], what: str) -> str:
    held = ""
    if fields.get("used_bytes") is not None:  # those before the request
        now_bytes = fields["used_bytes"] + fields["size_bytes"]
        held = f"; holds {format_size(now_bytes)} of {format_size(fields.get('limit_bytes'))}"
    return f"{container_name(fields)} {what}{held}{_process(fields)}"


def _held(fields: Mapping[str, Any]) -> str:
    """What it holds, and what of it other requests of the container wait for."""
    waiting = fields.get("waiting_bytes")
    also = f" and waits for {format_size(waiting)}" if waiting else ""
    return f"{format_size(fields.get('used_bytes'))}{also}"


def _process(fields: Mapping[str, Any]) -> str:
    process = fields.get("process")
    return f", for {process.get('comm') or 'process'}[{process['pid']}]" if process else ""


def _after(text: str, fields: Mapping[str, Any]) -> str:
    return f"{text} after waiting {waited(fields['waited_ns'])}" if fields.get("waited_ns") else text
