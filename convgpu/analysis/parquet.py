# SPDX-License-Identifier: Apache-2.0
"""Parquet files: the only module that needs pyarrow. Units and meanings of columns are in the files' own metadata."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from convgpu.analysis.columns import ColumnKind, Table
from convgpu.analysis.tables import TABLES
from convgpu.analysis.tidy import Row
from convgpu.errors import EnvironmentMissingError


def require() -> None:
    """Check that Parquet can be written.

    Raises:
        EnvironmentMissingError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise EnvironmentMissingError(
            "Parquet needs the Python package pyarrow, which is not installed",
            next_step="install it: pip install 'convgpu[parquet]'; or take --to csv or --to sqlite",
        )


class ParquetSink:
    """A folder with one file a table."""

    def __init__(self, path: Path) -> None:
        require()
        from pyarrow import parquet

        path.mkdir()
        self._schemas = {name: _schema(table) for name, table in TABLES.items()}
        self._writers = {
            name: parquet.ParquetWriter(path / f"{name}.parquet", schema, compression="zstd")
            for name, schema in self._schemas.items()
        }

    def write(self, table: str, rows: list[Row]) -> None:
        """Take rows of one table."""
        import pyarrow as pa

        schema = self._schemas[table]
        columns = zip(*rows, strict=True)
        arrays = [pa.array(cells, field.type) for cells, field in zip(columns, schema, strict=True)]
        self._writers[table].write_table(pa.Table.from_arrays(arrays, schema=schema))

    def close(self) -> None:
        """All rows are there."""
        for writer in self._writers.values():
            writer.close()


def _schema(table: Table) -> Any:
    import pyarrow as pa

    types: Final[Mapping[ColumnKind, Any]] = {
        ColumnKind.INTEGER: pa.int64(),
        ColumnKind.TEXT: pa.string(),
        ColumnKind.BOOLEAN: pa.bool_(),
    }
    return pa.schema(
        [
            pa.field(column.name, types[column.kind], metadata={"unit": column.unit, "meaning": column.meaning})
            for column in table.columns
        ],
        metadata={"meaning": table.meaning},
    )
