# SPDX-License-Identifier: Apache-2.0
"""Write what is made from the code, in docs/. With --check only tell if it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from reference import (  # found in tools/lib
    audit_records,
    audit_tables,
    dashboard,
    exit_codes,
    listings,
    manual,
    metrics,
)

from convgpu.audit.schema import schema_text

ROOT: Final = Path(__file__).resolve().parents[1]
_DOCS: Final = ROOT / "docs" / "reference"
_MANUAL: Final = ROOT / "docs" / "man"


def wanted() -> dict[Path, str]:
    """Return every file with its text."""
    return {
        _DOCS / "listings.md": listings.page(),
        _DOCS / "exit-codes.md": exit_codes.page(),
        _DOCS / "audit-schema.json": schema_text(),
        _DOCS / "audit-records.md": audit_records.page(),
        _DOCS / "audit-tables.md": audit_tables.page(),
        _DOCS / "metrics.md": metrics.page(),
        ROOT / "docs" / "monitoring" / "grafana-dashboard.json": dashboard.text(),
        **{_MANUAL / name: text for name, text in manual.pages().items()},
    }


def _left_over(files: dict[Path, str]) -> list[Path]:
    """Return the manual pages of commands that are no more."""
    return [path for path in sorted(_MANUAL.glob("*.1")) if path not in files]


def main() -> int:
    files = wanted()
    if sys.argv[1:] != ["--check"]:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for path in _left_over(files):
            path.unlink()
        return 0
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    stale += _left_over(files)
    for path in stale:
        print(f"{path.relative_to(ROOT)} is out of date: run python tools/reference.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
