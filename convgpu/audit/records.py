# SPDX-License-Identifier: Apache-2.0
"""The record types: a closed set, each with the fields it must and may have, and the sentence that a person reads.

What a log can mean is fixed here and in `audit.fields`, and nowhere else: writer, schema and documentation read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from convgpu.core import sentences
from convgpu.core.units import format_size

FORMAT_VERSION: Final = 1
"""The field `v`: raised when the meaning of a field changes, not when a type or field is added."""


@dataclass(frozen=True, slots=True)
class RecordType:
    """One type of record.

    Attributes:
        name: As in the field `type`.
        meaning: One line for the data dictionary.
        required: Names of fields that must be there.
        optional: Names of fields that may be there.
        sentence: Says a record of this type to a person.
        durable: Whether it must be on the disk before the next thing happens; others may be late by the sync interval.
    """

    name: str
    meaning: str
    required: frozenset[str]
    optional: frozenset[str]
    sentence: Callable[[Mapping[str, Any]], str]
    durable: bool


def _who(fields: Mapping[str, Any]) -> str:
    container = fields.get("container")
    name = (container.get("name") or container["id"][:12]) if container else "outside"
    process = fields.get("process")
    return f"{name}[{process['pid']}]" if process else name


def _size(fields: Mapping[str, Any], name: str) -> str:
    return format_size(fields.get(name))


def _held(fields: Mapping[str, Any]) -> str:
    return f"holds {_size(fields, 'used_bytes')}{sentences.where(fields)}"


def _because(fields: Mapping[str, Any]) -> str:
    reason = fields.get("reason")
    return f": {reason}" if reason else ""


def _settings(fields: Mapping[str, Any]) -> str:
    old = fields.get("old_settings", {})
    changed = [f"{name} {old.get(name, 'not set')} -> {new}" for name, new in fields["settings"].items()]
    changed += [f"{name} {value} -> not set" for name, value in old.items() if name not in fields["settings"]]
    later = [f"{name} {value} needs a restart" for name, value in fields.get("needs_restart", {}).items()]
    return ", ".join(changed + later)


def _group_limits(fields: Mapping[str, Any]) -> str:
    changes = [each for each in fields["limits"] if each["limit_bytes"] != each.get("old_limit_bytes")]
    return ", ".join(f"{each['group']} {_old_and_new(each)} on GPU {each['index']}" for each in changes)


def _old_and_new(change: Mapping[str, Any]) -> str:
    sizes = (change.get("old_limit_bytes"), change["limit_bytes"])
    return " -> ".join("none" if size_bytes is None else format_size(size_bytes) for size_bytes in sizes)


def _figures(fields: Mapping[str, Any]) -> str:
    names = (("ledger", "used_bytes"), ("witness", "witness_bytes"), ("NVML", "nvml_bytes"))
    if "external_bytes" in fields:
        names = (("assigned", "assigned_bytes"), ("capacity", "capacity_bytes"), ("outside", "external_bytes"))
    return ", ".join(f"{figure} {_size(fields, name)}" for figure, name in names)


def _define(
    name: str,
    meaning: str,
    required: str,
    optional: str,
    sentence: Callable[[Mapping[str, Any]], str],
    *,
    durable: bool = True,
) -> RecordType:
    return RecordType(name, meaning, frozenset(required.split()), frozenset(optional.split()), sentence, durable)


_ACCOUNT: Final = "limit_bytes guarantee_bytes assigned_bytes used_bytes"
_FIGURES: Final = "peak_bytes witness_bytes nvml_bytes requested_bytes waiting denied suspended_ns"
_NUMBERS: Final = f"{_ACCOUNT} waiting_bytes free_bytes capacity_bytes"
_ASK: Final = "container process size_bytes"
_ASK_MORE: Final = f"gpu api source outcome request algorithm seed forced waitable arrived_ns {_NUMBERS}"
_CHECKED: Final = "used_bytes witness_bytes nvml_bytes processes"
_CHECKED_MORE: Final = "container assigned_bytes capacity_bytes external_bytes"
_SEEN: Final = "source size_bytes"
_SEEN_MORE: Final = "container process gpu cgroup_id tid outcome api latency_ns event_mono_ns"

RECORD_TYPES: Final[Mapping[str, RecordType]] = {
    record_type.name: record_type
    for record_type in (
        _define(
            "daemon.start",
            "The daemon starts, and what is in force",
            "version algorithm",
            "kernel driver simulated seed safe probes_attached probes_missing gpus settings limits",
            lambda f: f"ConvGPU {f['version']} starts, algorithm {f['algorithm']}",
        ),
        _define(
            "daemon.stop",
            "The daemon stops on purpose",
            "",
            "reason",
            lambda f: f"ConvGPU stops{_because(f)}",
        ),
        _define(
            "config.changed",
            "The configuration was read again; what changed",
            "settings old_settings",
            "needs_restart file by_uid",
            lambda f: f"configuration read again: {_settings(f)}",
        ),
        _define(
            "config.rejected",
            "The configuration was read again and has mistakes: the old settings hold",
            "reason",
            "file by_uid",
            lambda f: f"configuration rejected, the old settings hold{_because(f)}",
        ),
        _define(
            "capacity.changed",
            "A device may be assigned more or less than until now",
            "gpu old_capacity_bytes capacity_bytes reason",
            "external_bytes",
            lambda f: (
                f"capacity {_size(f, 'old_capacity_bytes')} -> {_size(f, 'capacity_bytes')}{sentences.where(f)}, "
                f"held outside {_size(f, 'external_bytes')}{_because(f)}"
            ),
        ),
        _define(
            "container.seen",
            "A container that ConvGPU guards, seen for the first time by this daemon",
            "container",
            f"gpu gpus source group labels created_ns priority wait_ns restored passed queued_ns {_ACCOUNT}",
            lambda f: f"{_who(f)} seen, limit {_size(f, 'limit_bytes')}",
        ),
        _define(
            "container.gone",
            "It ended; all it held is free",
            "container",
            f"exit_code reason {_ACCOUNT} {_FIGURES}",
            lambda f: f"{_who(f)} is gone, its share is free",
        ),
        _define(
            "process.seen",
            "A process of a container joins; with used_bytes: a restarted daemon finds it, once for each device",
            "process",
            "container cgroup_id gpu used_bytes",
            lambda f: f"{_who(f)} found again, {_held(f)}" if "used_bytes" in f else f"{_who(f)} joins",
            durable=False,
        ),
        _define(
            "process.gone",
            "A process ended; what it held is given back without its help",
            "process used_bytes",
            "container cgroup_id gpu exit_code reason",
            lambda f: f"{_who(f)} is gone, {_size(f, 'used_bytes')} given back for it",
            durable=False,
        ),
        _define(
            "limit.set",
            "A limit is given or changed",
            "container old_limit_bytes limit_bytes guarantee_bytes",
            "gpu source by_uid reason old_guarantee_bytes used_bytes assigned_bytes",
            lambda f: (
                f"{_who(f)}: limit {_size(f, 'old_limit_bytes')} -> {_size(f, 'limit_bytes')}{sentences.where(f)}"
            ),
        ),
        _define(
            "limit.removed",
            "A limit set by command is taken away; what holds instead",
            "container old_limit_bytes",
            "gpu source by_uid reason old_guarantee_bytes limit_bytes guarantee_bytes used_bytes assigned_bytes",
            lambda f: f"{_who(f)}: limit {_size(f, 'old_limit_bytes')} removed{sentences.where(f)}",
        ),
        _define(
            "group.limits",
            "Limits of groups are given, changed or taken away: all limits of each group that is named",
            "limits",
            "source by_uid reason",
            lambda f: f"limits of groups: {_group_limits(f)}",
        ),
        _define(
            "decision.granted",
            "A request is granted at once",
            f"{_ASK} waited_ns",
            _ASK_MORE,
            sentences.granted,
        ),
        _define(
            "decision.denied",
            "A request is denied",
            f"{_ASK} reason waited_ns",
            _ASK_MORE,
            sentences.denied,
        ),
        _define(
            "decision.suspended",
            "A request has to wait",
            f"{_ASK} need_bytes position",
            f"{_ASK_MORE} waited_ns group",
            sentences.suspended,
        ),
        _define(
            "decision.resumed",
            "A request that waited is granted",
            f"{_ASK} waited_ns",
            _ASK_MORE,
            sentences.resumed,
        ),
        _define(
            "start.suspended",
            "A container waits for its whole guarantee before it starts",
            "container guarantee_bytes",
            "gpu",
            sentences.start_suspended,
        ),
        _define(
            "start.admitted",
            "It has all of it, and may start",
            "container waited_ns",
            "",
            sentences.start_admitted,
        ),
        _define(
            "start.denied",
            "It is not started",
            "container waited_ns reason",
            "",
            sentences.start_denied,
        ),
        _define(
            "decision.withdrawn",
            "A request that waited is over without an answer: its connection ended",
            f"{_ASK} request",
            "gpu source",
            sentences.withdrawn,
            durable=False,
        ),
        _define(
            "credit.reclaimed",
            "What a process was granted and does not use is taken back: it holds so much less",
            f"{_ASK} gpu reason",
            "",
            lambda f: f"{_who(f)}: {sentences.asked(f)} taken back{_because(f)}",
            durable=False,
        ),
        _define(
            "witness.alloc",
            "The witness saw memory taken, or refused by the driver",
            _SEEN,
            _SEEN_MORE,
            lambda f: f"{_who(f)}: {sentences.asked(f)} taken, seen at the {f['source']}",
            durable=False,
        ),
        _define(
            "witness.free",
            "The witness saw memory given back",
            _SEEN,
            _SEEN_MORE,
            lambda f: f"{_who(f)}: {sentences.asked(f)} given back, seen at the {f['source']}",
            durable=False,
        ),
        _define(
            "witness.summary",
            "Small allocations or frees, summed",
            f"{_SEEN} count outcome",
            "container process gpu cgroup_id smallest_bytes largest_bytes histogram period_ns",
            lambda f: (
                f"{_who(f)}: {f['count']} x {f['outcome']}, {sentences.asked(f)} in all, seen at the {f['source']}"
            ),
            durable=False,
        ),
        _define(
            "snapshot",
            "One container on one device, without a change: reading may start at a round of these",
            "container gpu",
            f"{_ACCOUNT} {_FIGURES}",
            lambda f: f"{_who(f)}: holds {_size(f, 'used_bytes')} of {_size(f, 'limit_bytes')}{sentences.where(f)}",
            durable=False,
        ),
        _define(
            "reconcile",
            "What the daemon found other than it thought, or took over, and what it did",
            "",
            f"reason container process gpu size_bytes count probes_attached probes_missing {_ACCOUNT} {_FIGURES}",
            lambda f: f"{_who(f)} reconciled{_because(f)}",
        ),
        _define(
            "finding.raised",
            "Ledger, witness and NVML do not agree, or a page was changed by its owner, and it lasts",
            f"finding gpu reason action {_CHECKED}",
            _CHECKED_MORE,
            lambda f: f"{_who(f)}: {f['finding']}{sentences.where(f)}{_because(f)} ({_figures(f)})",
        ),
        _define(
            "finding.cleared",
            "It is so no longer",
            f"finding gpu reason lasted_ns {_CHECKED}",
            _CHECKED_MORE,
            lambda f: f"{_who(f)}: {f['finding']}{sentences.where(f)} is over{_because(f)} ({_figures(f)})",
        ),
        _define(
            "finding.action",
            "What the daemon was told to do about a finding, and whether it could",
            "finding action outcome",
            "container gpu reason",
            lambda f: f"{_who(f)}: {f['action']} because of {f['finding']}: {f['outcome']}{_because(f)}",
        ),
        _define(
            "loss",
            "Something could not be recorded",
            "reason count",
            "container gpu period_ns",
            lambda f: f"{f['count']} records lost{_because(f)}",
        ),
        _define(
            "log.repaired",
            "A crash had torn the last line",
            "cut_bytes cut_sha256 kept_in",
            "",
            lambda f: f"a torn last line of {f['cut_bytes']} bytes was cut off and kept in {f['kept_in']}",
        ),
        _define(
            "log.rotated",
            "A new file begins; the chain goes on from the last record of the file before",
            "previous_file",
            "reason",
            lambda f: f"a new file begins; {f['previous_file']} holds what was before",
        ),
        _define(
            "seal",
            "All records before it are sealed: a change of any of their bytes is found",
            "reason",
            "key_id signature",
            lambda f: f"sealed up to here ({f['reason']}{', signed' if 'signature' in f else ''})",
        ),
        _define(
            "clock.jump",
            "The wall clock was set, or the machine slept; the monotonic clock went on",
            "jump_ns",
            "",
            lambda f: (
                f"the wall clock jumped {abs(f['jump_ns']) / 1e9:.3f} s {'ahead' if f['jump_ns'] > 0 else 'back'}"
            ),
        ),
        _define(
            "note",
            "Somebody wrote a note into the log",
            "text",
            "container by_uid",
            lambda f: f"note{' on ' + _who(f) if 'container' in f else ''}: {f['text']}",
        ),
    )
}
