# SPDX-License-Identifier: Apache-2.0
"""docs/reference/audit-tables.md: the tables of `convgpu audit export`."""

from __future__ import annotations

from collections.abc import Iterator

from convgpu.analysis.columns import Column, Table
from convgpu.analysis.tables import TABLES

_HEAD = """\
# Tables of the audit log

Made from the definitions (`convgpu/analysis/tables.py`) by `tools/reference.py`; change those, not this page.

`convgpu audit export` makes them of a log: a folder of CSV files, one SQLite database, or a folder of Parquet files.
One row is one observation. Numbers are integers; times are nanoseconds since 1970 in UTC, as Python's
`time.time_ns()`, sizes bytes. An empty cell (NULL) is *not known* or *not the case*, never 0. Rows come in the order of
the log, those that last (containers, processes, suspensions, findings) when they are over.

With `--pseudonyms KEYFILE`, what the last column names is replaced by a pseudonym of that kind, the same in every table
and in every export with the same key. *word* is kept if it is one word, such as `limit`, and left out if it is a
sentence; *text* is left out.
"""


def page() -> str:
    """Return the page."""
    lines = [_HEAD, "| table | a row is |", "|---|---|"]
    lines += [f"| [`{table.name}`](#{table.name}) | {table.meaning} |" for table in TABLES.values()]
    for table in TABLES.values():
        lines += ["", *_section(table)]
    return "\n".join([*lines, ""])


def _section(table: Table) -> Iterator[str]:
    yield f"## {table.name}"
    yield ""
    yield f"{table.meaning}."
    yield ""
    yield "| column | kind | unit | meaning | with pseudonyms |"
    yield "|---|---|---|---|---|"
    for column in table.columns:
        yield _row(column)


def _row(column: Column) -> str:
    return f"| `{column.name}` | {column.kind} | {column.unit} | {column.meaning} | {column.hidden or ''} |"
