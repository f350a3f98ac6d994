# SPDX-License-Identifier: Apache-2.0
"""`convgpu simulate`: the engine in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from convgpu.cli.options import WAIT, ParsedType, examples, format_option
from convgpu.cli.progress import Progress
from convgpu.cli.results import CONTAINERS, RUNS, Outcome, echo_outcomes
from convgpu.core.durations import parse_duration
from convgpu.core.groups import parse_group
from convgpu.core.units import GIB, parse_size
from convgpu.errors import UsageError

if TYPE_CHECKING:
    from convgpu.core.identity import GroupName
    from convgpu.oci.run import Wait
    from convgpu.simulation.result import Settings
    from convgpu.simulation.workload import Device, Workload

_F = TypeVar("_F", bound=Callable[..., Any])
ALL: Final = "all"
_SHAPE_OPTIONS: Final = (
    "containers",
    "sizes",
    "interval",
    "poisson",
    "duration",
    "steps",
    "guarantee",
    "priorities",
    "wait",
)
_DEFAULT_GPU_BYTES: Final = 10 * GIB


def _named_size(text: str) -> tuple[str | None, int]:
    """Read `[NAME=]SIZE`."""
    name, has_name, size = text.rpartition("=")
    if has_name and not name:
        raise UsageError(f"'{text}' gives no name: write NAME=SIZE, such as left=10GiB, or SIZE")
    return (name if has_name else None), parse_size(size)


def _group_limit(text: str) -> tuple[GroupName, int]:
    name, has_size, size = text.partition("=")
    if not has_size:
        raise UsageError(f"'{text}' is not a group with its limit: write lab=20GiB")
    return parse_group(name), parse_size(size)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(parse_size(size) for size in text.split(","))


def _time(text: str) -> int:
    time_ns = parse_duration(text)
    if time_ns is None:
        raise UsageError("here a time comes to an end: write 5s or the like")
    return time_ns


def _times(text: str) -> tuple[int, int]:
    """Read `SHORTEST..LONGEST`, or one time for both."""
    shortest, has_longest, longest = text.partition("..")
    return _time(shortest), _time(longest if has_longest else shortest)


def _algorithms(text: str) -> tuple[str, ...]:
    from convgpu.core.algorithms import known_algorithms, load_algorithm

    if text == ALL:
        return known_algorithms()
    for name in text.split(","):
        load_algorithm(name)
    return tuple(dict.fromkeys(text.split(",")))


def _algorithm_words() -> tuple[str, ...]:
    from convgpu.core.algorithms import known_algorithms

    return (ALL, *known_algorithms())


def settings_options(function: _F) -> _F:
    """Add the options that say how the engine decides and how the result is shown."""
    for option in reversed(
        (
            click.option(
                "--algorithm",
                "algorithms",
                type=ParsedType("name,...|all", _algorithms, _algorithm_words),
                default=ALL,
                show_default=True,
                help="Which algorithms to compare.",
            ),
            click.option("--unsafe", is_flag=True, help="Without the safety rule: shows the deadlocks it prevents."),
            click.option(
                "--max-bypass",
                type=click.IntRange(min=0),
                metavar="N",
                help="How often one that waits may be passed over; 0: no bound.  [default: 64; of a log: as recorded]",
            ),
            click.option(
                "--admit",
                type=click.Choice(["part", "wait"]),
                default="part",
                show_default=True,
                help="Start with the part of the guarantee that there is, or wait for all of it.",
            ),
            format_option(RUNS, CONTAINERS),
            click.option("--per-container", is_flag=True, help="Show every container too (CSV: instead)."),
            click.option(
                "--plot",
                type=click.Path(path_type=Path, dir_okay=False),
                metavar="FILE",
                help="Draw it too, as .svg, .png or .pdf (needs convgpu[plot]).",
            ),
        )
    ):
        function = option(function)
    return function


@click.command(
    epilog=examples(
        "convgpu simulate --containers 100 --gpu 24GiB --sizes 2GiB,4GiB,8GiB --seed 7",
        "convgpu simulate workload.toml --algorithm fifo,best-fit --plot memory.svg",
        "convgpu simulate --scenario paper --format csv",
        "convgpu simulate workload.toml --unsafe --algorithm fifo --per-container",
    )
)
@click.argument("workload", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--scenario", type=click.Choice(["paper"]), help="A ready-made workload instead of a file.")
@click.option(
    "--gpu",
    "gpus",
    type=ParsedType("[name=]size", _named_size),
    multiple=True,
    help="A GPU and what may be assigned on it; give it once for each.  [default: the file's; else 10GiB]",
)
@click.option(
    "--group",
    "groups",
    type=ParsedType("name=size", _group_limit),
    multiple=True,
    help="Limit of a group of the file's containers, on each GPU; once for each.  [default: the file's]",
)
@click.option("--containers", type=click.IntRange(min=1), default=40, metavar="N", help="How many.  [default: 40]")
@click.option(
    "--sizes",
    type=ParsedType("size,...", _sizes),
    default="1GiB,2GiB,4GiB",
    help="Limits, drawn with equal chance.  [default: 1GiB,2GiB,4GiB]",
)
@click.option(
    "--interval",
    type=ParsedType("time", _time),
    default="10s",
    help="From one arrival to the next.  [default: 10s]",
)
@click.option("--poisson", is_flag=True, help="Draw these times, with the interval as their mean.")
@click.option(
    "--duration",
    type=ParsedType("time[..time]", _times),
    default="10s..60s",
    help="How long one runs if it never waits.  [default: 10s..60s]",
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=1, metavar="N", help="It takes its memory in N parts.  [default: 1]"
)
@click.option(
    "--guarantee",
    type=click.IntRange(0, 100),
    default=100,
    metavar="PERCENT",
    help="Guarantee as a part of the limit.  [default: 100]",
)
@click.option(
    "--priorities",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Draw priorities from 0 to N-1.  [default: 1]",
)
@click.option("--wait", type=WAIT, help="How long a request may wait before it is denied.  [default: none: no end]")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Same seed, same output.")
@settings_options
@click.pass_context
def command(
    ctx: click.Context,
    workload: Path | None,
    scenario: str | None,
    gpus: tuple[tuple[str | None, int], ...],
    groups: tuple[tuple[GroupName, int], ...],
    containers: int,
    sizes: tuple[int, ...],
    interval: int,
    poisson: bool,
    duration: tuple[int, int],
    steps: int,
    guarantee: int,
    priorities: int,
    wait: Wait | None,
    seed: int,
    algorithms: tuple[str, ...],
    unsafe: bool,
    max_bypass: int | None,
    admit: str,
    output_format: str,
    per_container: bool,
    plot: Path | None,
) -> None:
    """Run the scheduler over a workload in virtual time and compare algorithms.

    The workload is a file (TOML or CSV, see docs/simulation.md), a scenario, or made from the options and the seed.
    It is the daemon's own engine that decides. Waits are those of containers: how long at least one request waited.
    """
    from convgpu.simulation import generator, paper
    from convgpu.simulation.workload_file import load_workload

    _check_combination(ctx, workload, scenario, gpus)
    devices = _devices(gpus)
    if workload is not None:
        workloads = [load_workload(workload, devices, dict(groups))]
    elif scenario is not None:
        workloads = list(paper.workloads(seed))
    else:
        shape = generator.Shape(
            containers=containers,
            sizes_bytes=sizes,
            interval_ns=interval,
            poisson=poisson,
            shortest_ns=duration[0],
            longest_ns=duration[1],
            steps=steps,
            guarantee_percent=guarantee,
            priorities=priorities,
            wait_ns=None if wait is None else wait.duration_ns,
        )
        workloads = [generator.generate(shape, devices or _devices([(None, _DEFAULT_GPU_BYTES)]), seed)]
    run_and_show(
        workloads,
        make_settings(algorithms, seed, unsafe=unsafe, max_bypass=max_bypass, admit=admit),
        output_format,
        per_container=per_container,
        plot=plot,
    )


def _check_combination(
    ctx: click.Context, workload: Path | None, scenario: str | None, gpus: Sequence[tuple[str | None, int]]
) -> None:
    """Refuse what would otherwise have no effect."""
    if workload is not None and scenario is not None:
        raise click.UsageError("give a workload file or --scenario, not both")
    if workload is None and ctx.params["groups"]:
        raise click.UsageError("--group limits the groups of a workload file; give one")
    if workload is None and scenario is None:
        return
    what = "a workload file" if workload is not None else "--scenario"
    for name in _SHAPE_OPTIONS:
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} makes containers and does not go with {what}, which has its own")
    if scenario is not None and gpus:
        raise click.UsageError("--gpu does not go with --scenario, which has its own")


def _devices(gpus: Iterable[tuple[str | None, int]]) -> list[Device]:
    from convgpu.core.identity import GpuUuid
    from convgpu.simulation.workload import Device

    devices = [
        Device(GpuUuid(name or str(number)), name or str(number), size) for number, (name, size) in enumerate(gpus)
    ]
    if len({device.gpu for device in devices}) < len(devices):
        raise click.UsageError("two GPUs have the same name")
    return devices


def make_settings(
    algorithms: Sequence[str], seed: int, *, unsafe: bool, max_bypass: int | None, admit: str
) -> list[Settings]:
    """Return the settings of each run."""
    from convgpu.core.bypass import DEFAULT_MAX_BYPASS
    from convgpu.simulation.result import Settings

    return [
        Settings(
            algorithm=algorithm,
            seed=seed,
            safe=not unsafe,
            max_bypass=DEFAULT_MAX_BYPASS if max_bypass is None else max_bypass,
            admit="wait" if admit == "wait" else "part",
        )
        for algorithm in algorithms
    ]


def run_and_show(
    workloads: Sequence[Workload],
    settings: Sequence[Settings],
    output_format: str,
    *,
    per_container: bool,
    plot: Path | None,
) -> list[Outcome]:
    """Run every workload under every setting, print the results, and draw them if asked."""
    from convgpu.simulation import charts
    from convgpu.simulation.simulator import Simulation

    if plot is not None:
        charts.require(plot)  # before a long run, not after it
    outcomes = []
    with Progress("Simulating", sum(len(workload.containers) for workload in workloads) * len(settings)) as progress:
        for workload in workloads:
            for setting in settings:
                keep_timeline = plot is not None and len(workloads) == 1
                run = Simulation(workload, setting, keep_timeline=keep_timeline, on_end=progress.step)
                outcomes.append(Outcome(workload, run.run()))
    echo_outcomes(outcomes, output_format, per_container=per_container)
    if plot is not None:
        charts.draw([(outcome.workload, outcome.result) for outcome in outcomes], plot)
    return outcomes
