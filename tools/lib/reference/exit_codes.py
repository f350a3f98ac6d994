# SPDX-License-Identifier: Apache-2.0
"""docs/reference/exit-codes.md: what an exit status says, and what to do next."""

from __future__ import annotations

from convgpu.errors import exit_statuses

_HEAD = """\
# Exit statuses

Made from the tree of errors (`convgpu/errors.py`) by `tools/reference.py`; change that, not this page.

An error is two lines on stderr: `convgpu: ` and what happened, then `next: ` and what to do. The exit status says of
which kind it is. A command line that cannot be understood names the nearest word that can be, and is status 2.

| status | what it says | what usually helps |
|---|---|---|
"""
_TAIL = """
`convgpu run` becomes `docker run`: from then on the status is Docker's. `convgpu doctor` has status 1 if a check
failed, `convgpu sim status` if no simulated GPU runs, `convgpu replay --check` if the engine decides otherwise than
recorded.
"""


def page() -> str:
    """Return the page."""
    rows = [f"| {each.code} | {each.meaning} | {each.next_step or ''} |\n" for each in exit_statuses()]
    return _HEAD + "".join(rows) + _TAIL
