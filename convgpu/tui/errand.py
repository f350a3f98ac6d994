# SPDX-License-Identifier: Apache-2.0
"""Something that is to be done once, beside the screen: a limit that is set, and what came of it."""

from __future__ import annotations

import threading
from pathlib import Path

from convgpu.api import Client
from convgpu.errors import ConvgpuError
from convgpu.tui import figures
from convgpu.tui.bell import Bell
from convgpu.tui.controls import SetLimit
from convgpu.tui.state import Ask, Prompt


class Errand:
    """Sets a limit in a thread of its own.

    Args:
        path: The control socket.
        wanted: What was confirmed.
        bell: Rings when it is done.

    Attributes:
        outcome: What is to be said of it; None: it is not done yet.
    """

    def __init__(self, path: Path, wanted: SetLimit, bell: Bell) -> None:
        self.outcome: Prompt | None = None
        self._path = path
        self._wanted = wanted
        self._bell = bell
        threading.Thread(target=self._run, name="errand", daemon=True).start()

    def _run(self) -> None:
        try:
            with Client(self._path) as client:
                change = client.limit_set(self._wanted.container_id, self._wanted.new_bytes)
        except ConvgpuError as error:
            step = f" ({error.next_step})" if error.next_step else ""
            self.outcome = Prompt(ask=Ask.FAILED, said=f"{error.message}{step}")
        else:
            old, new = figures.exact(change.old_limit_bytes), figures.exact(change.new_limit_bytes)
            said = f"The limit of {change.name} is {new} now, it was {old}."
            if change.used_bytes > change.new_limit_bytes:
                said += f" It holds {figures.exact(change.used_bytes)}, so it gets nothing more until it is under."
            self.outcome = Prompt(ask=Ask.DONE, said=said)
        self._bell.ring()
