# SPDX-License-Identifier: Apache-2.0
"""docs/reference/audit-records.md: the data dictionary of the audit log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from convgpu.audit.fields import COMMON_FIELDS, EVENT_FIELDS, Field
from convgpu.audit.records import RECORD_TYPES

_HEAD = """\
# Records of the audit log

Made from the definitions (`convgpu/audit/fields.py`, `convgpu/audit/records.py`) by `tools/reference.py`; change those,
not this page. The same as JSON Schema: [audit-schema.json](audit-schema.json), `convgpu audit schema`.

The set of types is closed. Sizes are bytes, durations nanoseconds, both always integers; null is *not known*, never 0.
A type marked *durable* is brought to the disk at once, others within 200 ms. [audit.md](../audit.md) says how records
become a log.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *_types(), "", *_common(), "", *_fields(), ""])


def _types() -> Iterator[str]:
    yield "## Types\n"
    yield "| type | what it says | always has | may have | durable |"
    yield "|---|---|---|---|---|"
    for each in RECORD_TYPES.values():
        always, more = (", ".join(f"`{name}`" for name in sorted(names)) for names in (each.required, each.optional))
        yield f"| `{each.name}` | {each.meaning} | {always} | {more} | {'durable' if each.durable else ''} |"


def _common() -> Iterator[str]:
    yield "## Fields of every record\n"
    yield from _table(COMMON_FIELDS)


def _fields() -> Iterator[str]:
    yield "## Fields of single types\n"
    yield from _table(EVENT_FIELDS)


def _table(fields: Mapping[str, Field]) -> Iterator[str]:
    yield "| field | kind | meaning |"
    yield "|---|---|---|"
    for name, field in fields.items():
        yield _row(name, field)
        for part, inner in field.parts.items():
            yield _row(f"{name}.{part}", inner)


def _row(name: str, field: Field) -> str:
    return f"| `{name}` | {field.kind}{' or null' if field.nullable else ''} | {field.meaning.replace('|', '&#124;')} |"
