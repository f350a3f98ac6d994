# SPDX-License-Identifier: Apache-2.0
"""A plot on two logarithmic axes, as an SVG text: curves with markers, and lines to compare their slopes with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH: Final = 760
_HEIGHT: Final = 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 190, 46, 56
_COLOURS: Final = ("#1b6ca8", "#c8553d", "#3a7d44", "#7b4fa3", "#b8860b", "#4a4a4a", "#d1477a", "#2a9d8f")


@dataclass(frozen=True)
class Plot:
    """What is shown.

    Attributes:
        curves: Points by label, (x, y), all above zero.
        guides: Functions of x by label, drawn dashed.
        marks: Values of y by label, drawn dotted across.
    """

    title: str
    x_label: str
    y_label: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    guides: Mapping[str, Callable[[float], float]]
    marks: Mapping[str, float]

    def svg(self) -> str:
        """Draw it."""
        points = [point for curve in self.curves.values() for point in curve]
        xs = [x for x, _ in points]
        ys = [y for _, y in points] + list(self.marks.values())
        x_axis = _Axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
        y_axis = _Axis(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP)
        parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
                f'height="{_HEIGHT}" font-family="sans-serif" font-size="12">'
            ),
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            _text(_LEFT, 24, self.title, size=15),
            _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 14, self.x_label, anchor="middle"),
            f'<g transform="rotate(-90 18 {_HEIGHT / 2:.1f})">',
            _text(18, _HEIGHT / 2, self.y_label, anchor="middle"),
            "</g>",
        ]
        for value in x_axis.ticks():
            parts += [_line(x_axis.at(value), _TOP, x_axis.at(value), _HEIGHT - _BOTTOM, "#e4e4e4")]
            parts += [_text(x_axis.at(value), _HEIGHT - _BOTTOM + 18, f"{value:g}", anchor="middle")]
        for value in y_axis.ticks():
            parts += [_line(_LEFT, y_axis.at(value), _WIDTH - _RIGHT, y_axis.at(value), "#e4e4e4")]
            parts += [_text(_LEFT - 8, y_axis.at(value) + 4, f"{value:g}", anchor="end")]
        for label, value in self.marks.items():
            parts += [_line(_LEFT, y_axis.at(value), _WIDTH - _RIGHT, y_axis.at(value), "#c00", "2 3")]
            parts += [_text(_WIDTH - _RIGHT + 8, y_axis.at(value) + 4, label, colour="#c00")]
        parts += self._guides(x_axis, y_axis)
        for number, (label, curve) in enumerate(self.curves.items()):
            parts += self._curve(number, label, [(x_axis.at(x), y_axis.at(y)) for x, y in curve])
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _guides(self, x_axis: _Axis, y_axis: _Axis) -> list[str]:
        parts: list[str] = []
        steps = [x_axis.low * (x_axis.high / x_axis.low) ** (step / 60) for step in range(61)]
        for label, function in self.guides.items():
            inside = [(x_axis.at(x), y_axis.at(function(x))) for x in steps if y_axis.contains(function(x))]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in inside)
            parts += [
                f'<polyline points="{path}" fill="none" stroke="#888" stroke-width="1.5" stroke-dasharray="6 4"/>'
            ]
            parts += [_text(inside[-1][0] + 8, inside[-1][1] + 4, label, colour="#666")]
        return parts

    def _curve(self, number: int, label: str, places: list[tuple[float, float]]) -> list[str]:
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        legend_y = _TOP + 14 + 18 * number
        return [
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
            *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places),
            _line(_LEFT + 14, legend_y - 4, _LEFT + 34, legend_y - 4, colour),
            _text(_LEFT + 40, legend_y, label),
        ]


class _Axis:
    """One axis: from values to places."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low = low / 1.3
        self.high = high * 1.3
        self._start = start
        self._end = end

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self._start + share * (self._end - self._start)

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high

    def ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [value for decade in decades for value in (10.0**decade, 3 * 10.0**decade) if self.contains(value)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
    )
