# SPDX-License-Identifier: Apache-2.0
"""A progress bar on stderr, for work that takes more than a moment, where stderr is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import click

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

_PATIENCE_S: Final = 1.0


class Progress:
    """Shows how much is done, from the first second on.

    Args:
        label: What is done.
        total: How much there is of it.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._began_s = time.monotonic()
        self._wanted = sys.stderr.isatty()
        self._bar: ProgressBar[int] | None = None
        self._done = 0
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def step(self) -> None:
        """One more is done."""
        self.reach(self._done + 1)

    def reach(self, done: int) -> None:
        """So much of it is done."""
        self._done = done
        if not self._wanted or time.monotonic() - self._began_s < _PATIENCE_S:
            return
        if self._bar is None:
            self._bar = click.progressbar(length=self._total, label=self._label, file=sys.stderr)
            self._bar.render_progress()
        self._bar.update(self._done - self._shown)
        self._shown = self._done
