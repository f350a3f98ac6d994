# SPDX-License-Identifier: Apache-2.0
"""Pictures of runs: memory and waiting over time, and algorithms side by side. The only module that needs matplotlib.

The same runs give the same file: SVG and PDF carry no date, and SVG's ids are made from a fixed salt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from os.path import commonprefix
from pathlib import Path
from typing import Any, Final

from convgpu.core.units import GIB, format_size
from convgpu.errors import EnvironmentMissingError, UsageError
from convgpu.simulation.result import DeviceResult, Result, Summary, Timeline
from convgpu.simulation.workload import Workload

SUFFIXES: Final = (".svg", ".png", ".pdf")

_USED: Final = "#0072b2"
_ASSIGNED: Final = "#f6d58e"
_WAITING: Final = "#d55e00"
_COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999")
"""Okabe and Ito's palette: told apart by the colour-blind too."""
_MOST_POINTS: Final = 800
"""As many as an eye can tell apart; longer lines are drawn as means over so many equal times."""
_SECOND_NS: Final = 1_000_000_000
_TIME_UNITS: Final = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (2 * 60, 60, "minutes"), (0, 1, "seconds"))

Run = tuple[Workload, Result]


def require(path: Path) -> None:
    """Check that a picture can be made.

    Raises:
        UsageError: The name of the file says no form that is known.
        EnvironmentMissingError: matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"'{path}' says no form of picture: its name must end in {', '.join(SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise EnvironmentMissingError(
            "a picture needs matplotlib, which is not installed", next_step="install it: pip install 'convgpu[plot]'"
        )


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw runs into a file: one workload over time, or several workloads by their number of containers.

    Raises:
        UsageError, EnvironmentMissingError: As `require`.
    """
    require(path)
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {
        "svg.hashsalt": "convgpu",
        "svg.fonttype": "path",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
    }
    with mpl.rc_context(style):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        if len({id(workload) for workload, _ in runs}) > 1:
            _draw_series(figure, runs)
        else:
            _draw_timelines(figure, runs)
        # PNG has no date of its own; SVG and PDF must be told to have none.
        dateless = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        figure.savefig(path, dpi=150, metadata=dateless.get(path.suffix.lower(), {}))


def _draw_timelines(figure: Any, runs: Sequence[Run]) -> None:
    """A row an algorithm: a panel a device, one for those that wait; below, the figures side by side."""
    workload = runs[0][0]
    columns = len(workload.devices) + 1
    bars_inches = 0.7 + 0.3 * len(runs) if len(runs) > 1 else 0.0
    figure.set_size_inches(max(9.0, 4.0 * columns), 1.2 + 1.7 * len(runs) + bars_inches)
    figure.suptitle(workload.title, fontsize=11)
    above, below = (figure, None)
    if len(runs) > 1:
        above, below = figure.subfigures(2, 1, height_ratios=(0.8 + 1.7 * len(runs), bars_inches))
    last_s = max(_last_s(result) for _, result in runs)
    factor, unit = next((factor, unit) for least, factor, unit in _TIME_UNITS if last_s >= least)
    panels = above.subplots(len(runs), columns, squeeze=False, sharex=True, sharey="col")
    for line, (_, result) in zip(panels, runs, strict=True):
        for panel, device, timeline in zip(line, result.devices, result.timelines, strict=False):
            _draw_memory(panel, device, timeline, factor)
        _draw_waiting(line[-1], result, factor)
        line[0].set_ylabel(f"{result.settings.algorithm}\nGiB")
    for panel, device in zip(panels[0], runs[0][1].devices, strict=False):
        panel.set_title(f"Memory of GPU {device.name}, {format_size(device.capacity_bytes)}")
    panels[0][-1].set_title("Requests that wait")
    panels[0][-1].set_ylim(bottom=0)  # not before all lines are there: it ends the search for the top
    for panel in panels[-1]:
        panel.set_xlabel(unit)
        panel.set_xlim(0, last_s / factor)
    above.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    if below is not None:
        _draw_bars(below, [result for _, result in runs])


def _draw_memory(panel: Any, device: DeviceResult, timeline: Timeline, factor: int) -> None:
    at_s, used = _curve(timeline, timeline.used_bytes)
    _, assigned = _curve(timeline, timeline.assigned_bytes)
    times = [time_s / factor for time_s in at_s]
    for name, sizes, colour in (("assigned, not used", assigned, _ASSIGNED), ("used", used, _USED)):
        panel.fill_between(times, [size / GIB for size in sizes], step="post", color=colour, linewidth=0, label=name)
    _, capacity = _curve(timeline, timeline.capacity_bytes)
    line = {"color": "black", "linewidth": 0.8, "linestyle": "--", "label": "capacity"}
    panel.step(times, [size / GIB for size in capacity], where="post", **line)
    panel.set_ylim(0, device.capacity_bytes / GIB * 1.08)


