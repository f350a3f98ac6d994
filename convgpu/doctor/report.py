# SPDX-License-Identifier: Apache-2.0
"""The findings as a person reads them."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Final

from convgpu.doctor.finding import Finding

_STATUS_WIDTH: Final = 4
_NARROWEST: Final = 40


def report(findings: Sequence[Finding], width: int | None = None) -> str:
    """Return the report: one finding a paragraph, its fix below it, and a count at the end.

    Args:
        findings: What was found.
        width: Columns; None: those of the terminal, 80 where there is none.
    """
    columns = max(_NARROWEST, width or shutil.get_terminal_size().columns)
    name_width = max((len(finding.name) for finding in findings), default=0)
    lines = [line for finding in findings for line in _paragraph(finding, name_width, columns)]
    counts = Counter(finding.status for finding in findings)
    lines.append("")
    lines.append(", ".join(f"{counts[status]} {status}" for status in ("ok", "warn", "fail", "skip") if counts[status]))
    return "\n".join(lines)


def _paragraph(finding: Finding, name_width: int, columns: int) -> list[str]:
    lead = f"{finding.status:<{_STATUS_WIDTH}}  {finding.name:<{name_width}}  "
    indent = " " * len(lead)
    lines = textwrap.wrap(finding.detail, columns, initial_indent=lead, subsequent_indent=indent) or [lead.rstrip()]
    if finding.fix:
        lines += textwrap.wrap(
            f"fix: {finding.fix}", columns, initial_indent=indent, subsequent_indent=indent + "     "
        )
    return lines
