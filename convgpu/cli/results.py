# SPDX-License-Identifier: Apache-2.0
"""What `simulate` and `replay` print: tables that fit 80 columns, and all figures for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Final

import click

from convgpu.cli.listing import Listing
from convgpu.cli.output import TABLE, echo_records, echo_table
from convgpu.core.units import format_size
from convgpu.simulation.result import ContainerResult, DeviceResult, Result, Settings, Summary
from convgpu.simulation.workload import Workload

_NAMES_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """One workload under one setting, and what came of it."""

    workload: Workload
    result: Result


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run of one workload under one setting.

    Attributes:
        workload: What was run, in words.
        settings: How the engine decided.
        summary: All figures of the run.
        used: Mean of what processes held, as a part of what all devices have together.
        assigned: Mean of what was set aside, in the same way.
        devices: The figures of each device.
        containers: Those of each container; null without --per-container.
    """

    workload: str
    settings: Settings
    summary: Summary
    used: float
    assigned: float
    devices: tuple[DeviceResult, ...]
    containers: tuple[ContainerResult, ...] | None


RUNS: Final = Listing(RunRecord)
CONTAINERS: Final = Listing(RunRecord, parts="containers", shared=("workload", "algorithm"), of="with --per-container")


def echo_outcomes(outcomes: Sequence[Outcome], output_format: str, *, per_container: bool) -> None:
    """Print all runs in the format asked for."""
    if output_format != TABLE:
        records = [_record(outcome, per_container=per_container) for outcome in outcomes]
        echo_records(CONTAINERS if per_container else RUNS, records, output_format)
    elif len({id(outcome.workload) for outcome in outcomes}) > 1:
        _echo_series(outcomes)
    else:
        _echo_comparison(outcomes)
        if per_container:
            for outcome in outcomes:
                _echo_containers(outcome)


def _record(outcome: Outcome, *, per_container: bool) -> RunRecord:
    result = outcome.result
    used, assigned = _of_all_devices(result)
    return RunRecord(
        workload=outcome.workload.title,
        settings=result.settings,
        summary=result.summary,
        used=round(used, 6),
        assigned=round(assigned, 6),
        devices=result.devices,
        containers=result.containers if per_container else None,
    )


def _echo_comparison(outcomes: Sequence[Outcome]) -> None:
    workload = outcomes[0].workload
    click.echo(workload.title)
    click.echo(f"{_capacities(workload)}{_unusual(outcomes[0].result.settings)}")
    click.echo()
    echo_table(
        ("ALGORITHM", "FINISH", "MEAN WAIT", "WORST WAIT", "USED", "ASSIGNED", "JAIN"),
        [_comparison_row(outcome.result) for outcome in outcomes],
    )
    for outcome in outcomes:
        for line in _remarks(outcome.result):
            click.echo(f"{outcome.result.settings.algorithm}: {line}")


def _capacities(workload: Workload) -> str:
    return ", ".join(f"GPU {device.name} has {format_size(device.capacity_bytes)}" for device in workload.devices)


def _comparison_row(result: Result) -> tuple[str, ...]:
    summary = result.summary
    used, assigned = _of_all_devices(result)
    return (
        result.settings.algorithm,
        "never" if summary.stuck else _seconds(summary.finish_s),
        _seconds(summary.mean_suspended_s),
        _seconds(summary.worst_suspended_s),
        f"{used:.1%}",
        f"{assigned:.1%}",
        "N/A" if summary.jain is None else f"{summary.jain:.3f}",
    )


def _unusual(settings: Settings) -> str:
    """Settings other than the usual: without them the table would be misread."""
    usual = Settings(algorithm=settings.algorithm)
    said = []
    if not settings.safe:
        said.append("unsafe")
    if settings.max_bypass != usual.max_bypass:
        said.append(f"max-bypass {settings.max_bypass}")
    if settings.admit != usual.admit:
        said.append(f"admit {settings.admit}")
    return "; " + ", ".join(said) if said else ""


def _remarks(result: Result) -> Iterator[str]:
    """What the table has no column for, because it should not happen."""
    summary = result.summary
    if summary.stuck:
        yield (
            f"deadlock: from {_seconds(summary.deadlock_since_s)} on, {_containers(summary.stuck)} can never go on "
            f"({_names(result.containers, 'stuck')})"
        )
    if summary.failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.denials.items())
        yield f"{_containers(summary.failed)} failed ({_names(result.containers, 'failed')}); denied: {reasons}"
    if summary.refused:
        names = _names(result.containers, "refused")
        yield f"{_containers(summary.refused)} could not start: the limit is more than a GPU has ({names})"
    if summary.deviations:
        yield f"{summary.deviations} recorded steps could not be done as they were recorded"


def _containers(number: int) -> str:
    return f"{number} container{'' if number == 1 else 's'}"


def _names(containers: Iterable[ContainerResult], outcome: str) -> str:
    names = [container.name for container in containers if container.outcome == outcome]
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _echo_series(outcomes: Sequence[Outcome]) -> None:
    """Several workloads: a table a figure, a line a workload, a column an algorithm."""
    title = commonprefix([outcome.workload.title for outcome in outcomes]).rstrip(" ,")  # noqa: RUF071  # words, not paths
    click.echo(title)
    click.echo(f"{_capacities(outcomes[0].workload)}{_unusual(outcomes[0].result.settings)}")
    for heading, field in (("finish", "finish_s"), ("mean wait", "mean_suspended_s")):
        click.echo()
        click.echo(f"{heading.capitalize()}, in seconds, by number of containers:")
        _echo_matrix(outcomes, field)
    for outcome in outcomes:
        for line in _remarks(outcome.result):
            click.echo(f"{outcome.result.summary.containers}, {outcome.result.settings.algorithm}: {line}")


def _echo_matrix(outcomes: Sequence[Outcome], field: str) -> None:
    algorithms = list(dict.fromkeys(outcome.result.settings.algorithm for outcome in outcomes))
    lines: dict[int, list[str]] = {}
    for outcome in outcomes:
        value = getattr(outcome.result.summary, field)
        line = lines.setdefault(outcome.result.summary.containers, [])
        line.append("never" if value is None else f"{value:.1f}")
    echo_table(("N", *algorithms), [(str(number), *line) for number, line in lines.items()])


def _echo_containers(outcome: Outcome) -> None:
    click.echo()
    click.echo(f"{outcome.result.settings.algorithm}:")
    echo_table(
        ("NAME", "OUTCOME", "ARRIVED", "ENDED", "SUSPENDED"),
        [
            (each.name, each.outcome, _seconds(each.arrived_s), _seconds(each.ended_s), _seconds(each.suspended_s))
            for each in outcome.result.containers
        ],
    )


def _of_all_devices(result: Result) -> tuple[float, float]:
    """Used and assigned as parts of what all devices have together."""
    whole = sum(device.capacity_bytes for device in result.devices)
    used = sum(device.used * device.capacity_bytes for device in result.devices)
    assigned = sum(device.assigned * device.capacity_bytes for device in result.devices)
    return used / whole, assigned / whole


def _seconds(time_s: float | None) -> str:
    """Say a time to a person: short ones, which recordings of tests have, to the millisecond."""
    if time_s is None:
        return "N/A"
    return f"{time_s:.3f}s" if 0 < time_s < 1 else f"{time_s:.1f}s"
