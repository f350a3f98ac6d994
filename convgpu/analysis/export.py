# SPDX-License-Identifier: Apache-2.0
"""Exports a log as tables: a folder of CSV or Parquet files, or one SQLite database.

What is written can be thrown away and made again: the log is the source of truth. An export appears under its name when
it is whole; one that is stopped leaves nothing there.
"""

from __future__ import annotations

import csv
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from convgpu.analysis.columns import Column, ColumnKind, Hidden, Value
from convgpu.analysis.pseudonyms import Pseudonyms
from convgpu.analysis.tables import TABLES
from convgpu.analysis.tidy import Row, Tidy
from convgpu.errors import AuditError, UsageError

CSV: Final = "csv"
SQLITE: Final = "sqlite"
PARQUET: Final = "parquet"
FORMATS: Final = (CSV, SQLITE, PARQUET)

_ROWS_AT_A_TIME: Final = 20_000
_WORD: Final = re.compile(r"[a-z][a-z_.]*")


class Sink(Protocol):
    """Takes rows of all tables; `path` is there when it is closed."""

    def write(self, table: str, rows: list[Row]) -> None:
        """Take rows of one table."""
        ...

    def close(self) -> None:
        """All rows are there."""
        ...


class CsvSink:
    """A folder with one file a table: UTF-8, a line of names, empty cells for what is not known, true and false."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self._files = {name: (path / f"{name}.csv").open("w", encoding="utf-8", newline="") for name in TABLES}
        self._writers = {name: csv.writer(file, lineterminator="\n") for name, file in self._files.items()}
        for name, table in TABLES.items():
            self._writers[name].writerow([column.name for column in table.columns])

    def write(self, table: str, rows: list[Row]) -> None:
        """Take rows of one table."""
        self._writers[table].writerows([_csv_cell(value) for value in row] for row in rows)

    def close(self) -> None:
        """All rows are there."""
        for file in self._files.values():
            file.close()


def _csv_cell(value: Value) -> Value:
    return str(value).lower() if isinstance(value, bool) else value


class SqliteSink:
    """One database with one table a table."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA journal_mode = OFF")  # a half export is thrown away, not repaired
        self._database.execute("PRAGMA synchronous = OFF")
        for name, table in TABLES.items():
            columns = ", ".join(f"{column.name} {_SQL_TYPES[column.kind]}" for column in table.columns)
            self._database.execute(f"CREATE TABLE {name} ({columns})")

    def write(self, table: str, rows: list[Row]) -> None:
        """Take rows of one table."""
        places = ", ".join("?" * len(TABLES[table].columns))
        self._database.executemany(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608  # names of ours

    def close(self) -> None:
        """All rows are there."""
        for name, table in TABLES.items():
            for column in ("seq", "container_id"):
                if any(each.name == column for each in table.columns):
                    self._database.execute(f"CREATE INDEX {name}_{column} ON {name} ({column})")
        self._database.commit()
        self._database.close()


_SQL_TYPES: Final[Mapping[ColumnKind, str]] = {
    ColumnKind.INTEGER: "INTEGER",
    ColumnKind.TEXT: "TEXT",
    ColumnKind.BOOLEAN: "BOOLEAN",
}


def _parquet_sink(path: Path) -> Sink:
    from convgpu.analysis.parquet import ParquetSink  # pyarrow is an extra

    return ParquetSink(path)


_SINKS: Final[Mapping[str, Callable[[Path], Sink]]] = {CSV: CsvSink, SQLITE: SqliteSink, PARQUET: _parquet_sink}


def rows_of(records: Iterable[Mapping[str, Any]], pseudonyms: Pseudonyms | None = None) -> Iterator[tuple[str, Row]]:
    """Return the rows of a log, each with the name of its table.

    Args:
        records: Oldest first.
        pseudonyms: Names are replaced by these, and texts left out.
    """
    tidy = Tidy()
    for record in records:
        for table, row in tidy.take(record):
            yield table, row if pseudonyms is None else _hidden(table, row, pseudonyms)
    for table, row in tidy.finish():
        yield table, row if pseudonyms is None else _hidden(table, row, pseudonyms)


def _hidden(table: str, row: Row, pseudonyms: Pseudonyms) -> Row:
    pairs = zip(TABLES[table].columns, row, strict=True)
    return tuple(value if column.hidden is None else _instead(column, value, pseudonyms) for column, value in pairs)


def _instead(column: Column, value: Value, pseudonyms: Pseudonyms) -> Value:
    if value is None or column.hidden is None or column.hidden is Hidden.TEXT:
        return None
    if column.hidden is Hidden.WORD:
        return value if _WORD.fullmatch(str(value)) else None
    return pseudonyms.of(column.hidden, str(value))


def export(
    records: Iterable[Mapping[str, Any]], path: Path, to: str, pseudonyms: Pseudonyms | None = None
) -> dict[str, int]:
    """Write the tables of a log.

    Args:
        records: Oldest first.
        path: The folder or file; it must not be there yet.
        to: One of `FORMATS`.
        pseudonyms: Names are replaced by these, and texts left out.

    Returns:
        How many rows each table has.

    Raises:
        UsageError: `path` is there already.
        AuditError: It cannot be written.
        EnvironmentMissingError: Parquet is asked for, and pyarrow is not installed.
    """
    if path.exists():
        raise UsageError(f"{path} is there already: give another name, or remove it")
    unfinished = path.with_name(path.name + ".part")
    _remove(unfinished)
    counts = dict.fromkeys(TABLES, 0)
    try:
        sink = _SINKS[to](unfinished)
        try:
            for table, rows in _gathered(rows_of(records, pseudonyms)):
                sink.write(table, rows)
                counts[table] += len(rows)
        finally:
            sink.close()
        unfinished.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise AuditError(f"cannot write {path}: {error}") from error
    finally:
        _remove(unfinished)
    return counts


def _gathered(rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, list[Row]]]:
    """Return the rows of one table many at a time."""
    waiting: dict[str, list[Row]] = {name: [] for name in TABLES}
    for table, row in rows:
        waiting[table].append(row)
        if len(waiting[table]) >= _ROWS_AT_A_TIME:
            yield table, waiting[table]
            waiting[table] = []
    for table, left in waiting.items():
        if left:
            yield table, left


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
