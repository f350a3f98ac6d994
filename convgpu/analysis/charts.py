# SPDX-License-Identifier: Apache-2.0
"""Pictures of a study as SVG texts, to stand in a page. The only module that needs matplotlib.

Ink and lines are in the page's own colours (`var(--ink)`, `var(--faint)`), so that one picture is good on light and on
dark paper. The same study gives the same text: no date, and ids made from a fixed salt.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from io import StringIO
from typing import Any, Final

from convgpu.analysis.study import Contained, Line, OnDevice, Study, united
from convgpu.core.units import GIB, MIB
from convgpu.errors import EnvironmentMissingError

_INK: Final = "#0a0b0c"
_FAINT: Final = "#8a8b8c"
_HELD: Final = "#56b4e9"
_IN_USE: Final = "#e69f00"
_PROGRESS: Final = "#0072b2"
_WAITS: Final = "#d55e00"
_OF_DECISION: Final = {
    "granted": "#56b4e9",
    "resumed": "#009e73",
    "suspended": "#e69f00",
    "denied": "#d55e00",
    "withdrawn": "#999999",
}
"""All of Okabe and Ito's palette: told apart by the colour-blind too."""
MOST_CONTAINERS: Final = 24
"""So many have a panel of their own; the page says how many are left out."""
_PANELS_A_PICTURE: Final = 6
"""A picture that is taller than a sheet of paper would be cut in two."""
_MOST_POINTS: Final = 2000
_BINS: Final = 80
_WIDTH_INCHES: Final = 9.0
_SECOND_NS: Final = 1_000_000_000
_TIME_UNITS: Final = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (2 * 60, 60, "minutes"), (0, 1, "seconds"))


