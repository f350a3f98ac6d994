# SPDX-License-Identifier: Apache-2.0
"""`convgpu replay`: a recorded log under another algorithm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from convgpu.audit.files import read_lines, size_bytes
from convgpu.cli.audit_log import files_of
from convgpu.cli.options import examples
from convgpu.cli.progress import Progress
from convgpu.cli.simulate import run_and_show, settings_options

if TYPE_CHECKING:
    from convgpu.simulation.events import Event

_DIFFERENCES_SHOWN: Final = 20


@click.command(
    epilog=examples(
        "convgpu replay /var/log/convgpu/audit.jsonl --algorithm all",
        "convgpu replay audit.jsonl.gz --algorithm fair,best-fit --plot memory.svg",
        "convgpu replay audit.jsonl --check",
    )
)
@click.argument("log", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--check", "check_only", is_flag=True, help="Only: does the engine decide as recorded? Status 1: no.")
@click.option("--seed", type=int, metavar="N", help="For algorithms that use chance.  [default: as recorded]")
@settings_options
@click.pass_context
def command(
    ctx: click.Context,
    log: Path,
    check_only: bool,
    seed: int | None,
    algorithms: tuple[str, ...],
    unsafe: bool,
    max_bypass: int | None,
    admit: str,
    output_format: str,
    per_container: bool,
    plot: Path | None,
) -> None:
    """Run the containers of the audit log LOG through another algorithm, in virtual time.

    Containers arrive as they did. A process does what it did, each time so long after the answers that it had by then:
    requests that wait longer or shorter than when they were recorded move what came after them. docs/simulation.md
    says what a recording cannot tell.
    """
    from convgpu.simulation.events import ContainerSeen, DaemonStarted
    from convgpu.simulation.rebuild import rebuild
    from convgpu.simulation.recording import read_recording

    files = files_of(log)
    with Progress("Reading", size_bytes(files)) as progress:
        events = read_recording(read_lines(files, progress.reach), str(log))
    if any(isinstance(event, ContainerSeen) and event.restored is None for event in events):
        click.echo(
            f"convgpu: {log} is of a version that did not record what processes give back: the replay is a rough one",
            err=True,
        )
    if check_only:
        ctx.exit(_check(log, events))
    start = events[0]
    assert isinstance(start, DaemonStarted)  # noqa: S101  # as `read_recording` makes sure
    recorded = start.simulated()
    settings = replace(
        recorded,
        seed=recorded.seed if seed is None else seed,
        safe=recorded.safe and not unsafe,
        max_bypass=recorded.max_bypass if max_bypass is None else max_bypass,
        admit="wait" if admit == "wait" else "part",
    )
    workload = rebuild(events, f"{log.name}, recorded under {recorded.algorithm}")
    run_and_show(
        [workload],
        [replace(settings, algorithm=algorithm) for algorithm in algorithms],
        output_format,
        per_container=per_container,
        plot=plot,
    )


def _check(log: Path, events: list[Event]) -> int:
    """Say whether the engine decides as recorded; return the exit status."""
    from convgpu.simulation.check import check

    with Progress("Comparing", len(events)) as progress:
        report = check(_through(events, progress))
    for difference in report.differences[:_DIFFERENCES_SHOWN]:
        click.echo(f"record {difference.seq or '?'}: {difference.message}", err=True)
    more = len(report.differences) - _DIFFERENCES_SHOWN
    if more > 0:
        click.echo(f"... and {more} more", err=True)
    outcome = _counted(len(report.differences), "difference") if report.differences else "all as recorded"
    compared = f"{_counted(report.decisions, 'decision')} in {_counted(report.daemons, 'run')} of the daemon"
    click.echo(f"{log}: {compared}, {outcome}")
    return 1 if report.differences else 0


def _through(events: Iterable[Event], progress: Progress) -> Iterator[Event]:
    for event in events:
        yield event
        progress.step()


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