def _draw_waiting(panel: Any, result: Result, factor: int) -> None:
    for number, (device, timeline) in enumerate(zip(result.devices, result.timelines, strict=True)):
        at_s, waiting = _curve(timeline, timeline.waiting)
        colour = _WAITING if len(result.devices) == 1 else _COLOURS[number % len(_COLOURS)]
        times = [time_s / factor for time_s in at_s]
        panel.fill_between(times, waiting, step="post", color=colour, alpha=0.25, linewidth=0)
        panel.step(times, waiting, where="post", color=colour, linewidth=0.9, label=f"GPU {device.name}")
    panel.yaxis.get_major_locator().set_params(integer=True)
    if len(result.devices) > 1:
        panel.legend(frameon=False, fontsize=7)


def _curve(timeline: Timeline, values: Iterable[int]) -> tuple[list[float], list[float]]:
    """A line as seconds and values; one of many points as means over equal times."""
    at_ns = timeline.at_ns
    began_ns = at_ns[0]
    if len(at_ns) <= _MOST_POINTS:
        return [(time_ns - began_ns) / _SECOND_NS for time_ns in at_ns], [float(value) for value in values]
    width_ns = max(1, (at_ns[-1] - began_ns) // _MOST_POINTS)
    areas = [0] * (_MOST_POINTS + 2)
    steps = list(values)
    for begin_ns, end_ns, value in zip(at_ns, at_ns[1:], steps, strict=False):
        begin, end = begin_ns - began_ns, end_ns - began_ns
        while begin < end:
            column = begin // width_ns
            part = min(end, (column + 1) * width_ns) - begin
            areas[column] += value * part
            begin += part
    times = [column * width_ns / _SECOND_NS for column in range(_MOST_POINTS)]
    return times, [area / width_ns for area in areas[:_MOST_POINTS]]


def _last_s(result: Result) -> float:
    return max((line.at_ns[-1] - line.at_ns[0]) / _SECOND_NS for line in result.timelines)


_BARS: Final[tuple[tuple[str, Callable[[Summary], float | None]], ...]] = (
    ("Finish, s", lambda summary: summary.finish_s),
    ("Mean wait, s", lambda summary: summary.mean_suspended_s),
    ("Worst wait, s", lambda summary: summary.worst_suspended_s),
    ("Jain's index", lambda summary: summary.jain),
)


def _draw_bars(figure: Any, results: Sequence[Result]) -> None:
    names = [result.settings.algorithm for result in results]
    for panel, (title, figure_of) in zip(figure.subplots(1, len(_BARS), sharey=True), _BARS, strict=True):
        values = [figure_of(result.summary) for result in results]
        colours = [_COLOURS[number % len(_COLOURS)] for number in range(len(results))]
        bars = panel.barh(names, [value or 0 for value in values], color=colours)
        labels = ["never" if value is None else _few_digits(value) for value in values]
        panel.bar_label(bars, labels, padding=2, fontsize=7)
        panel.margins(x=0.25)
        panel.set_title(title)
        panel.xaxis.set_visible(False)
        panel.spines.bottom.set_visible(False)
    panel.invert_yaxis()


def _few_digits(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _draw_series(figure: Any, runs: Sequence[Run]) -> None:
    """Finish and mean wait by number of containers, a line an algorithm."""
    figure.set_size_inches(10, 4)
    figure.suptitle(commonprefix([workload.title for workload, _ in runs]).rstrip(" ,"), fontsize=11)  # noqa: RUF071  # words, not paths
    panels = figure.subplots(1, 2)
    algorithms = list(dict.fromkeys(result.settings.algorithm for _, result in runs))
    for panel, (title, figure_of) in zip(panels, _BARS[:2], strict=True):
        for number, algorithm in enumerate(algorithms):
            summaries = [result.summary for _, result in runs if result.settings.algorithm == algorithm]
            points = [(summary.containers, figure_of(summary)) for summary in summaries]
            panel.plot(
                [containers for containers, _ in points],
                [float("nan") if value is None else value for _, value in points],
                marker="os^Dvx*"[number % 7],
                markersize=4,
                linewidth=1.2,
                linestyle=("-", "--")[number // 4 % 2],  # what lies on another line shows through
                color=_COLOURS[number % len(_COLOURS)],
                label=algorithm,
            )
        panel.set_title(title)
        panel.set_xlabel("containers")
        panel.set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
