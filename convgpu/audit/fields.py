# SPDX-License-Identifier: Apache-2.0
"""The fields that a record may have: name, kind and meaning. One definition for writer, schema and documentation.

Sizes are bytes and durations nanoseconds, always as integers: the canonical form of a float is not the same everywhere,
that of an integer is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a value may be in JSON."""

    INTEGER = "integer"
    BOOLEAN = "boolean"
    STRING = "string"
    STRINGS = "list of strings"
    TEXT_MAP = "object of strings"
    COUNT_MAP = "object of integers"
    OBJECT = "object"
    OBJECTS = "list of objects"


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    Attributes:
        kind: What the value may be.
        meaning: One line for the data dictionary.
        parts: The fields of an object, or of each object of a list.
        nullable: Whether null (not known) is a value.
    """

    kind: Kind
    meaning: str
    parts: Mapping[str, Field] = field(default_factory=dict)
    nullable: bool = False


def _integer(meaning: str) -> Field:
    return Field(Kind.INTEGER, meaning)


def _known_or_null(meaning: str) -> Field:
    return Field(Kind.INTEGER, meaning + "; null: not known", nullable=True)


def _string(meaning: str, *, nullable: bool = False) -> Field:
    return Field(Kind.STRING, meaning, nullable=nullable)


def _object(meaning: str, *, nullable: bool = False, **parts: Field) -> Field:
    return Field(Kind.OBJECT, meaning, parts, nullable)


_CONTAINER = _object(
    "The container, as the kernel and Docker name it",
    id=_string("Docker's full id"),
    name=_string("Docker's name", nullable=True),
    image=_string("The image it was started from", nullable=True),
)
_PROCESS = _object(
    "The process; pid and start_ticks together name it for ever",
    pid=_integer("Pid in the host's pid namespace"),
    start_ticks=_integer("Start time in clock ticks since boot, field 22 of /proc/PID/stat"),
    comm=_string("The kernel's name of it", nullable=True),
    uid=_known_or_null("Real user id on the host"),
)
_GPU = _object(
    "The device",
    id=_string("NVML's UUID, GPU-..."),
    index=_known_or_null("NVML's index when the record was written"),
)

_GPU_MORE: Final = {
    "name": _string("Product name", nullable=True),
    "total_bytes": _known_or_null("Memory of the device"),
    "capacity_bytes": _known_or_null("What may be assigned"),
    "turn": _known_or_null("How often something of it was given away since the machine started"),
}

COMMON_FIELDS: Final[Mapping[str, Field]] = {
    "v": _integer("Version of the record format"),
    "seq": _integer("Serial number, from 1, without gaps"),
    "ts": _string("Wall-clock time, RFC 3339, UTC, nanoseconds"),
    "mono_ns": _integer("CLOCK_MONOTONIC; the order within one boot"),
    "boot_id": _string("The kernel's id of this boot"),
    "type": _string("One of the record types"),
    "msg": _string("The same for a person; nothing to parse"),
    "prev": _string("Hash of the record before, 64 hexadecimal digits; all zero for the first"),
    "hash": _string("SHA-256 over prev and the canonical bytes of this record without this field"),
}

_GROUP_LIMIT: Final = {
    "group": _string("The group; lab/team is a group in lab"),
    "gpu": _string("NVML's UUID"),
    "index": _integer("NVML's index"),
    "limit_bytes": _known_or_null("The most that its containers may hold together; null: it bounds nothing"),
    "old_limit_bytes": _known_or_null("The limit until now; null: there was none"),
}

EVENT_FIELDS: Final[Mapping[str, Field]] = {
    # Who and where.
    "container": _CONTAINER,
    "process": _PROCESS,
    "processes": Field(Kind.OBJECTS, "Several processes", _PROCESS.parts),
    "gpu": _GPU,
    "cgroup_id": _integer("The kernel's id of the cgroup"),
    "tid": _integer("Thread that made the call"),
    "by_uid": _known_or_null("User id of the one who asked, from the control socket's credentials"),
    # The balance of one container on one device, as the engine saw it.
    "limit_bytes": _known_or_null("The most the container may hold on the device"),
    "guarantee_bytes": _known_or_null("The part set aside for it from its start"),
    "assigned_bytes": _known_or_null("What is set aside for it now"),
    "used_bytes": _known_or_null("What it holds: the ledger; of a process that is gone, what is given back for it"),
    "waiting_bytes": _known_or_null("What other requests of the container already waited for on the device"),
    "free_bytes": _known_or_null("Capacity of the device minus all that is assigned"),
    "capacity_bytes": _known_or_null("What may be assigned on the device"),
    # The same as others see it.
    "witness_bytes": _known_or_null("What the eBPF witness saw at the driver boundary"),
    "nvml_bytes": _known_or_null("What NVML reports"),
    "requested_bytes": _known_or_null("Live bytes as asked of the CUDA runtime; never summed with the others"),
    "peak_bytes": _known_or_null("The most it held at one time"),
    "waiting": _known_or_null("Suspended requests"),
    "denied": _known_or_null("Requests denied since the container started"),
    "suspended_ns": _known_or_null("Time that requests spent suspended, summed, those still waiting included"),
    # Limits.
    "old_limit_bytes": _known_or_null("The limit until now; null: there was none"),
    "old_guarantee_bytes": _known_or_null("The guarantee until now; null: there was none"),
    "limits": Field(Kind.OBJECTS, "Limits of groups, one for each group and device", _GROUP_LIMIT),
    "group": _string("A container's group; of a suspended request, the group that has no room", nullable=True),
    # A request and its decision.
    "request": _string("Id of the request, the same in all its records"),
    "api": _string("The call that asked, such as cuMemAlloc_v2", nullable=True),
    "source": _string("Where it comes from: wrapper; label, command, default; boundary, driver, runtime, process"),
    "outcome": _string("What came of it: granted, denied, suspended; alloc, free, fail; done, failed, skipped"),
    "reason": _string("Why, one of the documented words where there is a list of them"),
    "size_bytes": _integer("Bytes asked for, allocated or freed; their sum in a summary"),
    "need_bytes": _integer("What the container must be assigned more for the request to fit"),
    "position": _integer("Place in the queue of the device, from 1"),
    "waited_ns": _integer("From the request's arrival to this decision"),
    "arrived_ns": _integer("CLOCK_MONOTONIC when the request was first made; asked again of a new daemon, it keeps it"),
    "waitable": Field(Kind.BOOLEAN, "Whether the asker could wait; false: the answer had to be a grant or a denial"),
    "forced": Field(Kind.BOOLEAN, "The driver had already taken it; recorded whatever the limit"),
    "algorithm": _string("Name of the scheduling algorithm in force"),
    # What the witness saw.
    "event_mono_ns": _integer("CLOCK_MONOTONIC in the kernel when it happened"),
    "latency_ns": _integer("From the start of the call to its end"),
    "count": _integer("How many"),
    "smallest_bytes": _integer("The smallest of them"),
    "largest_bytes": _integer("The largest of them"),
    "histogram": Field(Kind.COUNT_MAP, "How many by size: the key n counts sizes of at least 2^n, below 2^(n+1)"),
    "period_ns": _integer("How long a time the record sums up"),
    # What the three-way check found.
    "finding": _string("tampered, bypass, unwrapped, external or mismatch; docs/threat-model.md says what each means"),
    "action": _string("What was done about it: log, notify, pause or stop"),
    "lasted_ns": _integer("How long it was a finding"),
    # The daemon and its settings.
    "version": _string("Version of ConvGPU"),
    "kernel": _string("Release of the running kernel", nullable=True),
    "driver": _string("Version of the NVIDIA driver", nullable=True),
    "simulated": Field(Kind.BOOLEAN, "Whether the devices are simulated"),
    "seed": _known_or_null("Seed of the algorithm's random numbers"),
    "safe": Field(Kind.BOOLEAN, "Whether the safety rule is in force"),
    "probes_attached": Field(Kind.STRINGS, "eBPF programs that run"),
    "probes_missing": Field(Kind.STRINGS, "eBPF programs that could not be attached"),
    "gpus": Field(Kind.OBJECTS, "All devices", {**_GPU.parts, **_GPU_MORE}),
    "settings": Field(Kind.TEXT_MAP, "Settings in force, by name, as the configuration file writes them"),
    "old_settings": Field(Kind.TEXT_MAP, "The same until now; one that was not set for a device is not there"),
    "needs_restart": Field(Kind.TEXT_MAP, "Settings that the configuration has and only a restart brings into force"),
    "file": _string("Path of the configuration file", nullable=True),
    "old_capacity_bytes": _integer("The capacity until now"),
    "external_bytes": _known_or_null("What is held outside ConvGPU as NVML shows it, rounded up"),
    # A container.
    "labels": Field(Kind.TEXT_MAP, "The container's labels that concern ConvGPU"),
    "created_ns": _known_or_null("When the container was created, wall clock, nanoseconds since 1970"),
    "priority": _integer("The container's declared priority"),
    "passed": _integer("How often it had been passed over, where it ran already"),
    "queued_ns": _known_or_null("CLOCK_MONOTONIC since when its start waits for its whole guarantee; null: it runs"),
    "restored": Field(Kind.BOOLEAN, "Whether it ran already, with what an earlier daemon had assigned to it"),
    "wait_ns": _known_or_null("How long its requests may wait; null: for ever"),
    "exit_code": _known_or_null("Exit status"),
    # The log itself.
    "cut_bytes": _integer("Bytes of a torn line that were cut off"),
    "cut_sha256": _string("SHA-256 of those bytes"),
    "kept_in": _string("Name of the file, beside the log, that keeps them"),
    "previous_file": _string("Name of the file, beside the log, that holds the records before this one"),
    "key_id": _string("SHA-256 of the public key that the seal is signed for"),
    "signature": _string("Ed25519 over the seal's canonical bytes without this field, 128 hexadecimal digits"),
    "jump_ns": _integer("How far the wall clock jumped ahead, negative: back; times before and after do not compare"),
    "text": _string("What somebody wanted to have in the log"),
}
