# SPDX-License-Identifier: Apache-2.0
"""The tables of an export: one row one observation, one column one quantity with its unit.

docs/reference/audit-tables.md is made from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from convgpu.analysis.columns import Column, Hidden, Table, bytes_, flag, integer, text, user

_EPOCH: Final = "ns since 1970"
_SEQ: Final = integer("seq", "", "Serial number of the record")
_TIME: Final = integer("time_ns", _EPOCH, "When the record was written")
_CONTAINER: Final = text("container_id", "Docker's full id", Hidden.CONTAINER)
_GPU: Final = (text("gpu_id", "NVML's UUID", Hidden.GPU), integer("gpu", "", "NVML's index"))
_PID: Final = integer("pid", "", "Pid on the host")
_TICKS: Final = integer("start_ticks", "clock ticks since boot", "Start of the process; with pid its name for ever")
_COMM: Final = text("comm", "The kernel's name of the process", Hidden.COMMAND)
_UID: Final = user("uid", "Its user id on the host")
_REASON: Final = text("reason", "Why", Hidden.WORD)
_LIMIT: Final = bytes_("limit_bytes", "The most the container may hold on the device")
_GUARANTEE: Final = bytes_("guarantee_bytes", "The part set aside for it from its start")
_ASSIGNED: Final = bytes_("assigned_bytes", "What is set aside for it now")


def _table(name: str, meaning: str, *columns: Column) -> Table:
    return Table(name, meaning, columns)


TABLES: Final[Mapping[str, Table]] = {
    table.name: table
    for table in (
        _table(
            "events",
            "Every record of the log, shortened",
            _SEQ,
            _TIME,
            integer("mono_ns", "ns", "CLOCK_MONOTONIC; the order within one boot"),
            text("boot_id", "The kernel's id of the boot", Hidden.BOOT),
            text("type", "Record type"),
            _CONTAINER,
            *_GPU,
            _PID,
            _TICKS,
            bytes_("size_bytes", "Bytes asked for, allocated or freed"),
            text("outcome", "What came of it", Hidden.WORD),
            _REASON,
            text("sentence", "The same for a person", Hidden.TEXT),
        ),
        _table(
            "runs",
            "A run of the daemon",
            _SEQ,
            integer("started_ns", _EPOCH, "When it started"),
            integer("stopped_ns", _EPOCH, "When it stopped on purpose; empty: it was killed, or runs still"),
            text("version", "Version of ConvGPU"),
            text("algorithm", "Scheduling algorithm at the start"),
            integer("seed", "", "Seed of the algorithm"),
            flag("safe", "Whether the safety rule was in force"),
            flag("simulated", "Whether the devices are simulated"),
            text("kernel", "Release of the kernel"),
            text("driver", "Version of the NVIDIA driver"),
        ),
        _table(
            "capacities",
            "What may be assigned on a device, from then on",
            _SEQ,
            _TIME,
            *_GPU,
            bytes_("capacity_bytes", "What may be assigned"),
            bytes_("total_bytes", "Memory of the device"),
            bytes_("external_bytes", "What is held outside ConvGPU"),
            _REASON,
        ),
        _table(
            "containers",
            "One stay of a container, from when it was first seen to its end",
            _CONTAINER,
            integer("stay", "", "1 for its first start in this log, 2 for its second, ..."),
            text("name", "Docker's name", Hidden.CONTAINER),
            text("image", "The image it was started from", Hidden.IMAGE),
            text("group_name", "Its group", Hidden.GROUP),
            integer("created_ns", _EPOCH, "When it was created"),
            integer("seen_ns", _EPOCH, "When it was first seen"),
            integer("gone_ns", _EPOCH, "When it ended; empty: it runs at the end of the log"),
            integer("priority", "", "Its declared priority"),
            integer("wait_limit_ns", "ns", "How long its requests may wait; empty: for ever"),
            integer("exit_code", "", "Exit status, where known"),
        ),
        _table(
            "processes",
            "A process of a container",
            _CONTAINER,
            _PID,
            _TICKS,
            _COMM,
            _UID,
            integer("seen_ns", _EPOCH, "When it joined"),
            integer("gone_ns", _EPOCH, "When it ended; empty: it runs at the end of the log"),
            bytes_("returned_bytes", "What was given back for it at its end"),
        ),
        _table(
            "limits",
            "A limit that holds from then on",
            _SEQ,
            _TIME,
            _CONTAINER,
            *_GPU,
            text("change", "seen (with the container), set or removed (by command)"),
            _LIMIT,
            _GUARANTEE,
            bytes_("old_limit_bytes", "The limit until then"),
            text("source", "Where it comes from: label, command, default", Hidden.WORD),
            user("by_uid", "User id of the one who asked"),
        ),
        _table(
            "group_limits",
            "A limit of a group that holds from then on",
            _SEQ,
            _TIME,
            text("group_name", "The group", Hidden.GROUP),
            *_GPU,
            bytes_("limit_bytes", "The most that its containers may hold together; empty: it bounds nothing"),
            bytes_("old_limit_bytes", "The limit until then"),
            user("by_uid", "User id of the one who asked"),
        ),
        _table(
            "decisions",
            "A decision about one request",
            _SEQ,
            _TIME,
            _CONTAINER,
            _PID,
            _TICKS,
            _COMM,
            _UID,
            *_GPU,
            text("request", "Id of the request, the same in all its decisions of one run"),
            text("decision", "granted, denied, suspended, resumed (granted after waiting) or withdrawn"),
            _REASON,
            text("api", "The call that asked"),
            bytes_("size_bytes", "Bytes asked for"),
            integer("waited_ns", "ns", "From the request's arrival to this decision"),
            bytes_("need_bytes", "Of a suspended one: what the container must be assigned more"),
            integer("position", "", "Of a suspended one: its place in the queue, from 1"),
            _LIMIT,
            _GUARANTEE,
            _ASSIGNED,
            bytes_("used_bytes", "What the container held before, by the ledger"),
            bytes_("waiting_bytes", "What its other requests waited for"),
            bytes_("free_bytes", "What was not assigned on the device"),
            bytes_("capacity_bytes", "What may be assigned on the device"),
            text("algorithm", "Scheduling algorithm"),
            flag("forced", "The driver had taken it already"),
            flag("waitable", "Whether the asker could wait"),
        ),
        _table(
            "suspensions",
            "One wait of one request",
            _CONTAINER,
            _PID,
            *_GPU,
            text("request", "Id of the request"),
            bytes_("size_bytes", "Bytes asked for"),
            integer("arrived_ns", _EPOCH, "When the request was made"),
            integer("began_ns", _EPOCH, "When it was suspended"),
            integer("ended_ns", _EPOCH, "When it waited no more; empty: it waits at the end of the log"),
            text("ended_by", "resumed, denied, withdrawn, or daemon.start: asked again of a new daemon"),
            _REASON,
            integer("position", "", "Its place in the queue at the beginning, from 1"),
            text("group_name", "The group that had no room for it", Hidden.GROUP),
        ),
        _table(
            "starts",
            "A container that waited for its whole guarantee before it started",
            _CONTAINER,
            integer("began_ns", _EPOCH, "When it began to wait"),
            integer("ended_ns", _EPOCH, "When it was decided; empty: it waits at the end of the log"),
            text("decision", "admitted or denied"),
            integer("waited_ns", "ns", "How long it waited"),
            _REASON,
        ),
        _table(
            "holdings",
            "What a container holds on a device, from then on, as the ledger has it: granted and not taken back",
            _SEQ,
            _TIME,
            _CONTAINER,
            *_GPU,
            bytes_(
                "held_bytes", "What it holds; memory that was freed and nobody lacked counts until it is taken back"
            ),
            _LIMIT,
        ),
        _table(
            "usage",
            "A snapshot: one container on one device as ledger, witness and NVML saw it",
            _SEQ,
            _TIME,
            _CONTAINER,
            *_GPU,
            bytes_("used_bytes", "What is in use, by the pages of its processes"),
            _ASSIGNED,
            _LIMIT,
            _GUARANTEE,
            bytes_("peak_bytes", "The most it used at one time"),
            bytes_("witness_bytes", "What the eBPF witness saw"),
            bytes_("nvml_bytes", "What NVML reports"),
            bytes_("requested_bytes", "Live bytes as asked of the CUDA runtime"),
            integer("waiting", "", "Suspended requests"),
            integer("denied", "", "Requests denied since it started"),
            integer("suspended_ns", "ns", "Time that its requests spent suspended, summed"),
        ),
        _table(
            "witness",
            "What the eBPF witness saw: one call, or the sum of small ones",
            _SEQ,
            _TIME,
            _CONTAINER,
            _PID,
            _TICKS,
            _COMM,
            text("source", "Where: boundary, driver, runtime"),
            text("outcome", "alloc, free or fail"),
            integer("count", "", "How many calls"),
            bytes_("size_bytes", "Bytes, summed"),
            bytes_("smallest_bytes", "The smallest"),
            bytes_("largest_bytes", "The largest"),
            integer("latency_ns", "ns", "From the start of the call to its end; of a single one"),
        ),
        _table(
            "findings",
            "What the three-way check found, from its beginning to its end",
            text("finding", "tampered, bypass, unwrapped, external or mismatch"),
            _CONTAINER,
            *_GPU,
            integer("raised_ns", _EPOCH, "When it was raised"),
            integer("cleared_ns", _EPOCH, "When it was over; empty: it is so at the end of the log"),
            bytes_("used_bytes", "The ledger, when it was raised"),
            bytes_("witness_bytes", "The witness, when it was raised"),
            bytes_("nvml_bytes", "NVML, when it was raised"),
            text("action", "What is configured to be done"),
            _REASON,
        ),
        _table(
            "losses",
            "Something that could not be recorded",
            _SEQ,
            _TIME,
            integer("count", "", "How many"),
            integer("period_ns", "ns", "In how long a time"),
            text("reason", "What and why", Hidden.TEXT),
        ),
        _table(
            "notes",
            "What somebody wrote into the log",
            _SEQ,
            _TIME,
            _CONTAINER,
            user("by_uid", "User id of the one who wrote it"),
            text("text", "The note", Hidden.TEXT),
        ),
    )
}