def require() -> None:
    """Check that pictures can be made.

    Raises:
        EnvironmentMissingError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise EnvironmentMissingError(
            "a report needs matplotlib, which is not installed", next_step="install it: pip install 'convgpu[plot]'"
        )


class _Times:
    """The time axis of one log: from its beginning, in a unit that gives small numbers."""

    def __init__(self, study: Study) -> None:
        self._begin_ns = study.begin_ns
        last_s = max(1e-9, (study.end_ns - study.begin_ns) / _SECOND_NS)
        self._factor, self.unit = next((factor, unit) for least, factor, unit in _TIME_UNITS if last_s >= least)
        self.end = last_s / self._factor

    def of(self, time_ns: int) -> float:
        """Return a time on the axis."""
        return (time_ns - self._begin_ns) / _SECOND_NS / self._factor


def shown(study: Study) -> list[Contained]:
    """Return the containers that have panels: those that held most, in the order in which they came."""
    held = [each for each in study.containers.values() if each.devices]
    most = sorted(
        held, key=lambda each: -max((max(d.held.values, default=0) for d in each.devices.values()), default=0)
    )
    kept = {each.container_id for each in most[:MOST_CONTAINERS]}
    return [each for each in held if each.container_id in kept]


def memory(study: Study) -> str:
    """Draw what each container held against its limit, and when something of it waited."""
    panels = [(each, device) for each in shown(study) for device in each.devices.values()]
    times = _Times(study)
    pictures = []
    for first in range(0, len(panels), _PANELS_A_PICTURE):
        some = panels[first : first + _PANELS_A_PICTURE]
        draw = partial(_draw_panels, some, times)
        pictures.append(_svg(draw, "What containers held, against their limits, over time"))
    return "\n".join(pictures)


def _draw_panels(panels: Sequence[tuple[Contained, OnDevice]], times: _Times, figure: Any) -> None:
    figure.set_size_inches(_WIDTH_INCHES, 0.8 + 0.95 * len(panels))
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    handles: dict[str, Any] = {}
    for axis, (contained, device) in zip(axes, panels, strict=True):
        _draw_memory(axis, contained, device, times)
        found, labels = axis.get_legend_handles_labels()
        handles.update(zip(labels, found, strict=True))
    axes[-1].set_xlabel(f"{times.unit} since the beginning of the log")
    axes[-1].set_xlim(0, times.end)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False)


def _draw_memory(axis: Any, contained: Contained, device: OnDevice, times: _Times) -> None:
    top = max([1, *device.limit.values, *device.held.values])
    unit, name = (GIB, "GiB") if top >= GIB else (MIB, "MiB")
    end_ns = contained.stays[-1][1] if contained.stays else 0
    at, values = _steps(device.held, end_ns, times)
    axis.fill_between(at, [v / unit for v in values], step="post", color=_HELD, linewidth=0, label="held (ledger)")
    at, values = _steps(device.limit, end_ns, times)
    axis.step(at, [v / unit for v in values], where="post", color=_INK, linewidth=1.2, label="limit")
    if device.used.at_ns:
        at = [times.of(time_ns) for time_ns in device.used.at_ns]
        values = [v / unit for v in device.used.values]
        axis.plot(at, values, ".", color=_IN_USE, markersize=4, label="in use (snapshots)")
    for number, (begin, end) in enumerate(united(contained.waits)):
        label = None if number else "something waits"
        axis.axvspan(times.of(begin), times.of(end), color=_WAITS, alpha=0.3, linewidth=0, label=label)
    axis.set_ylim(0, top / unit * 1.08)
    where = "" if device.gpu is None else f", GPU {device.gpu}"
    title = f"{contained.name or contained.container_id[:12]}{where}"
    axis.set_title(title, fontsize=9, pad=2)
    axis.set_ylabel(name)


def waiting(study: Study) -> str:
    """Draw how many containers wait, over time."""
    times = _Times(study)
    changes: dict[int, int] = {study.begin_ns: 0, study.end_ns: 0}
    for contained in study.containers.values():
        for begin, end in united(contained.waits):
            changes[begin] = changes.get(begin, 0) + 1
            changes[end] = changes.get(end, 0) - 1
    line, number = Line(), 0
    for at_ns in sorted(changes):
        number += changes[at_ns]
        line.add(at_ns, number)

    def draw(figure: Any) -> None:
        figure.set_size_inches(_WIDTH_INCHES, 2.0)
        axis = figure.subplots()
        at, values = _steps(line, study.end_ns, times)
        axis.fill_between(at, values, step="post", color=_WAITS, linewidth=0)
        axis.set_ylabel("containers")
        axis.set_ylim(0, max(1, *values) * 1.08)
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.set_xlim(0, times.end)
        axis.set_xlabel(f"{times.unit} since the beginning of the log")

    return _svg(draw, "How many containers had something that waited, over time")


def decisions(study: Study) -> str:
    """Draw the decisions over time, by kind."""
    times = _Times(study)
    kinds = [kind for kind in _OF_DECISION if study.decided_ns.get(kind)]

    def draw(figure: Any) -> None:
        figure.set_size_inches(_WIDTH_INCHES, 2.2)
        axis = figure.subplots()
        at = [[times.of(time_ns) for time_ns in study.decided_ns[kind]] for kind in kinds]
        colours = [_OF_DECISION[kind] for kind in kinds]
        axis.hist(at, bins=_BINS, range=(0, times.end), stacked=True, color=colours, label=kinds)
        axis.set_ylabel("decisions")
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.set_xlim(0, times.end)
        axis.set_xlabel(f"{times.unit} since the beginning of the log")
        figure.legend(loc="outside upper center", ncols=len(kinds), frameon=False)

    return _svg(draw, "Decisions over time") if kinds else ""


def waits_and_progress(study: Study) -> str:
    """Draw, a bar a container: how long it waited, and its progress."""
    containers = shown(study)
    names = [each.name or each.container_id[:12] for each in containers]

    def draw(figure: Any) -> None:
        figure.set_size_inches(_WIDTH_INCHES, 0.7 + 0.24 * len(containers))
        left, right = figure.subplots(1, 2, sharey=True)
        places = list(range(len(containers)))
        waited_s = [each.waited_ns / _SECOND_NS for each in containers]
        _bars(left, places, waited_s, [f"{value:.1f} s" for value in waited_s], _WAITS)
        left.set_title("Time in which it waited")
        progress = [each.progress for each in containers]
        labels = ["runs still" if value is None else f"{value:.3f}" for value in progress]
        _bars(right, places, [value or 0 for value in progress], labels, _PROGRESS)
        right.set_title("Progress: the part of its stay in which it did not")
        left.set_yticks(places, names)
        left.invert_yaxis()

    return _svg(draw, "Waiting and progress of each container") if containers else ""


def _bars(axis: Any, places: Sequence[int], values: Sequence[float], labels: Sequence[str], colour: str) -> None:
    bars = axis.barh(places, values, color=colour, height=0.7)
    axis.bar_label(bars, labels, padding=3, fontsize=8)
    axis.set_xlim(0, (max(values, default=0) or 1) * 1.25)
    axis.xaxis.set_visible(False)
    axis.spines.bottom.set_visible(False)


def _steps(line: Line, end_ns: int, times: _Times) -> tuple[list[float], list[float]]:
    """Return a line for drawing, up to `end_ns`; of many points those that are seen: the highest of each stretch."""
    at: Sequence[int] = line.at_ns
    values: Sequence[int] = line.values
    if len(at) > _MOST_POINTS:
        at, values = _thinned(line)
    points = [(time_ns, value) for time_ns, value in zip(at, values, strict=True) if time_ns <= end_ns]
    if points:
        points.append((end_ns, points[-1][1]))
    return [times.of(time_ns) for time_ns, _ in points], [float(value) for _, value in points]


def _thinned(line: Line) -> tuple[Sequence[int], Sequence[int]]:
    """Return the first, the lowest and the highest entry of each stretch of equally many."""
    size = -(-len(line.at_ns) // (_MOST_POINTS // 3))
    kept: set[int] = {len(line.at_ns) - 1}
    for first in range(0, len(line.at_ns), size):
        stretch = range(first, min(first + size, len(line.at_ns)))
        kept |= {first, min(stretch, key=line.values.__getitem__), max(stretch, key=line.values.__getitem__)}
    order = sorted(kept)
    return array("q", [line.at_ns[place] for place in order]), array("q", [line.values[place] for place in order])


def _svg(draw: Callable[[Any], None], meaning: str) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {
        "svg.hashsalt": "convgpu",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.facecolor": "none",
        "axes.edgecolor": _FAINT,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), _INK),
        **dict.fromkeys(("xtick.color", "ytick.color"), _FAINT),
    }
    with mpl.rc_context(style):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "var(--ink)").replace(_FAINT, "var(--faint)")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head = re.sub(r' (?:width|height)="[^"]*"', "", text[: text.index(">") + 1])
    return f'{head[:-1]} role="img" aria-label="{meaning}">{text[text.index(">") + 1 :]}'
